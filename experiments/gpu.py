"""The race on a GPU: the command line of experiments/race/gpu.py."""

import sys

from experiments.race.gpu import main

if __name__ == "__main__":
    sys.exit(main())
