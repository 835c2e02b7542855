"""Table 1: twenty binary data sets, three learners. `command` is the command line, `search` what is tried."""
