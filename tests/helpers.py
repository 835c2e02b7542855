"""What several test files do, and the small models that they do it with."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from oracle import expected_statistics

from einet import EM, Einet, Mixture, Normal, RegionGraph, random_binary_trees
from einet.storage.archive import read

TREES = random_binary_trees(6, 2, 2, seed=0)

# One layer holds {0,1,2} with three partitions, {3,4,5} with two and {6,7} with one.
COUNTS = RegionGraph(
    [{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}]  # 0 to 6
    + [{3}, {4}, {5}, {3, 4}, {4, 5}, {3, 4, 5}]  # 7 to 12
    + [{6}, {7}, {6, 7}, {0, 1, 2, 3, 4, 5}, range(8)],  # 13 to 17
    [(6, 0, 5), (6, 1, 4), (6, 2, 3), (3, 0, 1), (4, 0, 2), (5, 1, 2)]
    + [(12, 7, 11), (12, 10, 9), (10, 7, 8), (11, 8, 9), (15, 13, 14), (16, 6, 12), (17, 16, 15)],
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# Models


def network(leaf=Normal(max_variance=2.0), graph=TREES, **sizes):
    """A small network; its family has a setting that is not the default, so that whoever forgets it is found out."""
    return Einet(graph, leaf, **{"num_sums": 3, "seed": 0, **sizes})


def mixture(weights, **arguments):
    """A mixture of such networks, each from a seed of its own."""
    return Mixture([network(seed=seed, **arguments) for seed in range(len(weights))], weights)


def each_of(families):
    """A test with the argument `family`, for each of them."""
    return pytest.mark.parametrize("family", families, ids=lambda family: type(family).__name__)


# Training by hand


def log_likelihood(model, x, observed=None, labels=None):
    log_density = model(x, observed)
    return (log_density if labels is None else log_density.gather(1, labels[:, None])).sum()


def em_step(model, x, observed=None, labels=None, **arguments):
    """One step in place, from fresh gradients; returns the model."""
    model.zero_grad()
    log_likelihood(model, x, observed, labels).backward()
    EM(model, **arguments).step()
    return model


# Comparisons


def statistics_of(model):
    """E[T(x)] of every leaf entry, by part."""
    return [torch.tensor(expected_statistics(p.family, p.phi.detach().numpy())) for p in model.leaves.parts]


def same(one, other):
    """Whether two models have the same parameters, bit by bit."""
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def assert_same(one, other, **tolerance):
    other = other.state_dict()
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other[name], **tolerance)


# Runs that are killed


def kill_in_the_middle(command, until, first=lambda pid: None):
    """Start, wait, look, and send SIGKILL; what the look has seen."""
    process, deadline = subprocess.Popen(command), time.monotonic() + 100
    try:
        while not until():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.005)
        seen = first(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    return seen


def epochs_in(path):
    """In a file that may be replaced while it is read."""
    return len(read(path)[0]["training"]["history"]["train"]) if os.path.exists(path) else 0


def run_here(code, monkeypatch, *arguments):
    """Run a script in this process, as if its command line had these arguments."""
    monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
    exec(code, {"__name__": "__main__"})
