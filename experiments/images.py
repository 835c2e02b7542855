"""Mixtures on images: the command line of experiments/images/command.py."""

import sys

from experiments.images.command import main

if __name__ == "__main__":
    sys.exit(main())
