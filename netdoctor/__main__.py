"""``python -m netdoctor`` is the command `netdoctor`."""

import sys

from netdoctor.cli import main

if __name__ == "__main__":
    sys.exit(main())
