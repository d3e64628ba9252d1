"""`netdoctor run` runs a program exactly as Python does; these programs import no torch, so netdoctor adds one line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from tests.processes import Done, environment, netdoctor, run

NOTHING = "netdoctor  Nothing was watched: torch was not imported.\n"
RUNPY = re.compile(
    r'  File "<frozen runpy>", line \d+, in \w+\n(    .*\n)*|  File "[^"]*runpy.py", line \d+, in \w+\n(    .*\n)*'
)

WHO_AM_I = """
    import __main__, os, sys

    print(sys.argv, sys.path[0], os.getcwd(), __name__, __file__, __package__, type(__loader__).__name__)
    print(__spec__ and (__spec__.name, __spec__.origin), __cached__, __doc__, __builtins__)
    print(__main__.__dict__ is globals(), sorted(set(globals()) - {"__annotations__"}))
    print(input())
"""
ENDINGS = {
    "normal": "print('done')",
    "exit 0": "raise SystemExit(0)",
    "exit none": "import sys; sys.exit()",
    "exit 5": "import sys; sys.exit(5)",
    "exit text": "import sys; sys.exit('it was no use')",
    "os._exit": "import os; print('gone', flush=True); os._exit(7)",
    "exception": "def f():\n    return 1 / 0\nf()",
    "chain": "try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('é') from e",
    "context": "try:\n    {}['x']\nexcept KeyError:\n    [].pop()",
    "group": "def f():\n    raise ExceptionGroup('two', [ValueError(1), TypeError(2)])\nf()",
    "syntax": "x = (1,\ny = 2",
    "interrupt": "print('on', flush=True)\nraise KeyboardInterrupt",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "interrupted": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)",
    "atexit": "import atexit\n@atexit.register\ndef late():\n    print('late', __name__, value)\nvalue = 3\n1 / 0",
    "excepthook": "import sys\nsys.excepthook = lambda kind, error, tb: print('hook', kind, tb.tb_lineno)\n1 / 0",
    "generator": "raise GeneratorExit",
    "no source": "exec(compile('1 / 0', 'nowhere', 'exec'))",
    "thread": "import threading\nthreading.Timer(0.1, lambda: print('later')).start()\nprint('sooner')",
    "pool": "from concurrent.futures import ThreadPoolExecutor as Pool\npool = Pool(2)\npool.submit(print, 'in pool')",
    "last": "import atexit, sys\natexit.register(lambda: print(sys.last_type, sys.last_traceback.tb_lineno))\n\n1 / 0",
}


def write(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return path


def assert_same(command: list[str], cwd: Path, **options: str) -> Done:
    """The same output, traceback and status with netdoctor and without."""
    plain = run(sys.executable, *command, cwd=cwd, **options)
    watched = netdoctor("run", *command, cwd=cwd, **options)
    assert watched.stdout == plain.stdout
    assert watched.stderr.replace(NOTHING, "") == RUNPY.sub("", plain.stderr)
    assert watched.returncode == plain.returncode
    return watched


@pytest.mark.parametrize("ending", ENDINGS)
def test_ends_as_without(ending: str, tmp_path: Path) -> None:
    if ending == "group" and sys.version_info < (3, 11):
        pytest.skip("no exception groups")
    write(tmp_path, "train.py", ENDINGS[ending])
    done = assert_same(["train.py"], tmp_path)
    assert (NOTHING in done.stderr) == (ending not in ("os._exit", "killed"))


@pytest.mark.parametrize("name", ["train.py", "sub/train.py", "train", "with space.py"])
def test_a_script_sees_what_it_would_see(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, WHO_AM_I)
    assert_same([name, "--every", "3", "-m", "x", "--", "--help"], tmp_path, input="typed\n")


def test_an_absolute_path_and_a_link(tmp_path: Path) -> None:
    real = write(tmp_path, "real/train.py", "import beside, sys\nprint(beside.x, sys.path[0], __file__, sys.argv)")
    write(tmp_path, "real/beside.py", "x = 1")
    (tmp_path / "link.py").symlink_to(real)
    assert_same([str(real)], tmp_path)
    assert_same(["link.py"], tmp_path)


def test_a_module_sees_what_it_would_see(tmp_path: Path) -> None:
    write(tmp_path, "lab/__init__.py", "print('package', __import__('sys').argv)")
    write(tmp_path, "lab/data.py", "rows = 7")
    write(tmp_path, "lab/train.py", "from .data import rows\nprint(rows)\n" + textwrap.dedent(WHO_AM_I))
    write(tmp_path, "lab/__main__.py", "from . import data\nprint('main', data.rows)\n" + textwrap.dedent(WHO_AM_I))
    assert_same(["-m", "lab.train", "--every", "3"], tmp_path, input="typed\n")
    assert_same(["-m", "lab", "-m", "x"], tmp_path, input="typed\n")
    write(tmp_path, "alone.py", WHO_AM_I)
    assert_same(["-m", "alone"], tmp_path, input="typed\n")


def test_failing_modules(tmp_path: Path) -> None:
    write(tmp_path, "lab/__init__.py", "")
    write(tmp_path, "lab/train.py", "def f():\n    1 / 0\nf()")
    write(tmp_path, "lab/broken.py", "import missing_altogether")
    assert_same(["-m", "lab.train"], tmp_path)
    assert_same(["-m", "lab.broken"], tmp_path)
    write(tmp_path, "sick/__init__.py", "1 / 0")
    done = netdoctor("run", "-m", "sick.train", cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_folders_and_archives(tmp_path: Path) -> None:
    main = write(tmp_path, "lab/__main__.py", "import beside\n" + textwrap.dedent(WHO_AM_I))
    beside = write(tmp_path, "lab/beside.py", "")
    with zipfile.ZipFile(tmp_path / "lab.zip", "w") as archive:
        archive.write(main, "__main__.py")
        archive.write(beside, "beside.py")
    assert_same(["lab", "a"], tmp_path, input="typed\n")
    assert_same(["lab.zip", "a"], tmp_path, input="typed\n")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["missing.py"], "can't open file '{}/missing.py': No such file or directory"),
        (["-m", "missing"], "No module named missing"),
        (["-m", "missing.train"], "No module named missing.train"),
        (["-m", "empty"], "No module named empty.__main__; 'empty' is a package and cannot be directly executed"),
        (["empty"], "can't find '__main__' module in 'empty'"),
        (["-m", "sys"], "No code object available for sys"),
    ],
)
def test_what_is_no_program(command: list[str], why: str, tmp_path: Path) -> None:
    write(tmp_path, "empty/__init__.py", "")
    done = netdoctor("run", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"netdoctor: {why.format(tmp_path)}\n"


def test_nothing_is_imported_before_the_program_does(tmp_path: Path) -> None:
    """What a program sets before it imports torch has to have its effect."""
    write(
        tmp_path, "train.py", "import sys\nprint([m for m in ('torch', 'numpy', 'scipy', 'rich') if m in sys.modules])"
    )
    done = netdoctor(
        "run", "--save", "run.npz", "--ignore", "dead-units", "--fail-on", "note", "train.py", cwd=tmp_path
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", NOTHING, 0)
    assert not (tmp_path / "run.npz").exists()


def test_a_class_of_the_script_can_be_pickled(tmp_path: Path) -> None:
    source = """
        import atexit, pickle

        class Point:
            x = 3

        @atexit.register
        def later():
            print(pickle.loads(pickle.dumps(Point())).x)

        print(pickle.loads(pickle.dumps(Point)) is Point)
    """
    write(tmp_path, "train.py", source)
    assert assert_same(["train.py"], tmp_path).stdout == "True\n3\n"


SPAWNING = """
    import multiprocessing, sys

    class Job:
        def __init__(self, number):
            self.number = number

    def work(job):
        return job.number + 1, __name__, sys.argv, "netdoctor" in sys.modules

    if __name__ == "__main__":
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            print(pool.map(work, [Job(1), Job(2)]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("command", [["train.py"], ["-m", "lab.train"]], ids=["script", "module"])
def test_children_find_the_main_module(method: str, command: list[str], tmp_path: Path) -> None:
    write(tmp_path, "train.py", SPAWNING)
    write(tmp_path, "lab/train.py", SPAWNING)
    done = run(sys.executable, *command, method, cwd=tmp_path)
    watched = netdoctor("run", *command, method, cwd=tmp_path)
    expected = done.stdout.replace("False)", "True)") if method == "fork" else done.stdout
    assert (watched.stdout, watched.returncode) == (expected, 0)


def test_a_forked_child_tells_nothing(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "import os\nif os.fork():\n    os.wait()\nelse:\n    print('child', flush=True)")
    assert assert_same(["train.py"], tmp_path).stderr.count(NOTHING) == 1


def test_control_c(tmp_path: Path) -> None:
    source = "import time\ntry:\n    print('on', flush=True)\n    time.sleep(60)\nfinally:\n    print('cleaned up')"
    write(tmp_path, "train.py", source)
    ends = []
    for prefix in ([], ["-m", "netdoctor", "run"]):
        command = [sys.executable, *prefix, "train.py"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.5)  # until it sleeps
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
            ends.append((out, error.replace(NOTHING, ""), process.returncode))
    assert ends[0] == ends[1]
    assert ends[0][2] == -signal.SIGINT
    shell = f"{sys.executable} -m netdoctor run train.py & sleep 2; kill -INT $!; wait $!; echo $?"
    write(
        tmp_path,
        "train.py",
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ntime.sleep(60)",
    )
    assert run("bash", "-c", shell, cwd=tmp_path).stdout == "130\n"


def test_warnings_are_shown_for_the_script(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "import warnings\nwarnings.warn('old', DeprecationWarning)")
    done = netdoctor("run", "train.py", cwd=tmp_path)
    assert f"{tmp_path / 'train.py'}:2: DeprecationWarning: old" in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no safe path")
def test_safe_path_is_respected(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "import sys\nprint(sys.path)")
    plain = run(sys.executable, "-P", "train.py", cwd=tmp_path)
    assert run(sys.executable, "-P", "-m", "netdoctor", "run", "train.py", cwd=tmp_path).stdout == plain.stdout
