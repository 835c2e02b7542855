"""Solutions of the book's exercises, held to more than their page can show."""

import math

import nbformat
import torch
from contract import Discrete
from project import ROOT
from scipy import stats

import einet

BOOK = ROOT / "book"


def solution(chapter, defines, **given):
    """The names that a chapter's solution binds once the cells that define the classes `defines` have run."""
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4).cells
    sources = [cell.source for cell in cells if "solution" in cell.metadata.get("tags", [])]
    wanted = [source for source in sources if any(f"class {name}(" in source for name in defines)]
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
