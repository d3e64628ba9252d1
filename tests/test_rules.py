"""The catalogue keeps its conventions: names, pages, thresholds, cases, remedies, imports."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import netdoctor
from netdoctor.diagnose import diagnose
from netdoctor.facts import Facts, Layer, Parameter
from netdoctor.findings import Evidence, Severity, Skipped
from netdoctor.history import History
from netdoctor.rules import ALL
from netdoctor.statistics import STATISTICS

PACKAGE = Path(netdoctor.__file__).parent
HEADINGS = ("## What it looks at", "## Why it matters", "## When it is wrong", "## References")
WITH_TORCH = {"arguments", "batches", "best_checkpoint", "copies", "demo", "discovery", "examination", "layer_graph",
              "lr_finder", "monitor", "recorder", "recording", "rehearsal", "resuming", "session", "statistics",
              "stretches", "structure", "trials"}  # fmt: skip
DEPENDENCIES = {"netdoctor", "torch", "numpy", "rich"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
EACH_RULE = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.slug)
EACH_SOURCE = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


def module_of(rule):
    return importlib.import_module(f"netdoctor.rules.{rule.slug.replace('-', '_')}")


def answers(rule, history):
    given = rule(history)
    assert all(isinstance(each, (Evidence, Skipped)) for each in given)
    return [each for each in given if isinstance(each, Evidence)]


def histories(rule):
    module = module_of(rule)
    return [*module.fires(), *module.quiet()]


def unreadable() -> History:
    """Every statistic, and nothing but NaN in them."""
    layers = tuple(
        Layer(f"fc{i}", "linear", "Linear", "", 8, 8, 8, "relu", (f"fc{i - 1}",) if i else (), called=True)
        for i in range(8)
    )
    weights = tuple(Parameter(f"{layer.name}.weight", layer.name, (8, 8), "weight", group=0) for layer in layers)
    columns = {
        "layer": [layer.name for layer in layers],
        "parameter": [weight.name for weight in weights],
        "group": ["0"],
        "run": [""],
    }
    history = History(Facts(layers=layers, parameters=weights))
    for step in range(1, 40):
        for statistic in STATISTICS.values():
            names = columns[statistic.site]
            history.record(step, statistic.name, [float("nan")] * len(names), names)
    return history


def test_every_rule_file_is_in_the_catalogue():
    files = {path.stem for path in (PACKAGE / "rules").glob("*.py")} - {"__init__", "base"}
    assert files == {rule.slug.replace("-", "_") for rule in ALL}


def test_slugs_are_unique():
    slugs = [rule.slug for rule in ALL]
    assert len(set(slugs)) == len(slugs)


@EACH_RULE
def test_the_slug_is_kebab_case_and_the_files_name(rule):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.slug)
    assert vars(module_of(rule))[rule.slug.replace("-", "_")] is rule


@EACH_RULE
def test_the_page_has_its_headings_in_order(rule):
    assert re.fullmatch(r"[^\n]+\.", rule.summary), "the first line is one sentence"
    found = [line for line in rule.documentation.splitlines() if line.startswith("## ")]
    assert tuple(found) == HEADINGS


@EACH_RULE
def test_thresholds_are_keywords_with_a_type_a_default_and_a_reason(rule):
    history, *thresholds = inspect.signature(rule.judge).parameters.values()
    assert history.name == "history"
    source = inspect.getsource(rule.judge).splitlines()
    for threshold in thresholds:
        assert threshold.kind is threshold.KEYWORD_ONLY
        assert threshold.default is not threshold.empty
        (line,) = [line for line in source if re.match(rf"    {threshold.name}: ", line)]
        assert re.search(r",  # \S", line), f"{threshold.name} lacks its unit and reason on its line"


@EACH_RULE
def test_causes_stand_above_what_they_explain(rule):
    place = {each.slug: index for index, each in enumerate(ALL)}
    assert set(rule.explains) <= set(place)
    assert all(place[slug] > place[rule.slug] for slug in rule.explains)


@EACH_RULE
def test_it_fires_and_stays_quiet_on_its_own_cases(rule):
    module = module_of(rule)
    assert module.fires()
    assert len(module.quiet()) >= 2
    for index, history in enumerate(module.fires()):
        assert answers(rule, history), f"fires()[{index}] gives no evidence"
    for index, history in enumerate(module.quiet()):
        loud = [each for each in answers(rule, history) if (each.severity or rule.severity) > Severity.NOTE]
        assert not loud, f"quiet()[{index}] gives a warning"


@EACH_RULE
def test_evidence_is_complete_and_its_code_parses(rule):
    for history in module_of(rule).fires():
        layers = {layer.name for layer in history.facts.layers} | {p.layer for p in history.facts.parameters}
        for found in answers(rule, history):
            assert found.message.strip()
            assert found.readings
            assert 0 < found.confidence <= 1
            assert not layers or set(found.layers) <= layers
            assert found.remedies
            for remedy in found.remedies:
                assert remedy.action
                ast.parse(remedy.code)


@EACH_RULE
def test_nothing_measured_and_nothing_readable_are_no_disease(rule):
    for history in (History(), History(unreadable().facts)):
        assert not answers(rule, history)
    assert not answers(rule, unreadable()) or rule.slug == "non-finite"  # the only one to judge what is no number


@EACH_RULE
def test_no_rule_fails_on_the_cases_of_another(rule):
    for other in ALL:
        for history in histories(other):
            rule(history)


@EACH_RULE
def test_a_rule_does_not_change_the_history(rule):
    for history in histories(rule):
        before = History(history.facts)
        before._tables = dict(history._tables)
        first = rule(history)
        assert history == before
        assert rule(history) == first


def test_the_diagnosis_of_every_case_fails_nowhere():
    for rule in ALL:
        for history in histories(rule):
            skipped = diagnose(history).skipped
            assert not [each for each in skipped if each.reason.startswith("failed")]


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@EACH_SOURCE
def test_only_the_declared_dependencies_are_imported(path):
    tops = {name.partition(".")[0] for name in imports(path)}
    extra = {"sklearn"} if path.name == "demo.py" else set()  # its data: the extra "examples"
    assert tops - set(sys.stdlib_module_names) <= DEPENDENCIES | extra


@EACH_SOURCE
def test_torch_stays_in_its_files(path):
    place = path.relative_to(PACKAGE)
    if place.parts[0] not in ("probes", "remedies") and place.stem not in WITH_TORCH:
        assert not [name for name in imports(path) if inside(name, "torch")]


@EACH_SOURCE
def test_data_flows_one_way(path):
    place = path.relative_to(PACKAGE)
    used = imports(path)
    if place.parts[0] == "rules":
        beyond = ("netdoctor.probes", "netdoctor.monitor", "netdoctor.recorder", "netdoctor.reporters", "netdoctor.cli")
        assert not [name for name in used if inside(name, *beyond)]
        others = [n for n in used if inside(n, "netdoctor.rules") and not inside(n, "netdoctor.rules.base")]
        assert not others or place.name == "__init__.py"
    if place.parts[0] in ("probes", "reporters", "statistics.py", "history.py", "facts.py"):
        assert not [name for name in used if inside(name, "netdoctor.monitor", "netdoctor.diagnose")]
    if place.parts[0] == "probes":
        assert not [name for name in used if inside(name, "netdoctor.rules", "netdoctor.reporters")]
    if place.name == "findings.py":
        allowed = ("netdoctor.notebook", "netdoctor.treatment", "netdoctor.remedies.procedure")  # what applies a remedy
        assert not [name for name in used if inside(name, "netdoctor") and not inside(name, *allowed)]
    if place.name == "treatment.py":
        assert not [name for name in used if inside(name, "netdoctor")]
    if place.name == "notebook.py":  # it is handed findings, and needs them for its types only
        assert not [name for name in used if inside(name, "netdoctor") and not inside(name, "netdoctor.findings")]


def test_the_readme_lists_every_rule() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    assert [rule.slug for rule in ALL if readme.count(f"| `{rule.slug}` |") != 1] == []
