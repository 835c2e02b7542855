"""One contestant in a process of its own: efficiency.py starts it, asks, and gets answers, one JSON object a line.

    python worker.py '{"name": "einet", "device": "cpu", "seed": 0, "point": {"depth": 4, ...}, ...}'
    {"ask": "introduce"}              -> provenance: versions, machine, commit
    {"ask": "build"}                  -> parameters, seconds per batch and per inference, peak memory of training
    {"ask": "train", "batches": 20}   -> seconds
    {"ask": "infer", "calls": 10}     -> seconds of each call
    {"ask": "finish"}                 -> mean log-likelihood, remark

Every answer has a `status`, "ok" or what went wrong, and the `cpu_seconds` it took.

Memory is the high-water mark of the resident set (VmHWM, which Linux resets when "5" is written to
/proc/self/clear_refs) while the first batches are trained, less the resident set just before, with the model built. So
it holds activations, gradients and the optimizer's state, and neither the library's code nor the parameters. On a GPU
it is torch.cuda.max_memory_allocated less torch.cuda.memory_allocated. Before the model is built, a tiny one is
trained, so that code loaded on first use is not counted; a contestant under torch.compile is compiled before, for the
same reason.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.provenance import provenance
from experiments.race.contestants import CONTESTANTS
from experiments.race.learned_contestants import LEARNED, rows_of

TINY = {"num_variables": 8, "depth": 2, "num_replicas": 2, "num_sums": 2}
MEMORY_BATCHES = 3  # the optimizer's state exists after the first; the third meets everything in place


class Worker:
    """A contestant, its data, and how to time it."""

    def __init__(self, name, point, device, seed, threads, num_samples, batch_size, command, race="rat"):
        torch.set_flush_denormal(True)  # before the first parallel region: the thread pool inherits it
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        learned = race == "learned"
        self.make = (LEARNED if learned else CONTESTANTS)[name]
        self.point, self.settings = point, {"device": device, "seed": seed}
        self.tiny = point | {"num_sums": 2} if learned else TINY
        self.device, self.seed, self.command = device, seed, command
        rows = rows_of(point["data"], num_samples) if learned else torch.randn(num_samples, point["num_variables"])
        self.batches = rows.to(device).split(batch_size)
        self.position = 0

    def introduce(self) -> dict:
        packages = ("torch", "numpy", "libcirkit", "spflow", "sparc-pc", "libspn-keras", "tensorflow", "triton")
        origin = provenance(self.seed, time.time(), device=self.device, command=self.command, packages=packages)
        return {"provenance": origin}

    def build(self) -> dict:
        if not self.make.compiles:
            self._warm_the_process()
        start = time.perf_counter()
        self.contestant = self.make(**self.point, **self.settings)
        if self.contestant.compiles:
            self.train(1)
            self.infer(1)
            self.contestant.reset_learner()
        build_seconds = time.perf_counter() - start
        peak_bytes = self._peak_of(lambda: self.train(MEMORY_BATCHES))
        return {
            "build_seconds": round(build_seconds, 2),
            "peak_bytes": peak_bytes and peak_bytes + self.contestant.bytes_built_in(),
            "batch_seconds": self.train(1)["seconds"],
            "inference_seconds": min(self.infer(2)["seconds"]),
            "learner": self.contestant.learner,
            "differences": self.contestant.differences,
            **self.contestant.parameters(),
        }

    def train(self, batches: int) -> dict:
        def some_batches():
            for _ in range(batches):
                self.contestant.train(self.batches[self.position])
                self.position = (self.position + 1) % len(self.batches)

        self.contestant.mode(training=True)
        return {"seconds": self._timed(some_batches)}

    def infer(self, calls: int) -> dict:
        self.contestant.mode(training=False)
        with torch.no_grad():
            one = lambda: self.contestant.log_likelihood(self.batches[0])  # noqa: E731
            one()  # back into the caches
            return {"seconds": [self._timed(one) for _ in range(calls)]}

    def finish(self) -> dict:
        self.contestant.mode(training=False)
        with torch.no_grad():
            log_likelihood = self.contestant.log_likelihood(self.batches[0]).mean().item()
            remark = self.contestant.remark(self.batches[0])
        return {"log_likelihood": log_likelihood, "remark": remark}

    def _warm_the_process(self) -> None:
        tiny = self.make(**self.tiny, **self.settings)
        batch = (
            self.batches[0][:4] if self.tiny is not TINY else torch.randn(4, TINY["num_variables"], device=self.device)
        )
        for _ in range(2):
            tiny.train(batch)
        with torch.no_grad():
            tiny.log_likelihood(batch)
        square = torch.randn(8, 256, 256, device=self.device)
        torch.bmm(square, square)  # its library keeps buffers, which the compiled contestant has by now

    def _timed(self, action: Callable[[], object]) -> float:
        self._synchronise()
        start = time.perf_counter()
        action()
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def _peak_of(self, action: Callable[[], object]) -> int | None:
        """Bytes that `action` needs at most, above what is held before it; None where the system cannot tell."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            action()
            return torch.cuda.max_memory_allocated(self.device) - before
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # give freed memory back, or it would be used again unseen
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            action()
            return None
        before = _status_bytes("VmRSS")
        action()
        return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _limit_memory(share: float = 0.75) -> None:
    """Let an allocation fail rather than have the system kill something else: out of memory is a result."""
    limit = int(share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _status_of(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, ImportError):
        return f"not installed: {error}"
    if isinstance(error, MemoryError) or "memory" in text.lower() or "OOM" in text:
        return "out of memory"
    return f"failed: {text[:200]}"


def main() -> None:
    # Answers go through a private copy of stdout; what libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore", message=".*smallest subnormal")  # numpy notices that denormals are flushed
    settings, worker = json.loads(sys.argv[1]), None
    if settings["device"] == "cpu":
        _limit_memory()
    for line in sys.stdin:
        request = json.loads(line)
        action, cpu = request.pop("ask"), time.process_time()
        try:
            worker = worker or Worker(**settings)
            answer = {"status": "ok", **getattr(worker, action)(**request)}
        except Exception as error:  # whatever a contestant does is a result, and the parent reports it
            traceback.print_exc()
            answer = {"status": _status_of(error)}
        answer["cpu_seconds"] = time.process_time() - cpu
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
