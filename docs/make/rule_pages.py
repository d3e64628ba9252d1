"""The page of each rule, made of the rule itself while mkdocs builds the site: nothing to keep up to date by hand.

What a page shows of a real run, `docs/make/pictures.py` has recorded in ``docs/rules/pictures``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

from netdoctor.findings import Evidence, Remedy
from netdoctor.rules import ALL
from netdoctor.rules.base import Rule

PICTURES = Path(__file__).parents[1] / "rules" / "pictures"
REMEDIES = 5  # shown at most: the first ones are the best


def on_config(config: Any) -> Any:
    """Add the pages to the navigation; mkdocs calls this."""
    pages = [f"rules/{rule.slug}.md" for rule in sorted_rules()]
    config.nav.insert(2, {"Rules": ["rules/index.md", *pages]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site; mkdocs calls this."""
    from mkdocs.structure.files import File

    runs = recorded()
    files.append(File.generated(config, "rules/index.md", content=index()))
    for rule in ALL:
        content = page(rule, runs.get(rule.slug))
        files.append(File.generated(config, f"rules/{rule.slug}.md", content=content))
    return files


def recorded() -> dict[str, dict[str, Any]]:
    """The run that each picture shows, by slug."""
    runs: dict[str, dict[str, Any]] = json.loads((PICTURES / "runs.json").read_text(encoding="utf-8"))
    return runs


def index() -> str:
    """The catalogue."""
    rows = [f"| [{rule.slug}]({rule.slug}.md) | {rule.severity.name} | {rule.summary} |" for rule in sorted_rules()]
    return "\n".join(
        (
            "# Rules",
            "",
            "What netdoctor recognises. `netdoctor explain SLUG` shows a page in the terminal.",
            "",
            "| rule | severity | disease |",
            "|---|---|---|",
            *rows,
            "",
        )
    )


def page(rule: Rule, run: dict[str, Any] | None) -> str:
    """The page of one rule in Markdown; ``run`` is what its picture shows."""
    text, _, references = rule.documentation.partition("## References\n")
    summary, _, body = text.partition("\n")
    parts = [f"# {rule.slug}", f"**{rule.severity.name}** · {summary}"]
    parts += _picture(rule, run) if run is not None else []
    parts += [body.strip(), "## What cures it", *_remedies(rule)]
    causes = [other.slug for other in sorted_rules() if rule.slug in other.explains]
    if causes:
        parts += ["## What may cause it", _links(causes)]
    if rule.explains:
        parts += ["## What it causes", f"{_links(rule.explains)}. They are listed under this finding as symptoms."]
    parts += _thresholds(rule)
    parts += ["## How to silence it", f'`netdoctor.watch(model, ignore=["{rule.slug}"])`']
    parts += ["## References", references.strip()]
    return "\n\n".join(parts) + "\n"


def sorted_rules() -> list[Rule]:
    """The rules by name."""
    return sorted(ALL, key=lambda rule: rule.slug)


def _picture(rule: Rule, run: dict[str, Any]) -> list[str]:
    case = run["case"].replace("-", " ")
    told = run["beside"]
    beside = f" Beside the loss: {told[:1].lower()}{told[1:]}" if told else ""
    return [
        "## In a real run",
        f"![Training with the fault and without it](pictures/{rule.slug}.svg)",
        f'The case "{case}" of the clinic, with its fault and without it.{beside}',
        f"At step {run['step']}, the dotted line, netdoctor says:",
        f"> {escaped(run['message'])}",
    ]


def _remedies(rule: Rule) -> list[str]:
    module = importlib.import_module(rule.judge.__module__)
    kinds: dict[str, Remedy] = {}
    for history in module.fires():
        for evidence in rule(history):
            for remedy in evidence.remedies if isinstance(evidence, Evidence) else ():
                kinds.setdefault(re.sub(r"[^A-Za-z ]", "", remedy.action)[:30], remedy)
    parts = ["Each finding has the remedies for its own model, the best first. Some of those of the rule's tests:"]
    for remedy in list(kinds.values())[:REMEDIES]:
        by_call = " `remedy.apply(model, optimizer)` does it." if remedy.applicable else ""
        source = f" *{escaped(remedy.source)}.*" if remedy.source else ""
        parts.append(f"**{escaped(remedy.action)}.**{by_call}{source}")
        if remedy.code:
            parts.append(f"```python\n{remedy.code}\n```")
    return parts


def _thresholds(rule: Rule) -> list[str]:
    source = inspect.getsource(rule.judge).splitlines()
    rows = []
    for name, parameter in inspect.signature(rule.judge).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            line = next(line for line in source if re.match(rf"    {name}: ", line))
            reason = re.sub(r"  # noqa.*", "", line.partition("  # ")[2])
            rows.append(f"| `{name}` | {parameter.default} | {escaped(reason)} |")
    if not rows:
        return []
    name = rule.judge.__name__
    change = f"from netdoctor.rules.{name} import {name}"
    return [
        "## Thresholds",
        "\n".join(("| name | value | what it is |", "|---|---|---|", *rows)),
        f"After `{change}`, `{name}.tuned(...)` is the rule with other thresholds, for `watch(model, rules=[...])`.",
    ]


def _links(slugs: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"[{slug}]({slug}.md)" for slug in slugs)


def escaped(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_<>|\[\]#])", r"\\\1", text)
