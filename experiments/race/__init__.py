"""The race of einet and its rivals, on a CPU (`efficiency`) and on a GPU (`gpu`), and what bounds it."""
