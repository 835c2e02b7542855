"""What is tried on a binary data set, and how it is chosen: three learners of Table 1, and what one training costs.

Every choice is made by the log-likelihood of the validation rows; `search.run` trains candidates and returns them best
first. With the plan's own `run` in its place, the same code says what a search will cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

# RAT-SPN's grid: depth, replicas, leaf entries, sum entries. With depth 1 the only sum is the root.
GRID = (
    (1, 10, 10, 1), (1, 25, 20, 1), (1, 50, 45, 1),
    (2, 4, 5, 5), (2, 10, 8, 8), (2, 15, 15, 15),
    (3, 3, 5, 3), (3, 10, 6, 5), (3, 16, 10, 10),
    (4, 3, 3, 3), (4, 6, 5, 5), (4, 10, 10, 8),
)  # fmt: skip
# Larger ones, for the third learner.
LARGE = ((1, 40, 40, 1), (2, 40, 15, 15), (3, 40, 20, 20), (4, 40, 15, 15), (2, 40, 40, 40))
# Where step sizes and batch sizes are compared first: cheap, and unlike each other.
PROBES = ((1, 10, 10, 1), (2, 10, 8, 8), (3, 10, 6, 5))
STEPS = tuple((lr, batch_size) for lr in (0.02, 0.05, 0.1, 0.2, 0.5) for batch_size in (100, 500))
# Of every weight, a step: small ones, for a sum has up to K * K of them. On ad, 0.001 costs 30 nats.
PSEUDOCOUNTS = (0.00001, 0.0001, 0.001)

FULL_BATCH_EPOCHS, FIRST_LOOK = 100, 20
PATIENCE = 10
# Rows that a training by stochastic EM passes over, at most, within 10 to 100 epochs.
PASSED_ROWS = 800_000
# Seconds by `cost` for each candidate of the third learner: at first, in the end, and in the end on a large set.
LOOK_SECONDS, LAST_SECONDS, LAST_SECONDS_LARGE = 20, 120, 300
LAST_STEP = 0.1  # what the schedule leaves of the step size at the end
# A set with more rows than this is searched on `SUBSET` of them; the best are then trained on all.
LARGE_SET, SUBSET = 40_000, 20_000


@dataclass(frozen=True)
class Candidate:
    """One training: a structure, a learner's settings, and how many of the training rows it sees (None: all)."""

    depth: int
    num_replicas: int
    num_leaves: int
    num_sums: int
    epochs: int
    lr: float = 1.0
    batch_size: int | None = None
    pseudocount: float = 0.0
    decay: float = 1.0  # factor of the step size, an epoch
    rows: int | None = None

    @property
    def structure(self) -> tuple[int, int, int, int]:
        return self.depth, self.num_replicas, self.num_leaves, self.num_sums

    @property
    def key(self) -> str:
        """The name of its files: D2-R15-I15-S15-epochs60-lr0.1-batch500-pseudo0.0-decay1.0-rowsall."""
        names = ("D", "R", "I", "S", "epochs", "lr", "batch", "pseudo", "decay", "rows")
        values = ("all" if value is None else value for value in asdict(self).values())
        return "-".join(f"{name}{value}" for name, value in zip(names, values, strict=True))


@dataclass(frozen=True)
class Result:
    """What a training came to. `valid` is the mean log-likelihood of the validation rows, at the best epoch."""

    candidate: Candidate
    valid: float
    best_epoch: int
    epochs: int
    parameters: int
    seconds: float
    error: str = ""  # why it has none, and counts as minus infinity


@dataclass(frozen=True)
class Size:
    """Of a data set: what a cost depends on."""

    rows: int
    valid_rows: int
    variables: int


Run = Callable[[list[Candidate]], list[Result]]


# The three learners


def rat_spn(run: Run, size: Size, quick: bool = False) -> list[Result]:
    """Full-batch EM over the grid: 20 epochs each, then the best four for 100, on all rows the best one."""
    rows = subset(size)
    if quick:
        return run([Candidate(2, 10, 8, 8, epochs=30)])
    look = [Candidate(*structure, epochs=FIRST_LOOK, rows=rows) for structure in GRID]
    best = [replace(result.candidate, epochs=FULL_BATCH_EPOCHS) for result in run(look)[:4]]
    results = run(best)
    return results if rows is None else run([replace(results[0].candidate, rows=None)])


def einet(run: Run, size: Size, quick: bool = False) -> list[Result]:
    """Stochastic EM: two step and batch sizes by three probes; both over the grid, briefly; then the best in full."""
    rows, epochs = subset(size), epochs_of(size)
    if quick:
        return run([Candidate(*structure, 12, 0.1, 500) for structure in ((2, 10, 8, 8), (2, 15, 15, 15))])
    probes = [Candidate(*s, max(10, epochs // 4), *step, rows=rows) for s in PROBES for step in STEPS]
    steps = best_steps(run(probes))[:2]
    look = [Candidate(*s, max(10, epochs // 5), *step, rows=rows) for s in GRID for step in steps]
    results = run([replace(result.candidate, epochs=epochs) for result in run(look)[:4]])
    return results if rows is None else on_all_rows(run, size, results[:2])


def best(run: Run, size: Size, quick: bool, found: dict[str, Result]) -> list[Result]:
    """Larger structures, pseudocounts and a falling step size, from `einet`'s settings on; or what the others found.

    Epochs are as many as fit the time of a candidate by `cost`, which depends on the shapes alone: LOOK_SECONDS for
    each structure and each pseudocount and step size of the best structure, then LAST_SECONDS for each of the best two.
    """
    rows, start = subset(size), found["einet"].candidate
    step = {"lr": start.lr, "batch_size": start.batch_size}
    if quick:
        return run([scheduled(Candidate(2, 40, 15, 15, 8, **step))]) + list(found.values())
    structures = dict.fromkeys((*LARGE, start.structure, found["rat-spn"].candidate.structure))
    look = [Candidate(*s, 1, **step, rows=rows) for s in structures]
    look = [scheduled(fitted(candidate, size, LOOK_SECONDS)) for candidate in look]
    first = run(look)
    leader, second = first[0].candidate, first[min(1, len(first) - 1)].candidate
    variants = [replace(leader, pseudocount=pseudocount) for pseudocount in PSEUDOCOUNTS]
    variants += [replace(leader, lr=round(leader.lr * factor, 4)) for factor in (0.5, 2) if leader.lr * factor <= 1]
    variants.append(replace(leader, batch_size=leader.batch_size // 2))
    ranked = sorted(first + run(variants), key=lambda result: -result.valid)
    finals = [replace(ranked[0].candidate, rows=None)]
    # The runner-up among structures gets the leader's settings; where nothing large helps, the small ones come back.
    finals.append(replace(finals[0], **dict(zip(STRUCTURE, second.structure, strict=True))))
    seconds = LAST_SECONDS if rows is None else LAST_SECONDS_LARGE
    return run([scheduled(fitted(candidate, size, seconds)) for candidate in finals]) + list(found.values())


STRUCTURE = ("depth", "num_replicas", "num_leaves", "num_sums")


def subset(size: Size) -> int | None:
    return SUBSET if size.rows > LARGE_SET else None


def epochs_of(size: Size, rows: int | None = None) -> int:
    """Stochastic EM's epochs at most."""
    rows = rows or subset(size) or size.rows
    return min(100, max(10, PASSED_ROWS // rows))


def on_all_rows(run: Run, size: Size, results: list[Result]) -> list[Result]:
    epochs = epochs_of(size, size.rows)
    return run([replace(result.candidate, rows=None, epochs=epochs) for result in results])


def best_steps(results: list[Result]) -> list[tuple[float, int]]:
    """Step and batch sizes by their mean over the probes, best first."""
    values: dict[tuple, list[float]] = {}
    for result in results:
        values.setdefault((result.candidate.lr, result.candidate.batch_size), []).append(result.valid)
    return sorted(values, key=lambda step: -sum(values[step]) / len(values[step]))


def scheduled(candidate: Candidate) -> Candidate:
    """With a step size that falls to a tenth over the epochs."""
    return replace(candidate, decay=round(LAST_STEP ** (1 / candidate.epochs), 4))


def fitted(candidate: Candidate, size: Size, seconds: float) -> Candidate:
    """With as many epochs as fit `seconds`, 6 at least."""
    most = epochs_of(size, candidate.rows or size.rows)
    fitting = int(seconds / cost(replace(candidate, epochs=1), size))
    return replace(candidate, epochs=max(6, min(most, fitting)))


# Cost


def cost(candidate: Candidate, size: Size) -> float:
    """Seconds of a training to its last epoch on one core, by a model fitted to 52 measured points (within 2x)."""
    rows = min(candidate.rows or size.rows, size.rows)
    replicas, entries = candidate.num_replicas, candidate.num_leaves
    outer = products = 0
    for level in range(candidate.depth):
        nodes, below = replicas * 2**level, entries if level == candidate.depth - 1 else candidate.num_sums
        outer += nodes * below**2
        products += nodes * below**2 * (candidate.num_sums if level else 1)
    leaf = size.variables * replicas * entries
    row = 2e-6 + 1.1e-10 * leaf + 1.8e-9 * outer + 1.7e-10 * products + 6e-9 * size.variables * replicas
    step = 1e-3 + 3e-8 * leaf + 5e-9 * products
    steps = -(-rows // candidate.batch_size) if candidate.batch_size else 1
    return candidate.epochs * (row * (rows + size.valid_rows / 3) + steps * step + 0.01)
