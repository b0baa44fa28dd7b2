"""``python -m opscope``: the command line."""

import sys

from opscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
