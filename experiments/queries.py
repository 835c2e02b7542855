"""The three speed bars of the samplers, measured: as medians.

    python experiments/queries.py                 a table in about ten seconds
    python experiments/queries.py --threads 1     steadier where other work runs beside it

1. 10,000 unconditional samples from a RAT network (D = 512, depth 4, R = 10, K = 10, Normal): under 2 s
2. 1,600 samples of 16 variables: under 50 ms
3. twice the samples cost at most twice the time, for both samplers

Seconds are wall time beside whatever else the machine does, and the CPU time of this process, which is steadier.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from einet import (
    Bernoulli,
    Einet,
    Normal,
    conditional_mean,
    mpe,
    poon_domingos,
    random_binary_trees,
    sample,
    sample_conditional,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each line, of which the median counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a busy machine 1 is steadier")
    repeats, threads = vars(parser.parse_args()).values()
    torch.set_num_threads(threads)
    large = Einet(random_binary_trees(512, 4, 10, seed=0), Normal(), num_sums=10, seed=0)
    small = Einet(random_binary_trees(16, 3, 10, seed=0), Bernoulli(), num_sums=10, seed=0)
    images = Einet(poon_domingos((28, 28), 7), Normal(), num_sums=16, seed=0)
    row, half = sample(large, 1), torch.arange(512) < 256
    picture, top = sample(images, 1), torch.arange(784) < 392

    print(f"{'':58}   wall ms    CPU ms   ({threads} threads, median of {repeats})")
    measured = {}
    for name, bar, function in (
        ("10,000 samples of 512 Normal variables", 2000, lambda: sample(large, 10_000)),
        ("20,000", None, lambda: sample(large, 20_000)),
        ("1,600 samples of 16 variables", 50, lambda: sample(small, 1600)),
        ("3,200", None, lambda: sample(small, 3200)),
        ("10,000 conditional samples of them", None, lambda: sample_conditional(large, row, half, 10_000)),
        ("20,000", None, lambda: sample_conditional(large, row, half, 20_000)),
        ("28 x 28 pixels, K = 16: 8 conditional samples", 33, lambda: sample_conditional(images, picture, top, 8)),
        ("28 x 28 pixels, K = 16: conditional mean", 33, lambda: conditional_mean(images, picture, top)),
        ("28 x 28 pixels, K = 16: MPE", None, lambda: mpe(images, picture, top)),
    ):
        wall, cpu = median_ms(function, repeats)
        measured[len(measured)] = cpu
        print(f"{name:58}{wall:10.1f}{cpu:10.1f}" + (f"   bar {bar}" if bar else ""))
    ratios = [measured[i + 1] / measured[i] for i in (0, 2, 4)]
    print(f"{'twice the samples, times the CPU time (bar 2)':58}" + "".join(f"{ratio:10.2f}" for ratio in ratios))


def median_ms(function, repeats: int) -> tuple[float, float]:
    function()
    wall, cpu = [], []
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    return 1000 * statistics.median(wall), 1000 * statistics.median(cpu)


if __name__ == "__main__":
    main()
