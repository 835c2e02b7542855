"""The kernels for GPUs, without a GPU: in Triton's interpreter, and compiled for an H100."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from project import ROOT

import einet
from einet.gpu import dispatch
from einet.layers.sums import EinsumLayer
from experiments.records import python_path

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (Linux on x86-64 only)")


def run(*arguments, **environment):
    environment = {**os.environ, **python_path(), **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


@needs_triton
@pytest.mark.slow
def test_in_the_interpreter():
    """All of interpreted.py, in a process of its own: the interpreter is chosen when Triton is imported."""
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/interpreted.py", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_an_h100(tmp_path):
    """Triton brings the whole compiler: registers suffice, shared memory too, and the tensor cores are used."""
    code = """
import json
from experiments.race.kernel_resources import all_settings, resources
print(json.dumps([[name, precision, resources(name, settings)]
    for sums, precision in ((64, "ieee"), (40, "tf32x3"))
    for name, settings in all_settings(sums, 100, precision)]))
"""
    done = run("-W", "ignore", "-c", code, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stderr[-3000:]
    for name, precision, found in json.loads(done.stdout):
        where = f"{name}, {precision}: {found}"
        assert found["spilled"] == 0, where
        assert found["shared"] <= 227 * 1024, where
        multiplies = name in ("_sums", "_weight_gradients", "_child_gradients")
        assert (found["HGMMA"] > 0) == (multiplies and precision != "ieee"), where


def test_without_triton_the_plain_path_serves(monkeypatch):
    """Where the tensors are on a GPU, or seem to be, and Triton is missing, nothing else changes."""
    model = einet.Einet(einet.random_binary_trees(4, 1, 2, seed=0), einet.Normal(), num_sums=3, seed=0)
    x = torch.randn(5, 4)
    expected = model(x)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it is an ImportError
    monkeypatch.delitem(sys.modules, "einet.gpu.kernels", raising=False)
    monkeypatch.delattr(einet, "kernels", raising=False)
    dispatch.import_kernels.cache_clear()
    try:
        assert dispatch.import_kernels() is None
        assert torch.equal(model(x), expected)
    finally:
        dispatch.import_kernels.cache_clear()


def test_precision_is_checked_before_anything_changes():
    model = einet.Einet(einet.random_binary_trees(4, 1, 2, seed=0), einet.Normal(), num_sums=3, seed=0)
    einet.set_precision(model, "tf32x3")
    assert {layer.precision for level in model.levels for layer in level.einsums} == {"tf32x3"}
    with pytest.raises(ValueError, match="None or one of ieee, tf32, tf32x3, bf16x3, got 'fp16'"):
        einet.set_precision(model, "fp16")
    assert {layer.precision for level in model.levels for layer in level.einsums} == {"tf32x3"}
    assert EinsumLayer.precision == "ieee"


def test_a_cuda_graph_needs_cuda():
    model = einet.Einet(einet.random_binary_trees(4, 1, 2, seed=0), einet.Normal(), num_sums=3, seed=0)
    before = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(ValueError, match="cuda_graph=True needs the model on a CUDA device, got cpu"):
        einet.fit(model, torch.randn(5, 4), cuda_graph=True, progress=False)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True))


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_cuda
@pytest.mark.parametrize("num_sums", [1, 7, 10, 16, 40, 64])
def test_on_a_card(num_sums):
    """The plain path on the card in float64 is what the kernels are held against there."""
    graph = einet.poon_domingos((4, 4), 2)
    model = einet.Einet(graph, einet.Normal(), num_sums=num_sums, seed=0).cuda()
    exact = einet.Einet(graph, einet.Normal(), num_sums=num_sums, seed=0).double().cuda()
    x = torch.randn(101, 16, device="cuda")
    expected = exact(x.double())
    expected.sum().backward()
    for precision, most in (("ieee", 1e-4), ("tf32x3", 1e-4), ("bf16x3", 1e-3), ("tf32", 1e-2)):
        einet.set_precision(model, precision)
        runs = []
        for _ in range(2):
            model.zero_grad()
            log_density = model(x)
            log_density.sum().backward()
            runs.append([log_density.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
        assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True)), precision
        assert (runs[0][0] - expected).abs().max() < most, precision
        for ours, theirs in zip(runs[0][1:], exact.parameters(), strict=True):
            assert (ours - theirs.grad).norm() < most * theirs.grad.norm(), precision


@needs_cuda
def test_a_replayed_step_is_a_step():
    """With a smaller batch at the end and a step size that a scheduler moves: as without the graph, bit by bit."""
    x = torch.randn(210, 16)
    found = []
    for cuda_graph in (False, True):
        model = einet.Einet(einet.poon_domingos((4, 4), 2), einet.Normal(), num_sums=5, seed=0).cuda()
        em = einet.EM(model, lr=0.5)
        halving = torch.optim.lr_scheduler.ExponentialLR(em, 0.5)
        settings = {"optimizer": em, "scheduler": halving, "epochs": 4, "batch_size": 50, "progress": False}
        history = einet.fit(model, x, cuda_graph=cuda_graph, **settings)
        found.append((history.train, [parameter.detach().clone() for parameter in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
