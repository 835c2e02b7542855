"""Real tables against strong baselines: the command line of experiments/tables/command.py."""

import sys

from experiments.tables.command import main

if __name__ == "__main__":
    sys.exit(main())
