"""Where EM starts from: weights of a concentration, and leaves around rows."""

import math

import pytest
import torch

import einet
from einet.layers.sums import WEIGHT_FLOOR, normalized_

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
    assert weights.isfinite().all() and (weights.double() > WEIGHT_FLOOR).all()
    assert (weights.amax(1) > 0.999).double().mean() > 0.99
    assert (weights.argmax(1).bincount() / 20_000 - 1 / 3).abs().max() < 0.02


def test_concentration_of_a_network():
    """0.1 is the default, and every seed gives one model.

    Neither leaves nor the root and mixing layers, whose entries have no others to differ from, depend on it.
    """
    graph = einet.poon_domingos((3, 3), 1)
    tenth, default = (einet.Einet(graph, einet.Bernoulli(), 4, seed=5, **more) for more in ({"concentration": 0.1}, {}))
    sharp, again = (einet.Einet(graph, einet.Bernoulli(), 4, seed=5, concentration=0.02) for _ in range(2))
    states = [dict(model.named_parameters()) for model in (tenth, default, sharp, again)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert torch.equal(states[2][name], states[3][name])
        assert torch.equal(value, states[2][name]) == name.startswith("leaves")
    for level in sharp.levels:
        below = level is not sharp.levels[-1]
        for layer in (*level.einsums, *level.mixings):
            even = torch.special.entr(layer.weights).sum(layer.weight_dim).mean() / math.log(layer.num_choices)
            assert (even < 0.3) == (below and layer in list(level.einsums)), (layer, even)
    tenth.reset_parameters(5, concentration=0.02)
    assert all(torch.equal(a, b) for a, b in zip(tenth.parameters(), sharp.parameters(), strict=True))


@pytest.mark.parametrize("concentration", [0, -1.0, math.inf, math.nan, "1", None])
def test_bad_concentrations(concentration):
    with pytest.raises(ValueError, match="concentration must be positive and finite, got"):
        einet.Einet(GRAPH, einet.Bernoulli(), concentration=concentration)
    model = einet.Einet(GRAPH, einet.Bernoulli(), seed=0)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="concentration"):
        model.reset_parameters(1, concentration)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# Leaves: of each family in tests/contract.py


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


def test_every_distinct_row_of_a_region_is_as_likely():
    """A value that one row in fifty has is every other entry's, in a region of its own; and not by frequency."""
    x = torch.zeros(100, 2, dtype=torch.uint8)
    x[:2, 0] = 1
    graph = einet.RegionGraph([{0}, {1}, {0, 1}], [(2, 0, 1)])
    model = einet.Einet(graph, einet.Bernoulli(), num_sums=400, seed=0)
    (part,) = model.leaves.parts
    for distinct, low, high in ((True, 0.42, 0.58), (False, 0.0, 0.06)):
        einet.start_leaves(model, x, share=1.0, seed=1, distinct=distinct)
        ones = (part.phi[0, part.pairs == 0] > 0.5).double().mean()
        assert low <= ones <= high
    pairs = torch.tensor([[0, 0]] * 60 + [[0, 1]] * 30 + [[1, 1]] * 10)
    model = einet.Einet(einet.RegionGraph([range(2)]), einet.Bernoulli(), num_sums=600, seed=0)
    (part,) = model.leaves.parts
    einet.start_leaves(model, pairs[torch.randperm(100, generator=torch.Generator().manual_seed(0))], share=1.0)
    rows, counts = part.phi[0, :, 0].round().T.unique(dim=0, return_counts=True)
    assert rows.tolist() == [[0, 0], [0, 1], [1, 1]] and (counts / 600 - 1 / 3).abs().max() < 0.07


def test_a_missing_value_is_as_distinct_as_any():
    """Rows that have nothing in the region are one of its distinct rows: entries of theirs are the column's mean."""
    x = torch.cat((torch.zeros(50, 1), torch.ones(50, 1)))
    observed = torch.cat((torch.arange(50) < 25, torch.ones(50, dtype=torch.bool)))[:, None]
    model = einet.Einet(einet.RegionGraph([[0]]), einet.Bernoulli(), num_sums=600, seed=0)
    einet.start_leaves(model, torch.where(observed, x, torch.nan), observed, share=1.0)
    phi = model.leaves.parts[0].phi[0, 0, 0]
    for value in (1e-5, 50 / 75, 1 - 1e-5):
        assert (phi - value).abs().lt(1e-6).double().mean().item() == pytest.approx(1 / 3, abs=0.07)


def test_a_share_of_nothing_is_the_columns_own_distribution():
    model, x = mixed()
    einet.start_leaves(model, x, share=0.0)
    real, bits = model.leaves.parts
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(real.phi[0, :, 0], x[:, :3].mean(0)[:, None].expand(3, 5), **close)
    torch.testing.assert_close(real.phi[1, :, 0], x[:, :3].var(0, correction=0)[:, None].expand(3, 5), **close)
    torch.testing.assert_close(bits.phi[0, :, 0], x[:, 3:].mean(0)[:, None].expand(3, 5), **close)


def test_what_an_entry_expected_may_be_kept():
    """One share of each: rows, what was there, and the column."""
    model, x = mixed()
    before = [part.phi.detach().clone() for part in model.leaves.parts]
    einet.start_leaves(model, x, share=0.0, keep=1.0)
    for part, phi in zip(model.leaves.parts, before, strict=True):
        torch.testing.assert_close(part.phi.detach(), phi, rtol=1e-5, atol=1e-6)
    einet.start_leaves(model, x, share=0.0, keep=0.25)
    bits = model.leaves.parts[1]
    wanted = 0.25 * before[1] + 0.75 * x[:, bits.pairs].mean(0)[None, :, None, None]
    torch.testing.assert_close(bits.phi.detach(), wanted, rtol=1e-5, atol=1e-6)
    real = model.leaves.parts[0]
    mean = 0.25 * before[0][0] + 0.75 * x[:, real.pairs].mean(0)[:, None, None]
    torch.testing.assert_close(real.phi[0].detach(), mean, rtol=1e-5, atol=1e-6)


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
    for numel in (2**22, 7):
        monkeypatch.setattr("einet.leaves.part.CHUNK_NUMEL", numel)
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
        ({"keep": 0.3}, r"keep must be within \[0, 1 - share=0.2\], got 0.3"),
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
