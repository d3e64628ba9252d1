"""Records what the examples of the guide print: ``python -m docs.make.outputs [NAME ...]``.

The text of ``examples/guide/NAME.py`` goes to ``docs/guide/output/NAME.txt``, where the page takes it from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "guide"
OUTPUT = ROOT / "docs" / "guide" / "output"


def printed(name: str) -> str:
    """What an example prints, without what the summary says of its cost: that is another one each time.

    Raises:
        CalledProcessError: The example failed; its output is in ``stdout``.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}
    program = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, encoding="utf-8"
    )
    return re.sub(r"; cost.*?(?=\n\n|\Z)", "; …", done.stdout, flags=re.DOTALL).strip() + "\n"


def main() -> None:
    """Run the examples named on the command line, or all."""
    OUTPUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or sorted(path.stem for path in EXAMPLES.glob("*.py")):
        print(name, flush=True)
        (OUTPUT / f"{name}.txt").write_text(printed(name), encoding="utf-8")


if __name__ == "__main__":
    main()
