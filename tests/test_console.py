"""What a user sees in the terminal, in a log file, and around a progress bar."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from netdoctor.findings import Diagnosis, Finding, Remedy, Severity, Skipped
from netdoctor.history import History
from netdoctor.reporters import Change, Report
from netdoctor.reporters.console import CODE, Console

ROOT = Path(__file__).parents[1]
XAVIER = Remedy(
    "Initialise with Xavier",
    "for layer in model.layers: nn.init.xavier_normal_(layer.weight)",
    treatment=print,  # anything that can be pickled
)
POOR = Finding(
    "poor-initialization",
    Severity.WARNING,
    1,
    "Activations shrink to 0.64× per layer: std 0.64 → 0.07 over 6 layers. Weight std is 0.0100; "
    "0.0156 keeps the variance (linear, fan-in 4096). Gradients of layers.0 are 9× below those of layers.5.",
    tuple(f"layers.{index}" for index in range(6)),
    remedies=(XAVIER,),
)
DEAD = Finding("dead-units", Severity.ERROR, 12, "97 % of the units of fc1 are silent.", ("fc1",))
PLATEAU = Finding("loss-plateau", Severity.NOTE, 80, "The loss fell by 0.002 in 500 steps; its noise is 0.02.")
BLOCK = """\
netdoctor  step 1  WARNING  poor-initialization  layers.0 … layers.5
  Activations shrink to 0.64× per layer: std 0.64 → 0.07 over 6 layers. Weight
  std is 0.0100; 0.0156 keeps the variance (linear, fan-in 4096). Gradients of
  layers.0 are 9× below those of layers.5.
  Remedy  Initialise with Xavier
  Code    for layer in model.layers: nn.init.xavier_normal_(layer.weight)
  Apply   monitor.findings[0].remedies[0].apply(model, optimizer)
  More    netdoctor explain poor-initialization
"""
TOO_EARLY = (
    Skipped("too early", "overfitting"),
    Skipped("too early", "dead-units"),
    Skipped("no loss", "not-learning"),
)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def news(*findings: Finding, kind: str = "raised", step: int = 100) -> Report:
    changes = tuple(Change(kind, finding, number) for number, finding in enumerate(findings, 1))  # type: ignore[arg-type]
    return Report(Diagnosis(step, findings), changes, findings, (), History(), 0.004, 1.3)


def ended(*findings: Finding, resolved: tuple[Finding, ...] = (), skipped: tuple[Skipped, ...] = ()) -> Report:
    return Report(Diagnosis(1500, findings, skipped), (), findings, resolved, History(), 0.004, 1.3)


def shown(report: Report, width: int = 80, close: bool = False) -> str:
    file = io.StringIO()
    console = Console(file, width)
    (console.close if close else console.report)(report)
    return file.getvalue()


def trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


class TestBlocks:
    def test_the_example_of_the_design(self) -> None:
        assert shown(news(POOR)) == BLOCK

    def test_symptoms_stand_on_one_line(self) -> None:
        text = shown(news(replace(POOR, symptoms=(DEAD, replace(DEAD, rule="not-learning")))))
        assert text.splitlines()[4:] == [
            "  Remedy    Initialise with Xavier",
            "  Code      for layer in model.layers: nn.init.xavier_normal_(layer.weight)",
            "  Apply     monitor.findings[0].remedies[0].apply(model, optimizer)",
            "  Symptoms  dead-units, not-learning",
            "  More      netdoctor explain poor-initialization",
        ]

    def test_without_code_the_remedy_is_the_action(self) -> None:
        text = shown(news(replace(DEAD, remedies=(Remedy("Lower the learning rate tenfold"),))))
        assert text == (
            "netdoctor  step 12  ERROR  dead-units  fc1\n"
            "  97 % of the units of fc1 are silent.\n"
            "  Remedy  Lower the learning rate tenfold\n"
            "  More    netdoctor explain dead-units\n"
        )

    def test_without_remedy(self) -> None:
        assert shown(news(DEAD)).splitlines()[2:] == ["  More  netdoctor explain dead-units"]

    def test_lines_of_code_stand_under_each_other(self) -> None:
        code = 'for group in optimizer.param_groups:\n    group["lr"] *= 0.1\n'
        text = shown(news(replace(DEAD, remedies=(Remedy("Lower", code),))))
        assert '  Code    for group in optimizer.param_groups:\n              group["lr"] *= 0.1\n  More' in text

    @pytest.mark.parametrize("width", [40, 80])
    def test_a_long_line_of_code_is_never_broken(self, width: int) -> None:
        code = f"model = build({', '.join(f'layer{index}=nn.Linear(512, 512)' for index in range(10))})"
        assert f"  Code    {code}\n" in shown(news(replace(DEAD, remedies=(Remedy("Build", code),))), width)

    def test_code_that_would_bury_the_finding_is_pointed_at(self) -> None:
        code = "\n".join(f"line_{index}()" for index in range(CODE + 1))
        lines = shown(news(POOR, replace(DEAD, remedies=(Remedy("Rebuild the head", code),)))).splitlines()
        assert lines[-3:-1] == ["  Remedy  Rebuild the head", "  Code    print(monitor.findings[1].remedies[0].code)"]

    @pytest.mark.parametrize(
        ("layers", "said"),
        [
            ((), "dead-units"),
            (("",), "dead-units  the model"),
            (("a", "b"), "dead-units  a, b"),
            (("a", "b", "c"), "dead-units  a … c"),
            (tuple(f"l{index}" for index in range(200)), "dead-units  l0 … l199 (200 layers)"),
        ],
    )
    def test_layers_are_named_in_a_few_words(self, layers: tuple[str, ...], said: str) -> None:
        assert shown(news(replace(DEAD, layers=layers))).splitlines()[0].endswith(said)

    def test_a_note_is_compact(self) -> None:
        assert shown(news(replace(PLATEAU, remedies=(XAVIER,)))) == (
            "netdoctor  step 80  NOTE  loss-plateau  The loss fell by 0.002 in 500 steps;\n  its noise is 0.02.\n"
        )

    def test_a_worse_finding_tells_both_steps(self) -> None:
        head = shown(news(DEAD, kind="worsened")).splitlines()[0]
        assert head == "netdoctor  step 100  ERROR  dead-units  fc1  (raised at step 12)"

    def test_a_finding_that_is_gone_is_one_line(self) -> None:
        assert shown(news(DEAD, kind="resolved")) == "netdoctor  step 100  resolved  dead-units  (raised at step 12)\n"

    def test_a_report_without_news_is_silent(self) -> None:
        assert shown(news()) == ""


class TestSummary:
    def test_of_a_run_with_findings(self) -> None:
        text = shown(ended(POOR, DEAD, PLATEAU, resolved=(POOR,), skipped=TOO_EARLY), close=True)
        assert trimmed(text) == (
            "netdoctor  3 findings. 1,500 steps watched; cost 1.3 s, 0.4% of the time.\n"
            "Severity  Step  Rule                 Layers               State\n"
            "WARNING      1  poor-initialization  layers.0 … layers.5  resolved\n"
            "ERROR       12  dead-units           fc1                  active\n"
            "NOTE        80  loss-plateau                              active\n"
            "3 rules could not judge: too early (2), no loss (1).\n"
        )

    def test_a_finding_that_another_explains_is_not_called_resolved(self) -> None:
        cause = replace(POOR, symptoms=(DEAD,))
        report = Report(Diagnosis(9, (cause,)), (), (DEAD, cause), (DEAD,), History(), 0.0, 0.0)
        assert re.search(r"dead-units .* symptom", shown(report, close=True))

    def test_where_nothing_was_found_the_skipped_rules_are_named(self) -> None:
        text = shown(ended(skipped=TOO_EARLY), close=True)
        assert " ".join(text.split()) == (
            "netdoctor Nothing found. 1,500 steps watched; cost 1.3 s, 0.4% of the time. "
            "3 rules could not judge: too early (2), no loss (1)."
        )
        assert "healthy" not in text

    def test_where_nothing_was_found_and_every_rule_judged(self) -> None:
        line = "netdoctor  Nothing found. 1,500 steps watched; cost 1.3 s, 0.4% of the time.\n"
        assert shown(ended(), close=True) == line

    def test_a_run_without_steps_has_no_verdict(self) -> None:
        text = shown(news(step=0), close=True)
        assert text == "netdoctor  No optimizer step was seen: no verdict.\n"

    def test_many_reasons_are_cut(self) -> None:
        skipped = tuple(Skipped(f"reason {index} " + "x" * 200, f"rule-{index}") for index in range(20))
        text = " ".join(shown(ended(skipped=skipped), close=True).split())
        assert "20 rules could not judge" in text
        assert "other reasons (17)." in text
        assert len(text) < 500

    def test_what_could_not_be_watched_is_no_rule(self) -> None:
        report = ended(skipped=(Skipped("the loss failed: KeyError: 'x'"),))
        text = " ".join(shown(report, close=True).split())
        assert "the loss failed: KeyError: 'x'." in text
        assert "could not judge" not in text

    def test_last_news_come_before_the_summary(self) -> None:
        text = shown(news(POOR), close=True)
        assert text.startswith(BLOCK + "netdoctor  1 finding. 100 steps watched")


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("width", [40, 80])
class TestNarrow:
    def test_no_line_is_wider_than_the_page(self, width: int, close: bool) -> None:
        long = replace(DEAD, layers=("backbone.stage4.blocks.11.attention.projection_" + "x" * 60,))
        report = ended(POOR, long, PLATEAU, skipped=TOO_EARLY) if close else news(POOR, long, PLATEAU)
        verbatim = ("Apply", "Code", "More")
        for line in shown(report, width, close).splitlines():
            assert cell_len(line) <= width or line.split()[0] in verbatim

    def test_the_columns_of_the_environment_are_kept(
        self, width: int, close: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        file = io.StringIO()
        console = Console(file)
        report = ended(POOR) if close else news(POOR)
        (console.close if close else console.report)(report)
        assert file.getvalue() == shown(report, width, close)


def test_a_wide_terminal_is_not_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = io.StringIO()
    Console(file).report(news(POOR))
    assert file.getvalue() == BLOCK


class TestText:
    @pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", "[link=http://a]b", ":smile:", "\\[bold]", "{x}%s"])
    def test_names_that_look_like_markup_are_shown_as_they_are(self, name: str) -> None:
        finding = replace(
            POOR, layers=(name,), message=f"The units of {name} died.", remedies=(Remedy(f"Mind {name}"),)
        )
        text = shown(news(finding))
        assert f"poor-initialization  {name}\n  The units of {name} died.\n  Remedy  Mind {name}\n" in text
        assert f"  {name}  " in shown(ended(finding), close=True)

    @given(st.text(max_size=30))
    def test_no_text_moves_the_cursor(self, text: str) -> None:
        code = (Remedy(text, f"x{text}"), Remedy(text))
        for remedy in code:
            finding = replace(POOR, layers=(text,), message=text, rule=f"r{text}", remedies=(remedy,))
            skipped = (Skipped(text, "rule"),)
            for out in (shown(news(finding)), shown(ended(finding, skipped=skipped), close=True)):
                assert all(char.isprintable() or char == "\n" for char in out)

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
    def test_every_encoding_can_be_written(self, encoding: str) -> None:
        raw = io.BytesIO()
        console = Console(io.TextIOWrapper(raw, encoding=encoding))
        finding = replace(POOR, layers=("слой", "b", "層"), remedies=(Remedy("", "# … ≥ 2"),))
        console.report(news(finding))
        console.close(ended(finding))
        assert "layers" in raw.getvalue().decode(encoding)

    def test_ascii_says_the_same(self) -> None:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding="ascii")
        Console(file).report(news(POOR))
        lines = raw.getvalue().decode("ascii").splitlines()
        assert lines[0] == "netdoctor  step 1  WARNING  poor-initialization  layers.0 ... layers.5"
        assert lines[1].startswith("  Activations shrink to 0.64x per layer: std 0.64 -> 0.07 over 6 layers.")
        assert max(map(len, lines)) <= 80


class Teletype(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestStyle:
    @pytest.fixture(autouse=True)
    def colourful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")

    def written(self, file: io.StringIO) -> str:
        console = Console(file, 80)
        console.report(news(POOR))
        console.close(ended(POOR))
        return file.getvalue()

    def test_a_terminal_gets_colours(self) -> None:
        assert "\x1b[1;33mWARNING\x1b[0m" in self.written(Teletype())

    def test_a_file_gets_no_escape_bytes(self) -> None:
        assert "\x1b" not in self.written(io.StringIO())

    def test_a_dumb_terminal_gets_no_escape_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        assert "\x1b" not in self.written(Teletype())

    def test_no_color_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        text = self.written(Teletype())
        assert not re.search(r"\x1b\[[\d;]*\b[349]\d", text)

    def test_colour_can_be_forced(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert "\x1b[1;33mWARNING" in self.written(io.StringIO())

    def test_without_its_escape_bytes_a_terminal_shows_the_same(self) -> None:
        assert re.sub(r"\x1b\[[\d;]*m", "", self.written(Teletype())) == self.written(io.StringIO())


class TestStream:
    def test_the_standard_error_of_the_moment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        console = Console(width=80)
        for _ in range(2):
            stream = io.StringIO()
            monkeypatch.setattr(sys, "stderr", stream)
            console.report(news(POOR))
            assert stream.getvalue() == BLOCK

    def test_pytest_captures_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console(width=80).report(news(POOR))
        assert capsys.readouterr() == ("", BLOCK)

    def test_without_a_standard_error_nothing_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        Console().report(news(POOR))

    def test_a_closed_stream_is_the_monitors_to_handle(self) -> None:
        stream = io.StringIO()
        stream.close()
        with pytest.raises(ValueError, match="closed"):
            Console(stream).report(news(POOR))


def screen(body: str, columns: int = 80) -> list[str]:
    """What stands in a terminal of 60 rows after a program ran in it: ``report()`` prints the example."""
    program = f"""
        import io, pickle, sys, time
        from netdoctor.findings import Diagnosis
        from netdoctor.reporters import Change, Report
        from netdoctor.reporters.console import Console
        found = pickle.loads({pickle.dumps(POOR)!r})

        def report(console=Console()):
            console.report(Report(Diagnosis(1, (found,)), (Change("raised", found, 1),), (found,), (), None, 0.0, 0.0))
        """
    source = textwrap.dedent(program) + textwrap.dedent(body)
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 65536):
            output += chunk
    except OSError:  # the end of a pseudo-terminal
        pass
    os.close(master)
    assert process.wait(30) == 0, output.decode()
    terminal = pyte.Screen(columns, 60)
    pyte.ByteStream(terminal).feed(output)
    return trimmed("\n".join(terminal.display)).rstrip("\n").split("\n")


BARS = {
    "tqdm": """
        from tqdm import tqdm
        for i in tqdm(range(5), mininterval=0, desc="epoch"):
            if i == 2:
                report()
        """,
    "tqdm.auto on the standard output": """
        from tqdm.auto import tqdm
        for i in tqdm(range(5), mininterval=0, desc="epoch", file=sys.stdout):
            if i == 2:
                report()
        """,
    "two bars of tqdm": """
        from tqdm import tqdm
        for i in tqdm(range(5), mininterval=0, desc="epoch"):
            for j in tqdm(range(3), mininterval=0, desc="batch", leave=False):
                if (i, j) == (2, 1):
                    report()
        """,
    "rich.progress": """
        from rich.progress import track
        for i in track(range(5), "epoch"):
            time.sleep(0.05)
            if i == 2:
                report()
        """,
    "rich.progress with its own console": """
        import rich.console, rich.progress
        console = rich.console.Console(stderr=True)
        with rich.progress.Progress(console=console) as progress:
            task = progress.add_task("epoch", total=5)
            for i in range(5):
                progress.update(task, advance=1, refresh=True)
                if i == 2:
                    report()
        """,
    "rich.progress that leaves the streams alone": """
        import rich.console, rich.progress
        console = rich.console.Console(stderr=True)
        with rich.progress.Progress(console=console, redirect_stdout=False, redirect_stderr=False) as progress:
            task = progress.add_task("epoch", total=5)
            for i in range(5):
                progress.update(task, advance=1, refresh=True)
                if i == 2:
                    report()
        """,
    "rich.progress without its thread": """
        import rich.console, rich.progress
        with rich.progress.Progress(console=rich.console.Console(), auto_refresh=False) as progress:
            task = progress.add_task("epoch", total=5)
            for i in range(5):
                progress.update(task, advance=1, refresh=True)
                if i == 2:
                    report()
        """,
}


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
class TestTerminal:
    @pytest.mark.parametrize("bar", BARS.values(), ids=BARS.keys())
    def test_a_block_stands_above_a_whole_bar(self, bar: str) -> None:
        *block, bar_line = screen(bar)
        assert block == BLOCK.splitlines()
        assert re.match(r"epoch.*100%", bar_line)

    def test_a_bar_that_goes_on_in_a_narrow_terminal(self) -> None:
        lines = screen(BARS["tqdm"], columns=50)
        assert sum("%" in line for line in lines) == 1
        assert re.match(r"epoch: 100%", lines[-1])
        assert lines[:2] == ["netdoctor  step 1  WARNING  poor-initialization", "  layers.0 … layers.5"]

    def test_without_a_bar(self) -> None:
        assert screen("report()") == BLOCK.splitlines()

    def test_after_the_bar(self) -> None:
        after = "from tqdm import tqdm\nlist(tqdm(range(3), desc='epoch'))\nreport()"
        bar_line, *block = screen(after)
        assert block == BLOCK.splitlines()
        assert re.match(r"epoch: 100%", bar_line)

    def test_a_log_file_is_not_diverted_to_the_bar(self) -> None:
        body = """
            from rich.progress import track
            sys.stderr = log = io.StringIO()
            for i in track(range(5), "epoch"):
                report()
                break
            print(log.getvalue().count("netdoctor explain"))
            """
        assert screen(body)[-1] == "1"
