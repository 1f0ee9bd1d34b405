"""``python -m benchmarks [--runs 5] [--tiny] [--out FILE] [ROW …]``; see `harness/command.py`."""

import sys

from benchmarks.harness.command import main

if __name__ == "__main__":
    sys.exit(main())
