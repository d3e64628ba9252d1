"""Being called before a W&B run finishes, which W&B offers its own integrations only."""

from __future__ import annotations

from collections.abc import Callable

import wandb


def before_finish(run: wandb.Run, call: Callable[[], None]) -> bool:
    """Have something called when ``run`` begins to finish; whether this W&B lets us."""
    try:
        from wandb.sdk.wandb_run import TeardownHook, TeardownStage
    except ImportError:
        return False
    hooks = getattr(run, "_teardown_hooks", None)
    if not isinstance(hooks, list):
        return False
    hooks.append(TeardownHook(call, TeardownStage.EARLY))
    return True
