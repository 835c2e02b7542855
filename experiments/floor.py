"""The floor under the race: the command line of experiments/race/floor.py."""

import sys

from experiments.race.floor import main

if __name__ == "__main__":
    sys.exit(main())
