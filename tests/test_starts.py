"""Where EM starts from: weights of a concentration, and leaves around rows."""

import math

import pytest
import torch

import einet
from einet.layers import WEIGHT_FLOOR, normalized_

GRAPH = einet.random_binary_trees(6, 1, 2, seed=0)


def drawn(concentration, shape=(20_000, 3), dim=1):
    weights = torch.empty(shape)
    normalized_(weights, dim, torch.Generator().manual_seed(0), concentration)
    return weights


@pytest.mark.parametrize("concentration", [0.02, 0.1, 0.7, 4.0])
def test_a_draw_of_weights_has_the_moments_of_its_distribution(concentration):
    """Of Dirichlet(c, c, c): means of 1/3, variances of 2/9 / (3 c + 1), and E[log w] = digamma(c) - digamma(3 c)."""
    weights = drawn(concentration).double()
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (weights.mean(0) - 1 / 3).abs().max() < 0.015
    variance = 2 / 9 / (3 * concentration + 1)
    assert weights.var(0).sub(variance).abs().max() < 0.03 * variance + 1e-3
    if concentration >= 0.7:  # below, the floor cuts the smallest
        c = torch.tensor([concentration, 3 * concentration], dtype=torch.float64)
        low, high = torch.digamma(c)
        assert weights.log().mean(0).sub(low - high).abs().max() < 0.05


def test_the_smallest_concentration_leaves_one_weight_and_the_floor():
    weights = drawn(1e-4)
    assert weights.isfinite().all() and (weights >= 0.99 * WEIGHT_FLOOR).all()
    assert (weights.amax(1) > 0.999).double().mean() > 0.99
    assert (weights.argmax(1).bincount() / 20_000 - 1 / 3).abs().max() < 0.02


def test_concentration_of_a_network():
    """1 is what it always was; every seed gives one model; leaves do not depend on the concentration."""
    flat, default = (einet.Einet(GRAPH, einet.Bernoulli(), 3, seed=5, **more) for more in ({"concentration": 1.0}, {}))
    sharp, again = (einet.Einet(GRAPH, einet.Bernoulli(), 3, seed=5, concentration=0.05) for _ in range(2))
    states = [dict(model.named_parameters()) for model in (flat, default, sharp, again)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert torch.equal(states[2][name], states[3][name])
        assert torch.equal(value, states[2][name]) == name.startswith("leaves")
    entropies = [torch.special.entr(model.levels[0].einsums[0].weights).sum(2).mean() for model in (flat, sharp)]
    assert entropies[1] < 0.5 * entropies[0]
    flat.reset_parameters(5, concentration=0.05)
    assert all(torch.equal(a, b) for a, b in zip(flat.parameters(), sharp.parameters(), strict=True))


@pytest.mark.parametrize("concentration", [0, -1.0, math.inf, math.nan, "1", True, None])
def test_bad_concentrations(concentration):
    with pytest.raises(ValueError, match="concentration must be a positive, finite number, got"):
        einet.Einet(GRAPH, einet.Bernoulli(), concentration=concentration)
    model = einet.Einet(GRAPH, einet.Bernoulli(), seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="concentration"):
        model.reset_parameters(1, concentration)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# Leaves: of each family in tests/test_families.py


def mixed():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 6, generator=generator)
    x[:, 3:] = x[:, 3:].round()
    leaf = {einet.Normal(): [0, 1, 2], einet.Bernoulli(): [3, 4, 5]}
    return einet.Einet(einet.RegionGraph([range(6)]), leaf, num_sums=5, seed=0), x


def test_all_variables_of_a_region_start_at_the_same_rows():
    """With all of the share, an entry is its row: whatever the families of its columns are."""
    model, x = mixed()
    einet.start_leaves(model, x, share=1.0, seed=3)
    real, bits = model.leaves.parts
    for k in range(5):
        near = (x[:, :3] - real.phi[0, :, 0, k]).abs().amax(1) < 1e-6
        assert near.sum() == 1 and torch.equal(x[near, 3:][0], bits.phi[0, :, 0, k].round())


def test_a_share_of_nothing_is_the_columns_own_distribution():
    model, x = mixed()
    einet.start_leaves(model, x, share=0.0)
    real, bits = model.leaves.parts
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(real.phi[0, :, 0], x[:, :3].mean(0)[:, None].expand(3, 5), **close)
    torch.testing.assert_close(real.phi[1, :, 0], x[:, :3].var(0, correction=0)[:, None].expand(3, 5), **close)
    torch.testing.assert_close(bits.phi[0, :, 0], x[:, 3:].mean(0)[:, None].expand(3, 5), **close)


def test_a_variable_without_values_keeps_its_parameters_and_weights_stay():
    model, x = mixed()
    before = {name: value.clone() for name, value in model.named_parameters()}
    einet.start_leaves(model, x, torch.arange(6) != 1)
    kept = torch.arange(6) == 1
    real = model.leaves.parts[0]
    same = (real.phi == before["leaves.parts.0.phi"]).all(0).all(-1)[:, 0]
    assert same.tolist() == kept[real.pairs].tolist()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if "levels" in name)


def test_in_slices_of_pairs_it_is_the_same(monkeypatch):
    starts = []
    for portion in (2**22, 7):
        monkeypatch.setattr("einet.leaves.PORTION", portion)
        model, x = mixed()
        einet.start_leaves(model, x, rows=2)
        starts.append(torch.cat([part.phi.detach().flatten() for part in model.leaves.parts]))
    torch.testing.assert_close(*starts)


def test_components_of_a_mixture_start_at_rows_of_their_own():
    _, x = mixed()
    networks = [mixed()[0] for _ in range(2)]
    mixture = einet.Mixture(networks, [0.5, 0.5])
    einet.start_leaves(mixture, x)
    assert not torch.equal(networks[0].leaves.parts[0].phi, networks[1].leaves.parts[0].phi)
    alone = mixed()[0]
    einet.start_leaves(alone, x)
    assert torch.equal(alone.leaves.parts[0].phi, networks[0].leaves.parts[0].phi)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rows": 0}, "rows must be an integer of at least 1, got 0"),
        ({"share": 1.5}, r"share must be within \[0, 1\], got 1.5"),
        ({"share": math.nan}, "got nan"),
        ({"x": torch.zeros(0, 6)}, "at least one row"),
        ({"x": torch.full((4, 6), 0.5)}, "0 or 1, got 0.5"),
        ({"observed": torch.ones(3, 6, dtype=torch.bool)}, "observed must have shape"),
    ],
)
def test_bad_calls_change_nothing(arguments, message):
    model, x = mixed()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        einet.start_leaves(model, **({"x": x} | arguments))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_follows():
    """In whatever mode the start was made."""
    model, x = mixed()
    with torch.inference_mode():
        einet.start_leaves(model, x)
    assert einet.fit(model, x, epochs=3, progress=False).train[-1] > -10
