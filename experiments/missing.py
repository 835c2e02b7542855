"""What 30 % missing entries cost a classifier: integrated out, and filled with the means of their columns.

    python experiments/missing.py

Source: not in the paper; marginals as in Section 2
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold

from einet.tables import EinetClassifier

SHARE, FOLDS, MASKS = 0.3, 5, 4


def accuracies(X: np.ndarray, y: np.ndarray, **arguments) -> tuple[float, float, float]:
    """Mean accuracy over the folds: on complete rows, on rows with gaps, and on the same rows filled with means."""
    found = []
    for fold, (train, test) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(X, y)):
        classifier = EinetClassifier(random_state=0, **arguments).fit(X[train], y[train])
        imputer = SimpleImputer().fit(X[train])
        for mask in range(MASKS):
            gone = np.random.RandomState(FOLDS * mask + fold).rand(*X[test].shape) < SHARE
            gaps = np.where(gone, np.nan, X[test])
            found.append([classifier.score(rows, y[test]) for rows in (X[test], gaps, imputer.transform(gaps))])
    return tuple(np.mean(found, 0))


def main() -> None:
    torch.set_num_threads(1)  # small models: two threads would wait for each other
    print(f"{'data set':15s} {'complete':>10s} {'integrated out':>15s} {'mean imputed':>14s}")
    for name, load in {"breast_cancer": load_breast_cancer, "wine": load_wine}.items():
        complete, marginal, imputed = accuracies(*load(return_X_y=True))
        print(f"{name:15s} {complete:10.3f} {marginal:15.3f} {imputed:14.3f}")


if __name__ == "__main__":
    main()
