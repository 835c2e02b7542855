"""Real tables: the scikit-learn face of einet beside what people use otherwise.

command      the command line: what is measured, piece by piece
sources      the tables, from packages that ship them
cells        splits, hidden cells, kinds and steps of columns
baselines    densities of reals: Gaussian mixture, kernels, Gaussian copula
columnwise   the best model of each column by itself
learners     einet's estimators, by their defaults, and their log-densities in the measure of the baselines
density, imputation, classes, synthetic, timing     the five parts
report       the records as tables, with verdicts
"""
