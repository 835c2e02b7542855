"""Where a number comes from: the record that every result in book/results carries.

    started = time.time()
    ...
    record["provenance"] = provenance(seed=0, started=started)

Needs the standard library alone, so that any experiment can call it from any interpreter.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from experiments.records import ROOT, command_line

CODE = ("einet", "experiments", "book/*.py")  # what a number may come from


def provenance(
    seed: int | None,
    started: float,
    *,
    device: str = "cpu",
    command: str | None = None,
    packages: tuple[str, ...] = ("torch", "numpy", "safetensors"),
    load: object = None,
) -> dict:
    """A JSON-ready record of how a result was made.

    started   time.time() when the work began; `seconds` counts from there
    device    "cpu" or "cuda"; a GPU is recorded by its name
    command   the command line, by default that of this process
    packages  whose installed versions to record; those that are not installed are left out
    load      what else kept the machine busy, by default os.getloadavg()
    """
    return {
        "command": command or command_line(),
        "commit": commit(),
        "versions": versions(packages),
        "machine": machine(),
        "device": device_name(device),
        "date": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "seed": seed,
        "load": load if load is not None else [round(x, 2) for x in os.getloadavg()],
    }


def commit() -> str:
    """The commit of the working tree, followed by "+changes" where its code differs from that commit."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", *CODE) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # a copy without git, as on a lent GPU machine


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by package name, with Python's own."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores, memory, system: "AMD EPYC 7B13, 2 cores, 24 GiB, Linux x86_64"."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def device_name(device: str) -> str:
    """The name of the card for "cuda", else `device` as it is."""
    if not device.startswith("cuda"):
        return device
    import torch  # only here: the CPU path stays free of it

    return torch.cuda.get_device_name(device)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked since it started, all cores and processes together."""
    user, nice, system, _, _, irq, softirq = (int(x) for x in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
