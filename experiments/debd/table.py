"""Table 1, ours beside the paper's and the best published: python -m experiments.debd.table

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


def published_values(file: Path = ROOT / "book" / "table_1_published.tsv") -> dict[str, dict[str, str]]:
    """What others have reached on each set, as text with the digits that are printed; the file says by whom."""
    lines = [x for x in file.read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    names, *rows = (line.split("\t") for line in lines)
    return {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}


PAPER, PUBLISHED = paper_values(), published_values()
OURS, THEIRS = ("rat-spn", "einet", "best", "learned", "ensemble"), ("hclt", "single", "any")
SIGNIFICANT = 0.05
WITHIN_NATS = 0.05  # what `learned` may be behind HCLT


def paired_t_test(first, second, against: str = "rat-spn") -> dict:
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
        "against": against,
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


# Beside what others have published


def reaches(ours: float, printed: str) -> bool:
    """Whether ours is at least as good as a printed number, at as many decimals as that has."""
    return round(ours, len(printed.partition(".")[2])) >= float(printed)


def best_of_all(records: list[dict]) -> dict[str, dict]:
    """Of each set that has learned trees, the record of any learner whose validation rows have the best likelihood."""
    complete = {record["dataset"] for record in records if record["learner"] == "learned"}
    best: dict[str, dict] = {}
    for record in sorted(records, key=lambda record: record["settings"]["validation_log_likelihood"]):
        if record["dataset"] in complete:
            best[record["dataset"]] = record
    return best


def published_table(records: list[dict]) -> str:
    """All our columns beside the best published, with differences in nats, means, average ranks, tests and bars.

    Column (e) is the best of all our columns, chosen by validation rows.
    """
    found = {(record["dataset"], record["learner"]): record for record in records}
    values = {key: record["test_log_likelihood"] for key, record in found.items()}
    values |= {(name, "e"): record["test_log_likelihood"] for name, record in best_of_all(records).items()}
    head = ("RAT-SPN", "EiNet", *OURS, "e", *THEIRS, "d - HCLT", "e - single", "e - any", "d vs best", "ens. vs d")
    lines = [f"{'set':11}" + "".join(f"{title:>11}" for title in head)]
    columns: dict[str, dict[str, float]] = {}
    for name, paper in PAPER.items():
        printed = [PUBLISHED[name][column] for column in THEIRS]
        row = [*paper, *(values.get((name, learner), np.nan) for learner in (*OURS, "e")), *map(float, printed)]
        columns[name] = dict(zip(head, row, strict=False))
        gains = (row[5] - row[8], row[7] - row[9], row[7] - row[10])
        tests = [found.get((name, learner), {}).get("t_test", {}).get("verdict", "-") for learner in OURS[3:]]
        tests = ["even" if test == "no difference" else test for test in tests]
        cells = [f"{cell:11.3f}" for cell in row] + [f"{cell:+11.3f}" for cell in gains]
        lines.append(f"{name:11}" + "".join(cells) + "".join(f"{test:>11}" for test in tests))
    table = np.array([list(row.values()) for row in columns.values()])  # (20, columns)
    lines.append(f"{'mean':11}" + "".join(f"{mean:11.3f}" for mean in table.mean(0)))
    ranked = [place for place, title in enumerate(head[: table.shape[1]]) if title != "ensemble"]  # which is in (e)
    complete = table[:, ranked][~np.isnan(table[:, ranked]).any(1)]
    if len(complete):
        better = (complete[:, None, :] > complete[:, :, None]).sum(2)
        equal = (complete[:, None, :] == complete[:, :, None]).sum(2)
        ranks = (better + (equal + 1) / 2).mean(0)
        shown = dict(zip(ranked, (f"{rank:11.2f}" for rank in ranks), strict=True))
        cells = [shown.get(place, f"{'':11}") for place in range(table.shape[1])]
        lines.append(f"{'rank':11}" + "".join(cells) + f"  over {len(complete)} sets")
    return "\n".join([*lines, *bars(values)])


def bars(values: dict[tuple[str, str], float]) -> list[str]:
    """What issue 18 asks of the learned trees, and how far they are."""
    single = {name: values[name, "learned"] for name in PUBLISHED if (name, "learned") in values}
    several = {name: values[name, "e"] for name in PUBLISHED if (name, "e") in values}
    near = sum(value >= float(PUBLISHED[name]["hclt"]) - WITHIN_NATS for name, value in single.items())
    lines = [f"learned within {WITHIN_NATS} nats of HCLT, or better: {near} of {len(single)} (bar 18 of 20)"]
    for column, bar in (("single", 16), ("any", 10)):
        reached = sum(reaches(value, PUBLISHED[name][column]) for name, value in several.items())
        lines.append(
            f"best of all as good as the best published, {column}: {reached} of {len(several)} (bar {bar} of 20)"
        )
    for title, mine, bar in (("learned", single, -53.3), ("best of all", several, -52.7)):
        if len(mine) == len(PUBLISHED):
            lines.append(f"{title}, mean over 20 sets: {np.mean(list(mine.values())):.3f} (bar {bar})")
    return lines


if __name__ == "__main__":
    found = read_records(RESULTS)
    say(f"{table(found)}\n\n{published_table(found)}")
