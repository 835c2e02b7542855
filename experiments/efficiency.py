"""The race on a CPU: the command line of experiments/race/efficiency.py."""

import sys

from experiments.race.efficiency import main

if __name__ == "__main__":
    sys.exit(main())
