"""`netdoctor run` on scripts that train: what is found, what is kept, and that the training goes as without."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from netdoctor import History
from netdoctor.reopening import reopen
from tests.processes import ROOT, Done, environment, netdoctor, run

# Sick or sound by its first argument; ends as the second one says; prints a number that tells of every weight.
TRAIN = """
    import argparse
    import os
    import sys
    import time

    assert "torch" not in sys.modules
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch
    import torch.nn.functional as F
    from torch import nn

    parser = argparse.ArgumentParser()
    parser.add_argument("std", type=float)
    parser.add_argument("--end", default="")
    parser.add_argument("--every", type=int, default=64)  # a name that netdoctor has, too
    given = parser.parse_args()
    assert torch.get_num_threads() == 1


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(6))
            self.head = nn.Linear(64, 10)
            for layer in self.layers:
                nn.init.normal_(layer.weight, std=given.std)

        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x))
            return self.head(x)


    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise LookupError("in backward")


    def main():
        torch.manual_seed(0)
        x = torch.randn(512, 64)
        y = (x @ torch.randn(64, 10)).argmax(1)
        model = Net()
        with torch.no_grad():
            model(x)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(30):
            batch = torch.randint(0, 512, (given.every,))
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            if given.end == "in backward" and step == 20:
                loss = Failing.apply(loss)
            loss.backward()
            optimizer.step()
        print(sum(p.double().sum().item() for p in model.parameters()), flush=True)
        if given.end == "wait":
            time.sleep(60)
        if given.end == "exit":
            sys.exit(5)
        if given.end == "fail":
            raise RuntimeError("the program's own fault")


    main()
"""
SICK, SOUND = "0.01", "0.2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAIN))
    return tmp_path


def script(folder: Path, source: str, name: str = "train.py") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import torch\ntorch.set_num_threads(1)\ntorch.manual_seed(0)\n" + textwrap.dedent(source))


def found_in(path: Path) -> list[str]:
    return [finding.rule for finding in reopen(History.load(path)).findings]


def plain(folder: Path, *arguments: str) -> Done:
    """Without netdoctor."""
    return run(sys.executable, "train.py", *arguments, cwd=folder)


def test_a_sick_training(folder: Path) -> None:
    options = ("--save", "run.npz", "--every", "1", "--fail-on", "warning")
    done = netdoctor("run", *options, "train.py", SICK, cwd=folder)
    assert done.returncode == 3
    assert done.stdout == plain(folder, SICK).stdout  # bit by bit
    assert done.stderr.count("netdoctor  Watching Net (25,610 parameters).") == 1
    assert "netdoctor  step 1  ERROR  poor-initialization  layers.0 … head" in done.stderr
    assert "monitor." not in done.stderr  # the program has none
    assert f"netdoctor  Saved {folder / 'run.npz'}\n" in done.stderr
    history = History.load(folder / "run.npz")
    assert (history.facts.model, history.step, len(history.table("update_ratio"))) == ("Net", 30, 30)
    assert found_in(folder / "run.npz") == ["poor-initialization"]
    report = netdoctor("report", "run.npz", cwd=folder)
    assert (report.returncode, report.stderr) == (0, "")
    block = done.stderr[done.stderr.index("netdoctor  step 1") : done.stderr.index("netdoctor  Saved")]
    assert report.stdout == block


def test_a_sound_training(folder: Path) -> None:
    done = netdoctor("run", "--fail-on", "note", "train.py", SOUND, "--every", "32", cwd=folder)
    assert (done.returncode, done.stdout) == (0, plain(folder, SOUND, "--every", "32").stdout)
    assert "netdoctor  Nothing found. 30 steps watched" in done.stderr
    assert list(folder.iterdir()) == [folder / "train.py"]


def test_a_rule_that_is_ignored(folder: Path) -> None:
    options = ("--ignore", "poor-initialization", "--ignore", "vanishing-gradient", "--save", "run.npz")
    done = netdoctor("run", *options, "--fail-on", "warning", "train.py", SICK, cwd=folder)
    assert done.returncode == 0
    assert "poor-initialization" not in done.stderr
    assert "poor-initialization" not in netdoctor("report", "run.npz", cwd=folder).stdout


@pytest.mark.parametrize(("end", "status"), [("exit", 5), ("fail", 1), ("in backward", 1)])
def test_a_program_that_fails(folder: Path, end: str, status: int) -> None:
    done = netdoctor("run", "--save", "run.npz", "--fail-on", "note", "train.py", SICK, "--end", end, cwd=folder)
    without = plain(folder, SICK, "--end", end)
    assert (done.returncode, done.stdout) == (without.returncode, without.stdout) == (status, without.stdout)
    assert without.stderr in done.stderr  # the traceback, without a frame of netdoctor
    assert found_in(folder / "run.npz") == ["poor-initialization"]


def interrupted(folder: Path, sent: signal.Signals, *command: str) -> tuple[int, str]:
    """Exit status and stderr of a program that waits, and gets a signal."""
    with subprocess.Popen(
        [sys.executable, *command, "train.py", SICK, "--end", "wait"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(sent)
        _, error = process.communicate(timeout=60)
    return process.returncode, error


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_interrupted(folder: Path, sent: signal.Signals) -> None:
    status, error = interrupted(folder, sent, "-m", "netdoctor", "run", "--save", "run.npz")
    assert status == interrupted(folder, sent)[0]
    assert error.count("Traceback") == error.count("\nKeyboardInterrupt\n") == (sent == signal.SIGINT)
    if sent == signal.SIGINT:
        assert found_in(folder / "run.npz") == ["poor-initialization"]


def test_both_models_of_a_gan(folder: Path) -> None:
    source = """
        from torch import nn
        class Generator(nn.Sequential): pass
        class Critic(nn.Sequential): pass
        generator = Generator(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
        critic = Critic(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        nn.init.constant_(critic[0].weight, 0.3), nn.init.constant_(critic[2].weight, 0.3)
        nn.init.zeros_(critic[0].bias)
        of_generator, of_critic = (torch.optim.Adam(m.parameters(), 1e-3) for m in (generator, critic))
        loss = nn.BCEWithLogitsLoss()
        for step in range(30):
            fake = generator(torch.randn(64, 8))
            of_critic.zero_grad()
            real = loss(critic(torch.randn(64, 2)), torch.ones(64, 1))
            (real + loss(critic(fake.detach()), torch.zeros(64, 1))).backward()
            of_critic.step()
            of_generator.zero_grad()
            loss(critic(fake), torch.ones(64, 1)).backward()
            of_generator.step()
    """
    script(folder, source)
    done = netdoctor("run", "--save", "run.npz", "train.py", cwd=folder)
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if line.startswith("netdoctor")]
    assert said[:2] == [
        "netdoctor  Watching Generator (354 parameters).",
        "netdoctor  Watching Critic (129 parameters).",
    ]
    assert any(re.match(r"netdoctor  Critic  step \d+  ERROR  symmetric-initialization", line) for line in said)
    assert any(re.match(r"netdoctor  Generator  .*30 steps watched", line) for line in said)
    assert History.load(folder / "run.npz").facts.model == "Generator"
    assert "symmetric-initialization" in found_in(folder / "run-Critic.npz")


def test_a_script_that_watches_by_itself(folder: Path) -> None:
    source = """
        from torch import nn
        import netdoctor
        def main():
            net, aside = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), nn.Linear(4, 2)
            nn.init.constant_(net[0].weight, 0.3), nn.init.constant_(net[2].weight, 0.3)
            nn.init.zeros_(net[0].bias)
            monitor = netdoctor.watch(net, reporters=[])
            optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (net, aside)]
            for step in range(30):
                (net(torch.randn(32, 4)) + aside(torch.randn(32, 4)) - 1).square().mean().backward()
                [o.step() for o in optimizers], [o.zero_grad() for o in optimizers]
            print(monitor.step)
        main()
    """
    script(folder, source)
    done = netdoctor("run", "--save", "run.npz", "--fail-on", "warning", "train.py", cwd=folder)
    assert (done.stdout, done.returncode) == ("30\n", 3)
    assert done.stderr == f"netdoctor  Saved {folder / 'run.npz'}\n"
    assert "symmetric-initialization" in found_in(folder / "run.npz")


def test_workers_of_a_data_loader(folder: Path) -> None:
    source = """
        import sys
        from torch import nn
        from torch.utils.data import DataLoader
        from .data import Noise

        class Numbered(Noise):
            def __getitem__(self, index):
                return torch.tensor([float("netdoctor" in sys.modules)]), super().__getitem__(index)

        def main():
            loader = DataLoader(Numbered(), batch_size=32, num_workers=2, multiprocessing_context="spawn")
            net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
            watched = 0.0
            for in_worker, x in loader:
                net(x).square().mean().backward()
                optimizer.step(), optimizer.zero_grad()
                watched += in_worker.sum().item()
            print("batches", len(loader), "watched in workers", watched)

        if __name__ == "__main__":
            main()
    """
    script(folder, source, "lab/train.py")
    noise = "class Noise(torch.utils.data.Dataset):\n    def __len__(self): return 96\n"
    script(folder, noise + "    def __getitem__(self, index): return torch.randn(4)", "lab/data.py")
    done = netdoctor("run", "-m", "lab.train", cwd=folder)
    assert (done.stdout, done.returncode) == ("batches 3 watched in workers 0.0\n", 0), done.stderr
    assert "3 steps watched" in done.stderr
    assert done.stderr.count("netdoctor  Watching") == 1


def test_an_optimizer_of_another_instance(folder: Path) -> None:
    source = """
        from torch import nn
        make = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        net, other = make(), make()
        optimizer = torch.optim.SGD(other.parameters(), 0.1)
        for step in range(60):
            (net(torch.randn(32, 4)) - 1).square().mean().backward()
            optimizer.step(), optimizer.zero_grad()
    """
    script(folder, source)
    done = netdoctor("run", "--fail-on", "error", "train.py", cwd=folder)
    assert "weights-not-updated" in done.stderr
    assert done.returncode == 3


def test_nothing_to_watch(folder: Path) -> None:
    script(folder, "net = torch.nn.Linear(4, 2)\nprint(net(torch.ones(4)).shape)\nnet(torch.ones(4)).sum().backward()")
    done = netdoctor("run", "--save", "run.npz", "--fail-on", "note", "train.py", cwd=folder)
    assert (done.stdout, done.returncode) == ("torch.Size([2])\n", 0)
    assert done.stderr == "netdoctor  Nothing was watched: no optimizer made a step in this process.\n"
    assert not (folder / "run.npz").exists()


def test_of_many_ranks_only_the_first_is_watched(folder: Path) -> None:
    done = netdoctor("run", "--save", "run.npz", "train.py", SICK, cwd=folder, RANK="1")
    assert (done.stdout, done.stderr, done.returncode) == (plain(folder, SICK).stdout, "", 0)
    assert not (folder / "run.npz").exists()


def test_a_run_file_that_cannot_be_written(folder: Path) -> None:
    (folder / "runs").mkdir()
    source = textwrap.dedent(TRAIN).replace("    print(sum", "    __import__('shutil').rmtree('runs')\n    print(sum")
    (folder / "train.py").write_text(source)
    done = netdoctor("run", "--save", "runs/run.npz", "train.py", SICK, cwd=folder)
    assert done.returncode == 0
    (kept,) = folder.glob("netdoctor-*.npz")
    assert "the reporter RunFile" in done.stderr
    assert f"netdoctor report {kept}" in done.stderr
    assert found_in(kept) == ["poor-initialization"]


def test_the_commands_of_the_readme(folder: Path) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Without a change to the script")[1]
    commands = re.findall(r"^netdoctor (.+)$", section.split("```")[1], re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["run", "run", "report"]
    source = """
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        optimizer = torch.optim.Adam(net.parameters())
        for step in range(10):
            net(torch.randn(32, 4)).square().mean().backward()
            optimizer.step(), optimizer.zero_grad()
    """
    script(folder, source)
    script(folder, source, "lab/train.py")
    for command in commands:
        done = netdoctor(*command.split(), cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "Nothing found. 10 steps watched" in done.stdout + done.stderr


@pytest.mark.skipif(find_spec("jinja2") is None or find_spec("netdoctor.reporters.html") is None, reason="no HTML")
def test_a_page(folder: Path) -> None:
    done = netdoctor("run", "--save", "run.npz", "--report", "run.html", "train.py", SICK, cwd=folder)
    assert f"Saved {folder / 'run.npz'}, {folder / 'run.html'}\n" in done.stderr
    again = netdoctor("report", "run.npz", "-o", "again.html", cwd=folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    for name in ("run.html", "again.html"):
        assert "poor-initialization" in (folder / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_under_torchrun(folder: Path) -> None:
    """As the README says it."""
    command = ["--standalone", "--nproc-per-node=2", "-m", "netdoctor", "run", "--save", "run.npz", "train.py", SICK]
    done = run(sys.executable, "-m", "torch.distributed.run", *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1
    assert done.stderr.count("netdoctor  Watching") == 1
    assert found_in(folder / "run.npz") == ["poor-initialization"]
