"""Trains a digits classifier twice: sick, and cured as the finding's first remedy says.

    python examples/digits.py

`netdoctor demo` runs the same program; it stands in ``netdoctor/demo.py``.
"""

import sys

from netdoctor.demo import main

if __name__ == "__main__":
    sys.exit(main())
