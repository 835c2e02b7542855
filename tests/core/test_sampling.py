"""Samples against the enumerated distribution; samplers that are wrong in one place fail the same checks."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from enumeration import MODELS, Table, check_p_values, chi_square, labels_of, small_model
from helpers import seeded
from hypothesis import given
from hypothesis import strategies as st
from oracle import Circuit
from strategies import examples, in_float64, masks, models, rows
from work import assert_proportional, made

from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    Mixture,
    Normal,
    conditional_mean,
    conditional_variance,
    poon_domingos,
    random_binary_trees,
    sample,
    sample_conditional,
)
from einet.layers.sums import CPLayer, EinsumLayer, MixingLayer
from einet.queries import passes, sampling

SEEDS, DRAWS = range(20), 20_000
nan = float("nan")


# The statistical checks, for the samplers and for the mutants below


def check_samples(model, draw=sample):
    table = Table(model)
    check_p_values([table.p_value(draw(model, DRAWS, seeded(seed), **labels_of(model))) for seed in SEEDS])


def evidence_for(model):
    """Two rows, two masks."""
    num_variables = Table(model).worlds.shape[1]
    x = Table(model).worlds[[3, -6]].clone()
    observed = torch.tensor([[d % 3 == 0 for d in range(num_variables)], [d in (1, 2) for d in range(num_variables)]])
    x[~observed] = nan
    return x, observed


def check_conditional_samples(model, draw=sample_conditional):
    table, (x, observed) = Table(model), evidence_for(model)
    posteriors = [table.given(*row) for row in zip(x, observed, strict=True)]
    p_values = []
    for seed in SEEDS:
        drawn = draw(model, x, observed, DRAWS, seeded(seed), **labels_of(model))
        assert drawn.shape == (DRAWS, *x.shape)
        p_values.append([table.p_value(drawn[:, b], posterior) for b, posterior in enumerate(posteriors)])
    for of_row in zip(*p_values, strict=True):
        check_p_values(of_row)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_samples_follow_the_enumerated_distribution(name):
    check_samples(small_model(name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_conditional_samples_follow_the_enumerated_conditional(name):
    check_conditional_samples(small_model(name))


# Mutants


def largest(self, odds, which):
    return odds.argmax(1)[which]


def argmax_component(patch):
    draw = sampling._Draw.__call__
    patch(sampling._Draw, "__call__", lambda self, o, w: (largest if o.shape[1] == 3 else draw)(self, o, w))


def component_by_its_prior(patch):
    mixed = sampling._draw_mixed

    def by_prior(model, odds, *arguments):
        return mixed(model, model.weights.expand(len(odds), -1), *arguments)

    patch(sampling, "_draw_mixed", by_prior)


def argmax_everywhere(patch):
    patch(sampling._Draw, "__call__", largest)


def shuffled_weights(patch):
    rows_of = sampling._draw_rows

    def shuffled(network, *arguments):
        network = copy.deepcopy(network)
        for layer in network.sum_layers():
            if layer.weight_dim == 2:
                layer.weights.copy_(layer.weights.roll(1, 2))
        return rows_of(network, *arguments)

    patch(sampling, "_draw_rows", shuffled)


def uniform_partitions(patch):
    odds = MixingLayer.odds
    patch(MixingLayer, "odds", lambda *arguments: torch.ones_like(odds(*arguments)))


def partitions_without_evidence(patch):
    odds = MixingLayer.odds
    patch(MixingLayer, "odds", lambda layer, inputs, *key: odds(layer, None, *key))


def pairs_without_evidence(patch):
    for kind in (EinsumLayer, CPLayer):
        odds = kind.odds
        patch(kind, "odds", lambda layer, inputs, *key, odds=odds: odds(layer, None, *key))


def pairs_that_see_the_left_alone(patch):
    odds = EinsumLayer.odds

    def left_alone(layer, inputs, *key):
        return odds(layer, inputs and [inputs[0], inputs[1].map(torch.ones_like)], *key)

    patch(EinsumLayer, "odds", left_alone)


def first_row_for_all(patch):
    odds = EinsumLayer.odds
    patch(EinsumLayer, "odds", lambda *arguments: odds(*arguments[:-1], torch.zeros_like(arguments[-1])))


def one_draw_for_a_node(patch):
    """All samples that visit one entry share its choice: right in the marginals, but not independent."""
    draw = sampling._Draw.__call__

    def shared(self, odds, which):
        return draw(self, odds, torch.arange(len(odds)))[which]

    patch(sampling._Draw, "__call__", shared)


def ignored_evidence(model, x, observed, num_samples, generator, **labels):
    drawn = sample(model, num_samples * len(x), generator, **labels).view(num_samples, *x.shape)
    return torch.where(observed, x, drawn)


@pytest.mark.parametrize(
    "mutate, name",
    [
        (argmax_component, "mixture"),
        (argmax_everywhere, "trees"),
        (shuffled_weights, "trees"),
        (shuffled_weights, "rectangles"),
        (shuffled_weights, "mixture"),
        (uniform_partitions, "trees"),
        (one_draw_for_a_node, "trees"),
    ],
)
@pytest.mark.slow
def test_a_broken_sampler_fails(mutate, name, monkeypatch):
    mutate(monkeypatch.setattr)
    with pytest.raises(AssertionError, match="p-value"):
        check_samples(small_model(name))


@pytest.mark.parametrize(
    "mutate, name",
    [
        (argmax_component, "mixture"),
        (component_by_its_prior, "mixture"),
        (argmax_everywhere, "uneven, mixed"),
        (shuffled_weights, "trees"),
        (partitions_without_evidence, "trees"),
        (partitions_without_evidence, "uneven, mixed"),
        (pairs_without_evidence, "no depth"),
        (pairs_without_evidence, "trees"),
        (pairs_without_evidence, "thin"),
        (pairs_that_see_the_left_alone, "trees"),
        (first_row_for_all, "trees"),
    ],
)
@pytest.mark.slow
def test_a_broken_conditional_sampler_fails(mutate, name, monkeypatch):
    mutate(monkeypatch.setattr)
    with pytest.raises(AssertionError, match="p-value"):
        check_conditional_samples(small_model(name))


@pytest.mark.parametrize("name", ["trees", "mixture", "no depth"])
@pytest.mark.slow
def test_a_sampler_that_ignores_the_evidence_fails(name):
    with pytest.raises(AssertionError, match="p-value"):
        check_conditional_samples(small_model(name), ignored_evidence)


@pytest.mark.slow
def test_components_are_drawn_from_their_posterior(monkeypatch):
    """Components that own disjoint intervals of a Normal say which one drew; the evidence is another variable."""
    model = mixture_of_places()
    x, observed = torch.tensor([[0.4, nan]]), torch.tensor([True, False])
    posterior = torch.softmax(model.log_joint(x, observed)[0], 0).detach().numpy()
    assert 0.1 < posterior.min() and posterior.max() < 0.7

    def check():
        p_values = []
        for seed in SEEDS:
            drawn = sample_conditional(model, x, observed, DRAWS, seeded(seed))[:, 0, 1]
            counts = np.bincount((drawn / 100).round().long().numpy(), minlength=3)
            p_values.append(chi_square(counts, posterior * DRAWS))
        check_p_values(p_values)

    check()
    for mutate in (argmax_component, component_by_its_prior):
        with monkeypatch.context() as context, pytest.raises(AssertionError, match="p-value"):
            mutate(context.setattr)
            check()


def mixture_of_places():
    components = [Einet(random_binary_trees(2, 1, 1, seed=0), Normal(), num_sums=1, seed=c) for c in range(3)]
    for c, component in enumerate(components):
        (part,) = component.leaves.parts
        place = part.pairs.argsort()  # pair of variable 0, pair of variable 1
        with torch.no_grad():
            part.phi[0, place, 0, 0] = torch.tensor([0.5 * c, 100.0 * c])
            part.phi[1] = 1.0
    return Mixture(components, [0.2, 0.3, 0.5])


# Real variables


def test_samples_of_two_normal_variables_follow_the_density():
    model = in_float64(Einet(random_binary_trees(2, 1, 2, seed=0), Normal(), num_sums=3, seed=0))
    edges = torch.linspace(-4, 4, 401, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    density = model(torch.cartesian_prod(middle, middle)).detach().exp().view(400, 400) * (edges[1] - edges[0]) ** 2
    expected = density.view(10, 40, 10, 40).sum((1, 3)).flatten()
    expected = torch.cat((expected, 1 - expected.sum(0, keepdim=True))).numpy() * DRAWS
    p_values = []
    for seed in SEEDS:
        cell = ((sample(model, DRAWS, seeded(seed)) + 4) / 0.8).floor()
        inside = ((cell >= 0) & (cell < 10)).all(1)
        index = torch.where(inside, cell[:, 0] * 10 + cell[:, 1], 100).long()
        p_values.append(chi_square(np.bincount(index, minlength=101), expected))
    check_p_values(p_values)


@examples(15)
@given(models(classes=(1,)), st.integers(0, 9))
def test_the_average_of_conditional_samples_tends_to_the_conditional_mean(model, seed):
    x, observed = rows(model, 3, seed), masks(model, 3, seed)
    x[~observed] = nan
    drawn = sample_conditional(model, x, observed, 4000, seeded(seed))
    error = (conditional_variance(model, x, observed) / 4000).sqrt()
    off = (drawn.mean(0) - conditional_mean(model, x, observed)).abs()
    assert (off <= 5 * error + 1e-9).all()


# What comes back


@examples(30)
@given(models(), st.integers(0, 9))
def test_observed_entries_come_back_bit_for_bit_and_the_rest_is_in_the_support(model, seed):
    x, observed = rows(model, 3, seed), masks(model, 3, seed)
    x[~observed] = nan
    labels = None if model.num_classes == 1 else torch.tensor([0, 2, 1])
    drawn = sample_conditional(model, x, observed, 4, seeded(seed), labels)
    assert drawn.dtype == x.dtype and torch.equal(drawn[:, observed], x[observed].expand(4, -1))
    assert np.isfinite(Circuit(model).log_density(drawn.flatten(0, 1))).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_rows_keep_their_dtype(dtype):
    model = small_model("trees").float()
    x = (torch.arange(16).view(2, 8) % 2).to(dtype)
    observed = torch.arange(8) < 4
    drawn = sample_conditional(model, x, observed, 3)
    assert drawn.dtype == dtype and torch.equal(drawn[..., :4], x[:, :4].expand(3, -1, -1))


def test_float64_rows_survive_a_float32_model():
    model = Einet(random_binary_trees(6, 2, 2, seed=0), Normal(), num_sums=2, seed=0)
    x = torch.randn(5, 6, dtype=torch.float64)
    observed = torch.arange(6) != 2
    drawn = sample_conditional(model, x, observed, 2)
    assert torch.equal(drawn[..., observed], x[:, observed].expand(2, -1, -1))


@pytest.mark.parametrize("family", [Normal(), Binomial(total=300), Categorical(categories=400)])
def test_integers_too_small_for_the_draws_come_back_as_floats(family):
    model = Einet(random_binary_trees(4, 1, 1, seed=0), family, num_sums=2, seed=0)
    drawn = sample_conditional(model, torch.full((1, 4), 7, dtype=torch.uint8), torch.arange(4) < 2)
    assert drawn.dtype == torch.float32 and (drawn[..., :2] == 7).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(channels):
    model = Einet(poon_domingos((2, 3), 1), Normal(channels=channels), num_sums=2, seed=0)
    own = () if channels == 1 else (channels,)
    assert sample(model, 7).shape == (7, 6, *own)
    observed = torch.tensor([[True, False, True], [False, True, True]])
    for shape in ((4, 2, 3, *own), (4, 6, *own), (4, 6, channels), (4, 2, 3, channels)):
        x = torch.randn(shape)
        for mask in (observed, observed.flatten(), observed.expand(4, 2, 3)):
            drawn = sample_conditional(model, x, mask, 5)
            assert drawn.shape == (5, *shape)
            flat, seen = drawn.view(5, 4, 6, channels), observed.flatten()
            assert torch.equal(flat[:, :, seen], x.view(4, 6, channels)[:, seen].expand(5, -1, -1, -1))
            assert (flat[:, :, ~seen] != x.view(4, 6, channels)[:, ~seen]).all()


def test_everything_or_nothing_observed():
    model = small_model("trees")
    x = Table(model).worlds[:3]
    assert torch.equal(sample_conditional(model, x, torch.ones(8, dtype=torch.bool), 2), x.expand(2, -1, -1))
    nothing = sample_conditional(model, torch.full((1, 8), nan), torch.zeros(8, dtype=torch.bool), DRAWS, seeded(0))
    assert Table(model).p_value(nothing[:, 0]) > 0.001


def test_portions_of_rows_and_of_odds(monkeypatch):
    model = small_model("rectangles")
    monkeypatch.setattr(passes, "CHUNK_NUMEL", 100)
    table, (x, observed) = Table(model), evidence_for(model)
    drawn = sample_conditional(model, x.repeat(20, 1), observed.repeat(20, 1), 500, seeded(0))
    drawn = drawn.view(-1, 20, *x.shape).flatten(0, 1)
    for b in range(len(x)):
        assert table.p_value(drawn[:, b], table.given(x[b], observed[b])) > 0.001


def test_samples_of_each_label():
    model = small_model("classes")
    labels = torch.arange(3).repeat_interleave(DRAWS)
    drawn = sample(model, 3 * DRAWS, seeded(0), labels).view(3, DRAWS, 8)
    for label in range(3):
        table = Table(model)
        table.probabilities = model(table.worlds)[:, label].detach().exp()
        assert table.p_value(drawn[label]) > 0.001


def test_without_noise_the_same_leaves_answer_with_their_modes():
    """Standard deviations are 0.01, and means of a leaf's entries far apart; components draw one after the other."""
    leaf, graph = Normal(min_variance=0.99e-4, max_variance=1e-4), poon_domingos((3, 3), 1)
    model = Mixture([Einet(graph, leaf, num_sums=4, seed=seed) for seed in range(3)], [0.2, 0.3, 0.5])
    noisy, quiet = sample(model, 500, seeded(0)), sample(model, 500, seeded(0), noise=False)
    assert (noisy - quiet).abs().max() < 0.05 and 0.009 < (noisy - quiet).std() < 0.011
    means = torch.cat([network.leaves.parts[0].phi[0].flatten() for network in model.components])
    assert torch.isin(quiet, means).all()
    x, observed = torch.zeros(2, 9), torch.arange(9) < 2
    noisy, quiet = (sample_conditional(model, x, observed, 200, seeded(0), noise=noise) for noise in (True, False))
    assert 0.009 < (noisy - quiet)[..., 2:].std() < 0.011 and torch.isin(quiet[..., 2:], means).all()
    assert (quiet[..., :2] == 0).all()
    with pytest.raises(ValueError, match="a mode may lie outside"):
        sample_conditional(model, x, observed, low=0, noise=False)


# Randomness, state, cost


@pytest.mark.parametrize("name", ["trees", "mixture"])
def test_seeds_reproduce_and_the_global_state_is_left_alone(name):
    model, (x, observed) = small_model(name), evidence_for(small_model(name))
    state = torch.random.get_rng_state()
    for draw in (lambda g: sample(model, 100, g), lambda g: sample_conditional(model, x, observed, 50, g)):
        assert torch.equal(draw(seeded(1)).nan_to_num(), draw(seeded(1)).nan_to_num())
        assert not torch.equal(draw(seeded(1)), draw(seeded(2)))
        assert not torch.equal(draw(None), draw(None))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["trees", "mixture"])
def test_nothing_is_left_in_the_model(name):
    model, (x, observed) = small_model(name), evidence_for(small_model(name))
    before = copy.deepcopy(model.state_dict())
    attributes = [set(vars(module)) for module in model.modules()]
    assert not sample(model, 3).requires_grad and not sample_conditional(model, x, observed).requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert all(torch.equal(new, before[name]) for name, new in model.state_dict().items())


def test_cost_is_linear():
    """Bytes that operators make, at three numbers of samples; quadratic cost would be 16 times as much a sample."""
    model = Einet(random_binary_trees(16, 3, 10, seed=0), Bernoulli(), num_sums=10, seed=0)
    x, observed = torch.zeros(1, 16), torch.arange(16) < 8
    for draw in (lambda n: sample(model, n), lambda n: sample_conditional(model, x, observed, n)):
        assert_proportional([(n, made(partial(draw, n)).total) for n in (5_000, 20_000, 80_000)])


# Bad input


@pytest.mark.parametrize("num_samples", [0, -1, 2.0, "many", None])
def test_num_samples(num_samples):
    model, (x, observed) = small_model("trees"), evidence_for(small_model("trees"))
    with pytest.raises(ValueError, match=f"num_samples must be an integer of at least 1, got {num_samples!r}"):
        sample(model, num_samples)
    with pytest.raises(ValueError, match="num_samples"):
        sample_conditional(model, x, observed, num_samples)


@pytest.mark.parametrize("draw", [lambda m, **k: sample(m, 3, **k), lambda m, **k: sample_conditional(m, *EMPTY, **k)])
def test_labels(draw):
    with pytest.raises(ValueError, match="this one has 1"):
        draw(small_model("trees"), labels=0)
    model = small_model("classes")
    for wrong, message in (
        (None, "has 3"),
        (3, "from 0 to 2"),
        (torch.tensor([0, 1, -1]), "from 0 to 2"),
        (torch.tensor([0, 1]), "one integer or 3"),
        (torch.tensor([0.0, 1.0, 1.0]), "float32"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(model, labels=wrong)


EMPTY = torch.zeros(3, 8), torch.zeros(8, dtype=torch.bool)


def test_masks_and_rows():
    model, (x, observed) = small_model("trees"), evidence_for(small_model("trees"))
    for rows_, mask, message in (
        (x, None, "observed must be a bool tensor, got None"),
        (x, observed.float(), "observed must be a bool tensor"),
        (x, observed[:, :5], "observed must have shape"),
        (x[:, :5], observed, "x must have shape"),
        (x, torch.ones(8, dtype=torch.bool), "must be 0 or 1, got nan"),
        (x[:0], observed[0], "empty batch"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_conditional(model, rows_, mask)


def test_evidence_of_density_zero():
    model = Einet(random_binary_trees(4, 1, 1, seed=0), Categorical(categories=2), num_sums=2, seed=0)
    with torch.no_grad():
        model.leaves.parts[0].phi[1] = 0.0
    x = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]])
    for either in (model, Mixture([model, model], [0.5, 0.5])):
        with pytest.raises(ValueError, match="row 1 has density 0"):
            sample_conditional(either, x, torch.arange(4) < 1)
