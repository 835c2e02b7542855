"""Seconds and memory of `EinetDensity().fit`, each in a process of its own.

    python -m experiments.tables.timing 2000 10        one line of JSON

Rows are drawn from five correlated normals, every fourth column cut into whole numbers 0 to 4. Peak memory is that of
the whole process, torch included. A fit of 50 x 2 comes first in a process of its own: what the first fit costs beside
the second, and what importing torch and the estimator takes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings

from experiments.records import ROOT, python_path

CASES = {"2000x10": (2000, 10), "100000x20": (100_000, 20), "first": (50, 2)}


def measure(case: str, threads: int) -> dict:
    """What a process that fits this case tells."""
    rows, columns = CASES[case]
    command = [sys.executable, "-m", "experiments.tables.timing", str(rows), str(columns)]
    environment = {**os.environ, **python_path(), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": done.stderr.strip().splitlines()[-1][:200] if done.stderr else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1]) | {"threads": threads}


def rows_of(num_rows: int, num_columns: int, seed: int = 0):
    """Rows (num_rows, num_columns) of five correlated normals."""
    import numpy as np

    random = np.random.default_rng(seed)
    kinds = random.integers(5, size=num_rows)
    centers = 3 * random.standard_normal((5, num_columns))
    mixing = random.standard_normal((5, num_columns, num_columns)) / num_columns**0.5
    x = centers[kinds] + np.einsum("bd,bde->be", random.standard_normal((num_rows, num_columns)), mixing[kinds])
    x[:, ::4] = np.clip(np.round(x[:, ::4]), -2, 2) + 2
    return x


def main() -> int:
    num_rows, num_columns = int(sys.argv[1]), int(sys.argv[2])
    x = rows_of(num_rows, num_columns)
    began = time.perf_counter()
    import torch

    torch_seconds = time.perf_counter() - began
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from einet.tables import EinetDensity

    import_seconds = time.perf_counter() - began - torch_seconds
    warnings.simplefilter("ignore")
    fits = []
    for _ in range(2 if num_rows < 100 else 1):
        began = time.perf_counter()
        EinetDensity(random_state=0).fit(x)
        fits.append(round(time.perf_counter() - began, 3))
    print(
        json.dumps(
            {
                "fit_seconds": fits,
                "torch_import_seconds": round(torch_seconds, 3),
                "import_seconds": round(import_seconds, 3),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
