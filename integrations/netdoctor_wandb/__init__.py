"""Shows in Weights & Biases what netdoctor sees: `netdoctor.watch(model, reporters=["console", "wandb"])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netdoctor_wandb.reporter import WandbReporter

if TYPE_CHECKING:
    from netdoctor_wandb.workspace import build_workspace, create_workspace

__all__ = ["WandbReporter", "build_workspace", "create_workspace"]


def __getattr__(name: str) -> Any:
    """The workspace needs wandb-workspaces, the reporter does not."""
    if name in ("build_workspace", "create_workspace"):
        from netdoctor_wandb import workspace

        return getattr(workspace, name)
    raise AttributeError(f"module 'netdoctor_wandb' has no attribute {name!r}")
