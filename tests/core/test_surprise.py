"""The surprise of every cell: against two log-marginals a cell, on every kind of model, outliers included."""

import math

import pytest
import torch
from enumeration import MODELS, Table, labels_of, small_model
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, in_float64, masks, models, rows

from einet import (
    Categorical,
    Einet,
    Gamma,
    Mixture,
    Normal,
    Poisson,
    log_marginal,
    poon_domingos,
    random_binary_trees,
    surprise,
)
from einet.queries import surprises as module

CLOSE = dict(rtol=1e-9, atol=1e-9)
nan = math.nan


def cell_by_cell(model, x, observed=None, label=0):
    """log p(x without d) - log p(x), with every other entry NaN that is not observed."""
    observed = torch.ones(x.shape[:2], dtype=torch.bool) if observed is None else observed.expand(x.shape[:2])

    def log_density(mask):
        result = log_marginal(model, x, mask)
        return result if result.dim() == 1 else result[:, label]

    whole, result = log_density(observed), torch.full(observed.shape, nan, dtype=torch.float64)
    for d in range(observed.shape[1]):
        without = observed.clone()
        without[:, d] = False
        result[:, d] = torch.where(observed[:, d], log_density(without) - whole, nan)
    return result


def assert_same(found, expected, **tolerance):
    torch.testing.assert_close(found, expected, equal_nan=True, **(tolerance or CLOSE))


@pytest.mark.parametrize("name", MODELS)
def test_all_worlds_of_small_models(name):
    model = small_model(name)
    x = Table(model).worlds[::7]
    found = surprise(model, x, **labels_of(model))
    assert found.shape == x.shape and (found >= -1e-9).all()
    assert_same(found, cell_by_cell(model, x, label=1))
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    hidden = torch.where(observed, x, nan)
    assert_same(surprise(model, hidden, observed, **labels_of(model)), cell_by_cell(model, x, observed, label=1))


@given(models(classes=(1, 3)), st.integers(0, 9))
@examples(60)
def test_models_of_all_families_over_any_graphs(model, seed):
    x, observed = rows(model, 4, seed), masks(model, 4, seed)
    labels = {} if model.num_classes == 1 else {"labels": 1}
    assert_same(surprise(model, x, **labels), cell_by_cell(model, x, label=1), rtol=1e-7, atol=1e-7)
    assert_same(surprise(model, x, observed, **labels), cell_by_cell(model, x, observed, 1), rtol=1e-7, atol=1e-7)


def test_labels_of_rows_channels_and_grids():
    model = in_float64(Einet(poon_domingos((2, 2), 1), Normal(channels=3), num_sums=2, num_classes=3, seed=0))
    x = torch.randn(3, 2, 2, 3, dtype=torch.float64)
    found = surprise(model, x, labels=torch.tensor([2, 0, 1]))
    flat = x.reshape(3, 4, 3)
    for row, label in enumerate((2, 0, 1)):
        assert_same(found[row], cell_by_cell(model, flat, label=label)[row])


def outliers(kind):
    leaf = {Normal(): [0, 1, 2], Gamma(): [3], Poisson(): [4], Categorical(3): [5]}
    graph = random_binary_trees(6, 2, 3, seed=0)
    if kind == "mixture":
        model = Mixture([Einet(graph, leaf, num_sums=3, seed=s) for s in range(3)], [0.2, 0.3, 0.5]).double()
    else:
        model = Einet(graph, leaf, num_sums=3, seed=0, sum_product=kind).double()
    for network in getattr(model, "components", [model]):
        in_float64(network)
        for part in network.leaves.parts:
            if isinstance(part.family, Normal):  # deviations from 1e-3 to 1
                generator = torch.Generator().manual_seed(1)
                part.phi.data[1] = 10 ** (-6 * torch.rand(part.phi[1].shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", ["tucker", "cp", "mixture"])
@pytest.mark.parametrize("size", [1.0, 5.0, 30.0, 300.0, 1e5])
def test_outliers(kind, size):
    """p_k(x_d) of some entries is e^-(1e15), far below any double: what they say of the rest must not be lost."""
    model = outliers(kind)
    x = rows(getattr(model, "components", [model])[0], 8)
    x[torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])] *= size
    x[6, 3], x[7, 4] = 1 + size, 10 * size
    rounding = 1e-15 * log_marginal(model, x).abs().max().item()  # of the difference that the slow way takes
    assert_same(surprise(model, x), cell_by_cell(model, x), rtol=1e-9, atol=max(1e-7, rounding))


def test_usual_rows_need_one_pass(monkeypatch):
    """The slow way is for what leaves the range of doubles alone."""
    model, asked = outliers("cp"), []
    slow = module._log_densities_without
    monkeypatch.setattr(module, "_log_densities_without", lambda *a: asked.append(len(a[-1])) or slow(*a))
    for part in model.leaves.parts:
        if isinstance(part.family, Normal):
            part.phi.data[1] = 1.0
    surprise(model, rows(model, 50))
    assert not asked
    x = rows(model, 50)
    x[7, 1] = 1e3
    surprise(model, x)
    assert asked and asked[0] < 10


def test_portions_change_nothing(monkeypatch):
    model = outliers("mixture")
    x = rows(model.components[0], 8)
    x[2, 1] = 1e4
    whole = surprise(model, x)
    monkeypatch.setattr("einet.queries.passes.CHUNK_NUMEL", 50)
    monkeypatch.setattr("einet.queries.surprises.CHUNK_NUMEL", 50)
    assert_same(surprise(model, x), whole)


def test_the_odd_cell_is_found():
    """Two columns that are equal but for noise: the one row where they differ, and no other, surprises."""
    model = Einet(random_binary_trees(2, 0, 1, seed=0), Normal(), num_sums=20, seed=0)
    (part,) = model.leaves.parts
    part.phi.data[0] = torch.linspace(-3, 3, 20)
    part.phi.data[1] = 0.05
    x = torch.linspace(-2, 2, 30)[:, None].repeat(1, 2)
    x[11, 1] = 2
    found = surprise(model, x)
    assert set((found > 5).nonzero()[:, 0].tolist()) == {11} and found.dtype == torch.float32


def test_dtypes_modes_and_what_is_left_behind():
    model = small_model("trees").float()
    x = Table(model).worlds[:4].float()
    expected = surprise(model, x)
    for dtype in (torch.bool, torch.uint8, torch.int64):
        assert torch.equal(surprise(model, x.to(dtype)), expected)
    with torch.inference_mode():
        assert torch.equal(surprise(model, x), expected)
    with torch.no_grad():
        assert torch.equal(surprise(model, x), expected)
    assert not expected.requires_grad and all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


def test_bad_input():
    model, x = small_model("classes"), torch.zeros(2, 8)
    for arguments, message in (
        ((x,), "has 3"),
        ((x, None, 3), "from 0 to 2"),
        ((x, torch.ones(8), 0), "observed must be a bool tensor"),
        ((x + 0.5, None, 0), "must be 0 or 1, got 0.5"),
        ((x[:, :3], None, 0), "x must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            surprise(model, *arguments)
    impossible = Einet(random_binary_trees(2, 1, 1, seed=0), Categorical(2), num_sums=1, seed=0)
    impossible.leaves.parts[0].phi.data[1] = 0
    with pytest.raises(ValueError, match="row 1 has density 0"):
        surprise(impossible, torch.tensor([[0.0, 0], [1, 0]]))
