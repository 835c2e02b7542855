"""Table 1: twenty binary data sets, five learners; `command` is the command line, `recipes` what trees try."""
