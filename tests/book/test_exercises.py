"""Solutions of the book's exercises, held to more than their page can show."""

import math
import re
from itertools import combinations

import nbformat
import pytest
import torch
from contract import Discrete
from project import ROOT
from scipy import stats
from scipy.sparse.csgraph import minimum_spanning_tree

import einet
from book.figures import edges_of_tree

BOOK = ROOT / "book"


def solution(chapter, defines, **given):
    """The names that a chapter's solution binds once the cells that define classes and functions `defines` have run."""
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
    wanted = [source for source in sources if re.search(rf"^(class|def) ({'|'.join(defines)})\(", source, re.M)]
    assert len(wanted) == len(defines), f"{chapter} defines {len(wanted)} of {', '.join(defines)}"
    for source in wanted:
        exec(compile(source, chapter, "exec"), given)
    return given, sum(len([line for line in source.splitlines() if line.strip()]) for source in wanted)


NAMES, LINES = solution("06_leaves", ("Failures", "NegativeBinomial"), torch=torch, einet=einet, __name__="book")


class TestNegativeBinomialOfChapter6(Discrete):
    family = NAMES["NegativeBinomial"]()
    values = range(400)
    outside = [(-1.0, "got -1"), (0.5, "got 0.5"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-5]]

    @property
    def x(self):
        return torch.tensor([0.0, 1, 2, 5, 30], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.nbinom.logpmf(x, 3, 3 / (3 + phi[0]))

    def inside(self, phi):
        return phi[0] >= self.family.floor * (1 - 1e-6)

    def test_it_takes_forty_lines(self):
        assert LINES <= 40


def spanning_tree(edges, num_variables):
    """Whether these edges join all variables, each to each in one way."""
    part = list(range(num_variables))
    for u, v in edges:
        if part[u] == part[v]:
            return False
        part = [part[u] if p == part[v] else p for p in part]
    return len(set(part)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_kruskals_tree_of_chapter_5_is_the_best(seed):
    """By SciPy for any numbers, and by all trees over four variables."""
    names, _ = solution_of_the_tree()
    for size in (4, 12):
        half = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).triu(1)
        kept = names["kruskal"](half + half.T)
        assert spanning_tree(kept, size) and len(kept) == size - 1
        total = sum(half[u, v] for u, v in kept)
        assert total.item() == pytest.approx(-minimum_spanning_tree(-half.numpy()).sum())
        if size == 4:
            trees = [tree for tree in combinations(combinations(range(4), 2), 3) if spanning_tree(tree, 4)]
            assert len(trees) == 16
            assert total.item() == pytest.approx(max(sum(half[u, v].item() for u, v in tree) for tree in trees))


def solution_of_the_tree():
    """With what the cell's last line compares: rows in which every column follows the one before."""
    chain = (torch.rand(2000, 6, generator=torch.Generator().manual_seed(0)) < 0.2).cumsum(1) % 2
    known = {"columns": einet.pairwise_information(chain)}
    tree = {"columns": einet.chow_liu(chain)}
    figures = type("figures", (), {"edges_of_tree": staticmethod(edges_of_tree)})
    return solution(
        "05_structures", ("kruskal",), combinations=combinations, known=known, learned=tree, figures=figures
    )


def test_kruskals_tree_of_a_chain_is_the_chain():
    names, _ = solution_of_the_tree()
    assert sorted(names["kruskal"](names["known"]["columns"])) == [(i, i + 1) for i in range(5)]
    assert sorted(edges_of_tree(names["learned"]["columns"])) == [(i, i + 1) for i in range(5)]


def close(value, target, digits):
    """Whether a value, rounded as the page prints it, is the target."""
    return round(float(value), digits) == target


def test_targets_on_paper_of_chapters_1_to_3():
    ice, coat = (0.1, 0.7), (0.9, 0.2)  # in winter, in summer
    towns = ((0.8, 0.2), (0.3, 0.7))
    alone, both = (
        sum(w * season for town in towns for w, season in zip(town, values, strict=True)) / 2
        for values in (coat, [c * i for c, i in zip(coat, ice, strict=True)])
    )
    assert close(both / alone, 0.192, 3)
    assert close(0.8 * 0.9 * 0.1 + 0.2 * 0.2 * 0.7, 0.1, 9) and close(0.8 * 0.9 + 0.2 * 0.2, 0.76, 9)
    assert close(torch.tensor([-1000.0, -1001, -1002]).double().logsumexp(0), -999.59, 2)
    apart = torch.tensor([-200.0, 0.0])  # the largest of each vector, in nats: one maximum for both is not enough
    assert apart.sub(apart.max()).exp()[0] == 0 and math.exp(-103) > 2**-149


def test_targets_on_paper_of_chapters_4_to_7():
    graph = einet.RegionGraph(
        [{0}, {1}, {2}, {3}, {0, 1}, {2, 3}, {0, 1, 2}, {0, 1, 2, 3}],
        [(7, 6, 3), (7, 4, 5), (6, 4, 2), (4, 0, 1), (5, 2, 3)],
    )
    layers = [sorted(len(graph.regions[region].scope) for region in layer) for layer in graph.topological_layers()]
    assert layers == [[1, 1, 1, 1], [2], [2, 3], [4]]
    assert close((2 / 3) ** 3, 0.3, 1)
    exponential, phi = einet.Exponential(), torch.tensor([2.0])
    theta = exponential.natural(phi).requires_grad_()
    (gradient,) = torch.autograd.grad(exponential.log_normalizer(theta).sum(), theta)
    assert theta.item() == -0.5 and torch.isclose(gradient, phi)
    target = torch.tensor([0.5, 0.5, 1.0]) @ torch.tensor([1.0, 2.0, 6.0]) / 2
    assert target == 3.75 and phi + 0.5 * (target - phi) == 2.875
    north, south = 0.76 * 0.78, 0.41 * 0.54
    assert close(north / (north + south), 0.728, 3) and close(north / (north + south) * 0.72 / 0.76, 0.690, 3)


def test_targets_on_paper_of_chapters_8_to_10():
    p = torch.tensor([[0.1575, 0.2575], [0.4725, 0.1125]]).double()  # p[coat, ice]
    assert close(p[1, 1] / p[:, 1].sum(), 0.304, 3)
    assert close((p * (p / p.sum(1, keepdim=True) / p.sum(0)).log()).sum(), 0.097, 3)
    equal = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    given = equal / equal.sum(0)
    assert given[0, 0] == 1 and close(-equal[0, 0].log(), 0.693, 3)
    assert close(1 / math.sqrt(math.pi), 0.56, 2)


def test_targets_of_chapters_12_to_14():
    assert close(945 / (3072 * math.log(2)), 0.44, 2) and close(1 / (3072 * math.log(2)), 0.0005, 4)
    second = 0.1 * math.exp(3)
    assert close(second / (0.9 + second), 0.69, 2) and close(math.log(9), 2.2, 1)
    bright = torch.tensor([[0.9, 0.9], [0.2, 0.1]])  # bright[kind, pixel], of chapter 13
    odds = (1 - bright[:, 0]) / (1 - bright[:, 0]).sum()
    mean = odds @ bright[:, 1]
    assert close(mean, 0.189, 3) and close(mean - mean**2, 0.153, 3)
    walk = (bright * (1 - bright.flip(1))).sum(1).mean()
    a, b = bright.mean(0)
    assert close(walk, 0.22, 2) and close(a * (1 - b) + b * (1 - a), 0.5, 2)
    bits = next(m for m in range(1, 64) if 20 * 2 * 2.0**-m <= 0.01)
    assert bits == 12
