"""Two gloo processes on loopback, started by torchrun, against one process with the same batches."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import mixture
from project import ROOT

from einet import EM, Bernoulli, Categorical, Einet, Normal, load, random_binary_trees
from experiments.records import python_path

HERE = Path(__file__).parent
EXAMPLE = ROOT / "experiments/distributed_em.py"
GRAPH = random_binary_trees(6, 2, 3, seed=0)
LEAVES = {Normal(): (0, 1, 2), Bernoulli(): (3,), Categorical(categories=3): (4, 5)}


def data(num_rows):
    """Rows that every case allows: the last three columns are 0 or 1."""
    x = torch.randn(num_rows, 6, generator=torch.Generator().manual_seed(0))
    return torch.cat((x[:, :3], (x[:, 3:] > 0).float()), 1)


# name: (model, rows of each process, settings)
CASES = {
    "even": (lambda: Einet(GRAPH, LEAVES, num_sums=3, seed=0), (40, 40), {"batch_size": 20}),
    "unequal": (lambda: Einet(GRAPH, LEAVES, num_sums=3, seed=0), (70, 23), {"batch_size": 20}),
    "nothing at all": (lambda: Einet(GRAPH, LEAVES, num_sums=3, seed=0), (50, 0), {"batch_size": 20}),
    "full batch": (lambda: Einet(GRAPH, LEAVES, num_sums=3, seed=0), (31, 60), {"batch_size": 100, "lr": 1.0}),
    "mixture": (lambda: mixture((0.3, 0.7), leaf=Normal(), graph=GRAPH, num_sums=2), (50, 30), {"batch_size": 20}),
}
SETTINGS = {"epochs": 3, "lr": 0.3, "pseudocount": 0.5}

# Every process does all cases and keeps its parameters.
WORKER = """
import sys
import torch.distributed as dist
from einet import save
from experiments.distributed_em import train
from test_distributed import CASES, SETTINGS, data

dist.init_process_group("gloo")
for name, (model, shares, settings) in CASES.items():
    model, shard = model(), data(sum(shares)).split(shares)[dist.get_rank()]
    train(model, shard, **{**SETTINGS, **settings})
    save(model, f"{sys.argv[1]}/{name}-{dist.get_rank()}")
dist.destroy_process_group()
"""


def torchrun(*command):
    """What two processes print."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "error::FutureWarning"}
    quiet |= {"PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent), *python_path().values()))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([*launch, *map(str, command)], env={**os.environ, **quiet}, **pipes)
    try:
        printed, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "worker.py").write_text(WORKER)
    torchrun(folder / "worker.py", folder)
    return folder


def on_one_process(model, shards, epochs, batch_size, lr, pseudocount):
    """The same batches: in each step, the next rows of all shards together."""
    em = EM(model, lr=lr, pseudocount=pseudocount)
    for epoch in range(epochs):
        orders = [torch.randperm(len(s), generator=torch.Generator().manual_seed(epoch)) for s in shards]
        batches = [shard[order].split(batch_size) for shard, order in zip(shards, orders, strict=True)]
        for step in range(max(map(len, batches))):
            em.zero_grad()
            model(torch.cat([own[step] for own in batches if step < len(own)])).double().sum().backward()
            em.step()
    return model


def differences(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_two_processes_move_as_one(folder, name):
    model, shares, settings = CASES[name]
    settings = {**SETTINGS, **settings}
    single = on_one_process(model(), data(sum(shares)).split(shares), **settings)
    first, second = (load(folder / f"{name}-{rank}") for rank in (0, 1))
    assert differences(first, second) == 0
    assert differences(first, single) < 1e-5
    assert differences(single, model()) > 0.1


def test_the_pseudocount_would_tell(folder):
    """Were the averages of DistributedDataParallel taken for sums, the pseudocount would weigh twice as much."""
    model, shares, settings = CASES["unequal"]
    settings = {**SETTINGS, **settings, "pseudocount": 2 * SETTINGS["pseudocount"]}
    wrong = on_one_process(model(), data(sum(shares)).split(shares), **settings)
    assert differences(load(folder / "unequal-0"), wrong) > 1e-3


@pytest.mark.slow
def test_the_example(tmp_path):
    path = tmp_path / "model.safetensors"
    printed = torchrun(EXAMPLE, "--shares", 700, 310, "--save", path)
    x = (torch.rand(1010, 16, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[:, 8:] = x[:, :8]
    single = Einet(random_binary_trees(16, 2, 5, seed=0), Bernoulli(), num_sums=5, seed=0)
    on_one_process(single, x.split([700, 310]), epochs=5, batch_size=100, lr=0.3, pseudocount=0.1)
    assert differences(load(path), single) < 1e-5
    assert f"mean log-density of all rows: {single(x).mean():.3f} nats" in printed


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 60
