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
