"""Section 4.2: mixtures of EiNets on images. `command` is the command line, `recipes` what is trained."""
