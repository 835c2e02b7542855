"""Table 1: the command line of experiments/debd/command.py."""

import sys

from experiments.debd.command import main

if __name__ == "__main__":
    sys.exit(main())
