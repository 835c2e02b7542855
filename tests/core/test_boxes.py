"""Probabilities of boxes, draws within them, and quantiles: against enumeration, integration and exact tests."""

import copy
import math

import numpy as np
import pytest
import torch
from enumeration import MODELS, Table, check_p_values, labels_of, small_model
from helpers import seeded
from scipy import stats
from strategies import ALL, in_float64, rows
from test_families import Rayleigh

from einet import (
    Bernoulli,
    Categorical,
    Einet,
    Exponential,
    Gamma,
    Geometric,
    LogNormal,
    Mixture,
    Normal,
    Poisson,
    RegionGraph,
    conditional_marginals,
    log_conditional_probability,
    log_marginal,
    log_probability,
    poon_domingos,
    random_binary_trees,
    sample_conditional,
)
from einet.queries import passes

inf, nan = math.inf, math.nan
CLOSE = dict(rtol=1e-9, atol=1e-9)
every_model = pytest.mark.parametrize("name", MODELS)


def boxes_for(table, num_rows, seed=0):
    """Boxes of which some entries are unbounded, some between whole numbers."""
    generator, variables = seeded(seed), table.worlds.shape[1]
    low = torch.randint(-1, 2, (num_rows, variables), generator=generator) - 0.5
    high = low + torch.randint(1, 3, (num_rows, variables), generator=generator)
    high = torch.where(torch.rand(high.shape, generator=generator) < 0.4, inf, high)
    return torch.where(torch.rand(low.shape, generator=generator) < 0.4, -inf, low).double(), high.double()


def inside(table, low, high):
    return ((table.worlds >= low) & (table.worlds <= high)).all(1)


# Probabilities


@every_model
def test_boxes_are_sums_over_worlds(name):
    model = small_model(name)
    table = Table(model)
    low, high = boxes_for(table, 12)
    expected = torch.stack([table.probabilities[inside(table, *box)].sum() for box in zip(low, high, strict=True)])
    found = log_probability(model, low, high, **labels_of(model))
    assert found.shape == (12,)
    torch.testing.assert_close(found.exp(), expected, **CLOSE)
    one_row = log_probability(model, low[3], high[3], **labels_of(model))
    torch.testing.assert_close(one_row, found[3:4], **CLOSE)


@every_model
def test_boxes_beside_observed_entries_are_sums_over_worlds(name):
    model = small_model(name)
    table, labels = Table(model), labels_of(model)
    low, high = boxes_for(table, 6, seed=1)
    x = table.worlds[torch.randint(len(table.worlds), (6,), generator=seeded(2))].clone()
    observed = torch.rand(x.shape, generator=seeded(3)) < 0.3
    joint = []
    for row, mask, *box in zip(x, observed, low, high, strict=True):
        free = ~mask
        agrees = (table.worlds[:, mask] == row[mask]).all(1)
        within = ((table.worlds >= box[0]) & (table.worlds <= box[1]))[:, free].all(1)
        joint.append(table.probabilities[agrees & within].sum())
    contradicted = log_probability(model, low, high, torch.where(observed, x, nan), observed, **labels)
    x, low, high = (torch.where(hidden, nan, t) for hidden, t in ((~observed, x), (observed, low), (observed, high)))
    found = log_probability(model, low, high, x, observed, **labels)
    torch.testing.assert_close(found.exp(), torch.stack(joint), **CLOSE)
    assert torch.equal(contradicted, found)  # what bounds say of observed entries is not looked at
    given = log_conditional_probability(model, low, high, x, observed, **labels)
    evidence = torch.stack([table.marginal(*each) for each in zip(x, observed, strict=True)])
    torch.testing.assert_close(given.exp(), torch.stack(joint) / evidence, **CLOSE)


@pytest.mark.parametrize("name", ["uneven, mixed", "thin", "no depth"])
def test_sets_are_sums_over_worlds(name):
    model = small_model(name)
    table = Table(model)
    low, high = boxes_for(table, 5, seed=4)
    per_row = torch.rand(5, 3, generator=seeded(5)) < 0.6
    among = {1: [0, 2], 4: per_row, 2: torch.tensor([True, True, False]), 0: {1}}
    allowed = torch.stack([inside(table, *box) for box in zip(low, high, strict=True)])
    allowed &= (table.worlds[:, 1] != 1) & (table.worlds[:, 2] < 2) & (table.worlds[:, 0] == 1)
    allowed &= per_row[:, table.worlds[:, 4].long()]
    expected = (allowed * table.probabilities).sum(1)
    torch.testing.assert_close(log_probability(model, low, high, among=among).exp(), expected, **CLOSE)
    assert log_probability(model, among={1: []}).item() == -inf
    one = log_probability(model, among={1: [0]}).exp() + log_probability(model, among={1: np.array([1, 2])}).exp()
    assert one.item() == pytest.approx(1, abs=1e-9)


def continuous(**sizes):
    leaf = {Normal(): [0], Gamma(): [1], LogNormal(max_variance=4.0): [2], Exponential(): [3]}
    return in_float64(Einet(random_binary_trees(4, 2, 3, seed=0), leaf, num_sums=3, seed=0, **sizes))


@pytest.mark.parametrize("sizes", [{}, {"sum_product": "cp"}, {"num_classes": 3}], ids=str)
def test_boxes_are_integrals(sizes):
    """Of one variable or of two, beside observed ones, by a rule that is exact to six digits."""
    model = continuous(**sizes)
    labels = {"labels": 2} if sizes.get("num_classes") else {}
    nodes, weights = (torch.tensor(each) for each in np.polynomial.legendre.leggauss(60))
    a, b = 0.3 + 0.5 * (nodes + 1), -1 + 1.25 * (nodes + 1)  # within [0.3, 1.3] and [-1, 1.5]
    x = torch.tensor([[nan, nan, 0.8, 1.1]]).double().repeat(60 * 60, 1)
    x[:, 0], x[:, 1] = b.repeat_interleave(60), a.repeat(60)
    density = log_marginal(model, x).exp()
    density = density if density.dim() == 1 else density[:, 2]
    expected = (density.view(60, 60) * (1.25 * weights)[:, None] * (0.5 * weights)).sum()
    low, high = torch.tensor([-1, 0.3, nan, nan]), torch.tensor([1.5, 1.3, nan, nan])
    observed = torch.tensor([False, False, True, True])
    found = log_probability(model, low, high, x[:1], observed, **labels)
    assert found.exp().item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("family", ALL, ids=lambda family: type(family).__name__)
def test_two_halves_are_the_whole(family):
    """Of every family, with channels, in a mixture, in float32."""
    family = type(family)(channels=2)
    components = [Einet(random_binary_trees(3, 1, 2, seed=s), family, num_sums=2, seed=s) for s in range(2)]
    mixture = Mixture(components, [0.4, 0.6])
    for model in (components[0], mixture, copy.deepcopy(mixture).double()):
        x = rows(components[0], 2).to(next(model.parameters()).dtype)
        observed, split = torch.tensor([False, True, False]), 1.5
        low = torch.full((3, 2), -inf)
        high = low.neg()
        low[0, 1], high[0, 1] = split, split
        halves = [log_probability(model, *ends, x, observed) for ends in ((low, None), (None, high))]
        torch.testing.assert_close(torch.logaddexp(*halves), log_marginal(model, x, observed), rtol=1e-5, atol=1e-4)
        whole = log_conditional_probability(model, -inf, inf, x, observed)
        assert (whole == 0).all()


def test_zero_width_and_empty_boxes():
    model = in_float64(Einet(random_binary_trees(2, 1, 1), {Normal(): [0], Poisson(): [1]}, num_sums=2, seed=0))
    assert log_probability(model, torch.tensor([0.5, -inf]), torch.tensor([0.5, inf])).item() == -inf
    assert log_probability(model, torch.tensor([-inf, 1.2]), torch.tensor([inf, 1.8])).item() == -inf
    three = log_probability(model, torch.tensor([-inf, 3]), torch.tensor([inf, 3]))
    expected = log_marginal(model, torch.tensor([[0, 3.0]]).double(), torch.tensor([False, True]))
    torch.testing.assert_close(three, expected)
    assert log_probability(model).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sum_product", ["tucker", "cp"])
def test_far_tails_and_entries_that_evidence_had_ruled_out(sum_product):
    """One entry is e^-200 of the other by what is observed, and the other e^-450 of it by the box, in float32."""
    model = Einet(RegionGraph([{0, 1}]), Normal(), num_sums=2, seed=0, sum_product=sum_product)
    (part,) = model.leaves.parts
    part.phi.data[0, :, 0] = torch.tensor([[0.0, 20.0], [0.0, 30.0]])  # the means of variable 0, of variable 1
    part.phi.data[1] = 1.0
    weights = model.sum_layers()[-1].weights.detach().double().flatten().log()
    x, observed = torch.tensor([[0.0, nan]]), torch.tensor([True, False])
    found = log_probability(model, torch.tensor([nan, 30.0]), torch.tensor([nan, 31.0]), x, observed)
    terms = [
        float(weights[k]) + stats.norm(first).logpdf(0) + tail
        for k, (first, tail) in enumerate(((0, -454.3212), (20, math.log(stats.norm.cdf(1) - 0.5))))
    ]
    assert found.item() == pytest.approx(np.logaddexp.reduce(terms), rel=1e-5)
    far = log_probability(model, torch.tensor([-inf, 60.0]), torch.tensor([inf, inf]))
    assert far.item() == pytest.approx(float(weights[1]) + stats.norm.logsf(30), rel=1e-5)


def test_classes_are_all_answered_or_one():
    model = small_model("classes")
    low, high = boxes_for(Table(model), 4)
    every = log_probability(model, low, high)
    assert every.shape == (4, 3)
    labels = torch.tensor([2, 0, 1, 2])
    torch.testing.assert_close(log_probability(model, low, high, labels=labels), every[torch.arange(4), labels])


def test_grids_and_dtypes():
    model = Einet(poon_domingos((2, 4), 1), Bernoulli(), num_sums=3, seed=0)
    low = torch.zeros(2, 4)
    low[1, 2] = 1
    x, observed = torch.ones(3, 2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    expected = log_marginal(model, torch.ones(1, 8), torch.arange(8) == 6)
    for dtype in (torch.bool, torch.int64, torch.float16, torch.float64):
        torch.testing.assert_close(log_probability(model, low.to(dtype), None), expected)
        found = log_probability(model, low.to(dtype), None, x.to(dtype), observed)
        torch.testing.assert_close(found, expected.expand(3))
    assert log_probability(model, low.numpy()).dtype == torch.float32


def test_portions_change_nothing(monkeypatch):
    model = small_model("uneven, mixed")
    low, high = boxes_for(Table(model), 9)
    x, observed = Table(model).worlds[:9], torch.arange(6) == 4

    def ask():
        drawn = sample_conditional(model, x, observed, 3, seeded(0), low=-1, high=1)
        return log_probability(model, low, high, x, observed, among={1: [0, 2]}), drawn.shape

    whole = ask()
    for module in ("passes", "boxes"):
        monkeypatch.setattr(f"einet.queries.{module}.CHUNK_NUMEL", 50)
    torch.testing.assert_close(ask()[0], whole[0], **CLOSE)
    assert ask()[1] == whole[1]


# Draws


@every_model
def test_draws_within_boxes_follow_the_enumerated_conditional(name):
    model = small_model(name)
    table = Table(model)
    x, observed = table.worlds[[3, -6]].clone(), torch.zeros(2, table.worlds.shape[1], dtype=torch.bool)
    observed[0, ::3] = observed[1, 1] = True
    low, high = boxes_for(table, 40, seed=7)
    which = [_likely(table, x[row], observed[row], low, high, row) for row in range(2)]
    low, high = low[which], high[which]
    p_values = []
    for seed in range(6):
        drawn = sample_conditional(model, x, observed, 4000, seeded(seed), **labels_of(model), low=low, high=high)
        for row in range(2):
            posterior = table.given(x[row], observed[row]) * inside_free(table, observed[row], low[row], high[row])
            if (posterior > 0).sum() > 1:
                p_values.append(table.p_value(drawn[:, row], posterior / posterior.sum()))
    assert len(p_values) == 12
    check_p_values(p_values)


def _likely(table, x, observed, low, high, number):
    """Which box is hard, but no rare event: the second, third, ... of a probability above 0.05."""
    mass = [
        (table.given(x, observed) * inside_free(table, observed, *box)).sum() for box in zip(low, high, strict=True)
    ]
    return [i for i, each in enumerate(mass) if 0.05 < each < 0.8][number + 1]


def inside_free(table, observed, low, high):
    return ((table.worlds >= low) & (table.worlds <= high))[:, ~observed].all(1)


def test_draws_among_sets():
    model = small_model("uneven, mixed")
    table = Table(model)
    tables = torch.tensor([[True, False, True], [False, True, True]])
    nothing = torch.zeros(6, dtype=torch.bool)
    drawn = sample_conditional(model, table.worlds[:2], nothing, 20_000, seeded(0), low=-inf, among={1: tables})
    for row in range(2):
        posterior = table.probabilities * tables[row][table.worlds[:, 1].long()]
        assert table.p_value(drawn[:, row], posterior / posterior.sum()) > 1e-3


@pytest.mark.parametrize("kind", ["tucker", "cp", "mixture"])
def test_continuous_draws_are_uniform_after_their_distribution_function(kind):
    """P(X_d <= draw | evidence, box), by the exact probabilities of boxes: any error in either shows."""
    if kind == "mixture":
        parts = [continuous(), Einet(random_binary_trees(4, 1, 2, seed=5), continuous().families, num_sums=2).double()]
        model = Mixture(parts, [0.3, 0.7]).double()
    else:
        model = continuous(sum_product=kind)
    x, observed = torch.tensor([[nan, nan, 0.8, nan]], dtype=torch.float64), torch.arange(4) == 2
    low, high = (torch.tensor(ends, dtype=torch.float64) for ends in ([0.5, -inf, nan, 0.4], [inf, 0.9, nan, 0.5]))
    drawn = sample_conditional(model, x, observed, 1000, seeded(0), low=low, high=high)[:, 0]
    free = [0, 1, 3]
    assert ((drawn >= low) & (drawn <= high))[:, free].all() and (drawn[:, 2] == 0.8).all()
    whole = log_probability(model, low, high, x, observed)
    for d in free:
        ends = high.repeat(1000, 1)
        ends[:, d] = drawn[:, d]
        u = (log_probability(model, low, ends, x.expand(1000, -1), observed) - whole).exp()
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    # And together: by Rosenblatt's transform, the second given the first.
    known = x.repeat(1000, 1)
    known[:, 0] = drawn[:, 0]
    seen, ends = observed | (torch.arange(4) == 0), high.repeat(1000, 1)
    ends[:, 1] = drawn[:, 1]
    u = (log_probability(model, low, ends, known, seen) - log_probability(model, low, high, known, seen)).exp()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_draws_in_a_far_tail_and_in_any_dtype():
    model = Einet(random_binary_trees(3, 1, 2, seed=0), {Normal(): [0, 1], Geometric(): [2]}, num_sums=2, seed=0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.zeros(2, 3, dtype=dtype)
        low, high = torch.tensor([40.0, -inf, 30]).double(), torch.tensor([40.1, -50, inf]).double()
        drawn = sample_conditional(model, x, torch.zeros(3, dtype=torch.bool), 50, seeded(0), low=low, high=high)
        assert drawn.dtype == dtype and ((drawn.double() >= low) & (drawn.double() <= high)).all()
    third, nothing = torch.tensor([0.1, 1 / 3, 0]).double(), torch.zeros(3, dtype=torch.bool)
    drawn = sample_conditional(model, x.float(), nothing, 200, seeded(0), low=third, high=third + 1e-6)[..., :2]
    assert ((drawn >= third[:2]) & (drawn <= third[:2] + 1e-6)).all()


def test_without_boxes_nothing_changes():
    model = small_model("mixture")
    x, observed = Table(model).worlds[:3], torch.arange(8) < 3
    plain = sample_conditional(model, x, observed, 5, seeded(0))
    assert torch.equal(sample_conditional(model, x, observed, 5, seeded(0), low=-inf, high=inf), plain)


def test_a_box_of_probability_zero_names_the_row(monkeypatch):
    model = Einet(random_binary_trees(3, 1, 2, seed=0), Poisson(), num_sums=2, seed=0)
    x, observed = torch.zeros(4, 3), torch.arange(3) == 0
    low = torch.tensor([0.0, 0, 1.2, 0])[:, None].expand(-1, 3)
    for numel in (passes.CHUNK_NUMEL, 1):
        monkeypatch.setattr(passes, "CHUNK_NUMEL", numel)
        for either in (model, Mixture([model, model], [0.5, 0.5])):
            with pytest.raises(ValueError, match="row 2 has density 0"):
                sample_conditional(either, x, observed, low=low, high=low + 0.5)
    with pytest.raises(ValueError, match="row 0 has density 0"):
        log_conditional_probability(_impossible(), 0, 1, torch.ones(1, 2), torch.tensor([True, False]))


def _impossible():
    model = Einet(random_binary_trees(2, 1, 1, seed=0), Categorical(2), num_sums=1, seed=0)
    model.leaves.parts[0].phi.data[1] = 0
    return model


# Quantiles


@every_model
def test_quantiles_of_the_enumerated_posterior(name):
    model = small_model(name)
    table = Table(model)
    x, observed = table.worlds[[3, -6]].clone(), torch.zeros(2, table.worlds.shape[1], dtype=torch.bool)
    observed[0, ::3] = observed[1, 1] = True
    levels = [0.01, 0.3, 0.5, 0.77, 0.999]
    found = conditional_marginals(model, x, observed, **labels_of(model)).quantile(levels)
    assert found.shape == (5, *x.shape)
    for row in range(2):
        posterior = table.given(x[row], observed[row])
        for d in range(x.shape[1]):
            order = table.worlds[:, d].sort().indices
            below = posterior[order].cumsum(0)
            expected = [table.worlds[order, d][(below >= level - 1e-12).nonzero()[0, 0]].item() for level in levels]
            assert found[:, row, d].tolist() == expected


def test_quantiles_of_reals_and_counts_invert_the_distribution_function():
    leaf = {Normal(): [0], Gamma(): [1], LogNormal(): [2], Exponential(): [3], Poisson(): [4], Geometric(): [5]}
    graph = random_binary_trees(6, 2, 2, seed=0)
    one, two = (Einet(graph, leaf, num_sums=3, seed=s).double() for s in range(2))
    model = Mixture([one, two], [0.3, 0.7]).double()
    x = rows(one, 3)
    observed = torch.zeros(6, dtype=torch.bool)
    observed[3] = True
    marginals = conditional_marginals(model, x, observed)
    levels = (1e-9, 0.05, 0.5, 0.95, 1 - 1e-9)
    for level, at in zip(levels, marginals.quantile(levels), strict=True):
        assert torch.equal(at[:, 3], x[:, 3])
        for d in (0, 1, 2, 4, 5):
            low, high = torch.full((3, 6), -inf).double(), torch.full((3, 6), inf).double()
            high[:, d] = at[:, d]
            below = log_conditional_probability(model, low, high, x, observed).exp()
            if d < 4:
                torch.testing.assert_close(below, torch.full_like(below, level), rtol=1e-7, atol=1e-14)
            else:
                assert (below >= level - 1e-12).all() and (at[:, d] == at[:, d].floor()).all()
                high[:, d] -= 1
                assert (log_conditional_probability(model, low, high, x, observed).exp() < level).all()
    middle = marginals.quantile(0.5)
    assert middle.shape == x.shape and torch.equal(middle, marginals.quantile([0.5])[0])


def test_quantiles_of_channels_and_grids():
    model = Einet(poon_domingos((2, 2), 1), Normal(channels=3), num_sums=2, seed=0)
    x, observed = torch.zeros(2, 2, 2, 3), torch.tensor([[True, False], [False, False]])
    found = conditional_marginals(model, x, observed).quantile([0.2, 0.8])
    assert found.shape == (2, 2, 2, 2, 3) and found.dtype == torch.float32
    assert (found[0] < found[1])[:, ~observed].all() and (found[:, :, 0, 0] == 0).all()


@pytest.mark.parametrize("q", [0, 1, -0.1, nan, [0.5, 1.5], [], [[0.5]], "half", None])
def test_levels_out_of_range(q):
    model = Einet(random_binary_trees(2, 1, 1), Normal(), num_sums=1, seed=0)
    marginals = conditional_marginals(model, torch.zeros(1, 2), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"q must be .*within \(0, 1\)"):
        marginals.quantile(q)


# Mistakes

MIXED = Einet(
    random_binary_trees(4, 1, 2, seed=0), {Normal(): [0], Categorical(3): [1], Poisson(): [2], Rayleigh(): [3]},
    num_sums=2, seed=0,
)  # fmt: skip
NOTHING = torch.zeros(4, dtype=torch.bool)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(low=2.0, high=1.0), "low must be at most high, got low .2.0. and high .1.0. for variable 0 of row 0"),
        (dict(low=torch.tensor([0.0, 0, nan, 0])), "-inf or inf, got low .nan. .* for variable 2 of row 0"),
        (dict(high=torch.tensor([[0.0, 0, 0, 0], [0, nan, 0, 0]])), "got low .*high .nan. for variable 1 of row 1"),
        (dict(low=torch.zeros(3)), r"low must be a number or have shape .* got \(3,\)"),
        (dict(low=torch.zeros(0, 4)), r"got \(0, 4\)"),
        (dict(high=torch.zeros(2, 4, 2)), r"got \(2, 4, 2\)"),
        (dict(low=torch.zeros(2, 4), high=torch.ones(3, 4)), "low must be of one row or of 3, got 2"),
        (dict(low="zero"), "low must be numbers, got str"),
        (dict(low=torch.zeros(2, 4), x=torch.ones(3, 4), observed=NOTHING), "low must be of one row or of 3, got 2"),
        (dict(low=0, observed=NOTHING), "x must be"),
        (dict(low=0, x=torch.ones(1, 4)), "observed must be a bool tensor, got None"),
        (dict(low=0, x=torch.full((1, 4), -1.0), observed=~NOTHING), "got -1"),
        (dict(low=0), "Rayleigh.*no `log_probability`"),
        (dict(labels=0), "has 1"),
        (dict(among={2: [1]}), "Poisson.*not finitely many values"),
        (dict(among={4: [1]}), "variables are from 0 to 3, got 4"),
        (dict(among={1: [3]}), r"among\[1\]: values are integers from 0 to 2, got 3"),
        (dict(among={1: [0.5]}), "got 0.5"),
        (dict(among={1: ["a"]}), "got 'a'"),
        (dict(among={1: torch.ones(4, dtype=torch.bool)}), r"shape \(3,\) or \(B, 3\), got \(4,\)"),
        (dict(among={1: torch.ones(2, 3, dtype=torch.bool)}, low=torch.zeros(3, 4)), r"among\[1\] must be of one row"),
    ],
    ids=str,
)
def test_bad_boxes(arguments, message):
    with pytest.raises(ValueError, match=message):
        log_probability(MIXED, **arguments)


def test_a_family_without_intervals_may_stand_beside_a_box():
    low = torch.tensor([0.0, 0, 0, -inf])
    assert log_probability(MIXED, low).isfinite()
    x, drawn = torch.ones(1, 4), None
    drawn = sample_conditional(MIXED, x, NOTHING, 10, seeded(0), low=low)
    assert (drawn[..., :3] >= 0).all()
    with pytest.raises(ValueError, match="Rayleigh.*no `log_probability`"):
        sample_conditional(MIXED, x, NOTHING, low=0.5)
