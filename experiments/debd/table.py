"""Table 1, ours beside the paper's: python experiments/debd/table.py

Also the per-row log-likelihoods on disk, and the t-test that they are for.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from scipy.special import stdtr

from experiments.records import ROOT, read_records, say, write_whole

RESULTS = ROOT / "book" / "results" / "debd.json"


def paper_values(file: Path = ROOT / "book" / "table_1.tsv") -> dict[str, tuple[float, float]]:
    """Mean test log-likelihoods of RAT-SPN and EiNet in the paper's Table 1, by data set."""
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[2:]]
    return {name: (float(rat_spn), float(einet)) for name, _, rat_spn, einet in lines}


PAPER = paper_values()
SIGNIFICANT = 0.05


def paired_t_test(first, second) -> dict:
    """One-sided paired t-tests of two learners' log-likelihoods of the same rows.

    `p_better` is the probability, were the learners equally good, of a mean difference at least as much in favour of
    the first one; `p_worse` of one as much in favour of the second. `verdict` says which is significantly better.
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    mean, error = difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5
    t = mean / error if error > 0 else np.sign(mean) * np.inf if mean else 0.0
    better, worse = (float(stdtr(len(difference) - 1, side)) for side in (-t, t))
    verdict = "better" if better < SIGNIFICANT else "worse" if worse < SIGNIFICANT else "no difference"
    return {
        "against": "rat-spn",
        "mean_difference": round(float(mean), 5),
        "t": round(float(t), 4),
        "p_better": better,
        "p_worse": worse,
        "verdict": verdict,
    }


# Per-row log-likelihoods: a file a set beside the results, an array a learner


def rows_file(results: Path, name: str) -> Path:
    return results.with_name(f"{results.stem}_rows") / f"{name}.npz"


def read_rows(results: Path, name: str) -> dict[str, np.ndarray]:
    file = rows_file(results, name)
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def write_rows(results: Path, name: str, learner: str, rows) -> None:
    file = rows_file(results, name)
    arrays = read_rows(results, name) | {learner: np.asarray(rows, np.float32)}
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(file, content.getvalue())


# The table


def shortfall(ours: float, paper: float) -> float:
    """By how many percent of the paper's value ours is worse; negative where it is better."""
    return 100 * (paper - ours) / abs(paper)


def table(records: list[dict]) -> str:
    """Paper's two columns, our three, einet against the paper's EiNet in percent, the t-test, and the bars."""
    found = {(record["dataset"], record["learner"]): record for record in records}
    head = ("set", "RAT-SPN", "EiNet", "rat-spn", "einet", "best", "einet worse", "best worse", "einet vs rat-spn")
    lines = [f"{head[0]:11}" + "".join(f"{title:>12}" for title in head[1:-1]) + f"  {head[-1]}"]
    behind, short = [], []
    for name, paper in PAPER.items():
        ours = [found.get((name, learner)) for learner in ("rat-spn", "einet", "best")]
        if not any(ours):
            continue
        values = [record and record["test_log_likelihood"] for record in ours]
        if values[1] is not None:
            behind.append(shortfall(values[1], paper[1]))
        if values[2] is not None:
            short.append(shortfall(values[2], max(paper)))
        cells = [f"{value:12.3f}" if value is not None else f"{'-':>12}" for value in (*paper, *values)]
        cells += [f"{behind[-1]:11.2f}%" if values[1] is not None else f"{'-':>12}"]
        cells += [f"{short[-1]:11.2f}%" if values[2] is not None else f"{'-':>12}"]
        verdict = (ours[1] or {}).get("t_test", {}).get("verdict", "-")
        lines.append(f"{name:11}" + "".join(cells) + f"  {verdict}")
    if behind:
        within = sum(value <= 0.5 for value in behind)
        lines.append(f"einet within 0.5 % of the paper's: {within} of {len(behind)} (bar 18 of 20)")
        lines.append(f"einet at worst {max(behind):.2f} % behind it (bar 2 %)")
    if short:
        lines.append(f"best no worse than the paper's best: {sum(v <= 0 for v in short)} of {len(short)} (bar 16)")
    return "\n".join(lines)


if __name__ == "__main__":
    say(table(read_records(RESULTS)))
