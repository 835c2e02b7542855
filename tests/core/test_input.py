"""Bad input: a `ValueError` that names the value and the limit, before anything has changed."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from helpers import network
from strategies import ALL

import einet
from einet import (
    EM,
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    Normal,
    RegionGraph,
    poon_domingos,
    random_binary_trees,
)
from einet.families import FAMILIES
from einet.inputs import check_integers

GRAPH = random_binary_trees(4, 2, 2, seed=0)
GRID = poon_domingos((2, 3), 1)


def model_of(family=None, graph=GRAPH, **arguments):
    return network(family or Bernoulli(), graph, num_sums=2, **arguments)


class Unchanged:
    """A context in which a ValueError must come, with this message, and leave model and gradients as they were."""

    def __init__(self, model, message):
        self.model, self.raises = model, pytest.raises(ValueError, match=message)

    def __enter__(self):
        self.before = copy.deepcopy(self.state())
        self.raises.__enter__()

    def __exit__(self, *error):
        caught = self.raises.__exit__(*error)
        for (name, old), (_, new) in zip(self.before, self.state(), strict=True):
            same = old is new is None or torch.equal(old.nan_to_num(-1), new.nan_to_num(-1))
            assert same, f"{name} has changed"
        return caught

    def state(self):
        gradients = [(f"the gradient of {name}", p.grad) for name, p in self.model.named_parameters()]
        return [*self.model.state_dict().items(), *gradients]


# Rows


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(4), r"shape \('B', 4, 1\) or \('B', 4\), got \(4,\)"),
        (torch.tensor(1.0), r"shape .*, got \(\)"),
        (torch.zeros(5, 3), r"shape .*, got \(5, 3\)"),
        (torch.zeros(5, 5), r"shape .*, got \(5, 5\)"),
        (torch.zeros(5, 4, 2), r"shape .*, got \(5, 4, 2\)"),
        (torch.zeros(5, 2, 2), r"shape .*, got \(5, 2, 2\)"),
        (torch.zeros(0, 4), "at least one row, got an empty batch"),
        (torch.zeros(5, 4, dtype=torch.complex64), "real tensor, got torch.complex64"),
        (np.zeros((5, 4)), "tensor, got ndarray"),
        (torch.zeros(5, 4).to_sparse(), r"dense tensor, got one in torch.sparse_coo: call x.to_dense\(\)"),
        ([[0.0] * 4], "tensor, got list"),
        (None, "tensor, got NoneType"),
    ],
    ids=str,
)
def test_rows_of_the_wrong_shape_or_type(x, message):
    model = model_of()
    with Unchanged(model, message):
        model(x)


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 2, 3, 2), (5, 6, 2), (5, 6, 1), (5, 6), (5, 2, 3)])
def test_images_of_the_wrong_shape(shape):
    model = model_of(Normal(channels=3), GRID)
    with Unchanged(model, r"shape \('B', 6, 3\) or \('B', 2, 3, 3\), got "):
        model(torch.zeros(shape))


CANDIDATES = (math.nan, math.inf, -math.inf, -1.0, -0.5, 0.0, 0.5, 2.0, 3.0, 300.0)


def refused(family, value):
    """What the family itself says of a value, as the contract of contract.py demands; None of one that it takes."""
    try:
        family.check(torch.tensor([value]))
    except ValueError as error:
        return str(error)


OUTSIDE = [(family, value) for family in ALL for value in CANDIDATES if refused(family, value)]


def test_every_family_has_values_outside():
    alone = {name for name, family in FAMILIES.items() if not family.joint}  # the others: test_joint_normal.py
    assert {type(family).__name__ for family, _ in OUTSIDE} == alone


@pytest.mark.parametrize("family, value", OUTSIDE, ids=str)
@pytest.mark.parametrize("mask", ["none", "shared", "each"])
def test_observed_values_outside_the_support(family, value, mask):
    model, x = model_of(family), torch.full((5, 4), family.placeholder)
    x[3, 2] = value
    observed = {"none": None, "shared": torch.arange(4) != 1, "each": torch.ones(5, 4, dtype=torch.bool)}[mask]
    with Unchanged(model, re.escape(refused(family, value)) + "$"):
        model(x, observed)
    if mask == "each":
        observed[3, 2] = False
        assert model(x, observed).isfinite().all()


def test_values_outside_the_support_in_a_mixed_model():
    model = model_of({Normal(): [0, 2], Categorical(categories=3): [1], Bernoulli(): [3]})
    model(torch.tensor([[-3.5, 2.0, 0.25, 1.0]]))
    for variable, value, message in [(1, 3.0, "0 to 2, got 3"), (3, 2.0, "0 or 1, got 2"), (2, math.nan, "got nan")]:
        x = torch.zeros(2, 4)
        x[1, variable] = value
        with Unchanged(model, message):
            model(x)
        assert model(x, torch.arange(4) != variable).isfinite().all()


@pytest.mark.parametrize("value, message", [(300, "from 0 to 255, got 300"), (-1, "from 0 to 255, got -1")])
def test_whole_numbers_outside_the_support(value, message):
    with Unchanged(model := model_of(Binomial(total=255)), message):
        model(torch.full((2, 4), value))


# Masks


@pytest.mark.parametrize(
    "observed, message",
    [
        (torch.ones(3, dtype=torch.bool), r"shape \(4,\) or \(5, 4\), got \(3,\)"),
        (torch.ones(4, 4, dtype=torch.bool), r"shape .*, got \(4, 4\)"),
        (torch.ones(5, 3, dtype=torch.bool), r"shape .*, got \(5, 3\)"),
        (torch.ones(5, 4, 1, dtype=torch.bool), r"shape .*, got \(5, 4, 1\)"),
        (torch.tensor(True), r"shape .*, got \(\)"),
        (torch.ones(4), "bool tensor, got torch.float32"),
        (torch.ones(4, dtype=torch.int64), "bool tensor, got torch.int64"),
        ([True] * 4, "bool tensor, got list"),
        (np.ones(4), "bool tensor, got ndarray"),
        (torch.ones(4, dtype=torch.bool).to_sparse(), r"dense tensor, got one in .*: call observed.to_dense\(\)"),
        (np.ones(3, dtype=bool), r"shape .*, got \(3,\)"),
        (np.array(True), r"shape .*, got \(\)"),
        (True, "bool tensor, got bool"),
    ],
    ids=str,
)
def test_masks_of_the_wrong_shape_or_type(observed, message):
    model = model_of()
    with Unchanged(model, message):
        model(torch.zeros(5, 4), observed)


@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (5, 3, 2), (4, 2, 3), (2, 3, 1), (5, 2, 3, 1)])
def test_masks_of_images_of_the_wrong_shape(shape):
    model = model_of(Bernoulli(), GRID)
    with Unchanged(model, r"shape \(6,\) or \(2, 3\) or \(5, 6\) or \(5, 2, 3\), got "):
        model(torch.zeros(5, 2, 3), torch.ones(shape, dtype=torch.bool))


# Models


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(num_sums=0), "num_sums .*at least 1, got 0"),
        (dict(num_sums=2.0), "num_sums .*got 2.0"),
        (dict(num_leaves=-1), "num_leaves .*at least 1, got -1"),
        (dict(num_classes=0), "num_classes .*at least 1, got 0"),
        (dict(leaf=Normal), "family such as .*got <class"),
        (dict(leaf="Normal"), "family such as .*got 'Normal'"),
        (dict(leaf=[Normal(), Normal()]), "family such as .*got \\[Normal"),
        (dict(leaf={Normal(): [0, 1, 2]}), r"each variable from 0 to 3 once, got \[0, 1, 2\]"),
        (dict(leaf={Normal(): [0, 1, 2, 3, 4]}), r"from 0 to 3 once, got \[0, 1, 2, 3, 4\]"),
        (dict(leaf={Normal(): [0, 1], Bernoulli(): [1, 2, 3]}), r"once, got \[0, 1, 1, 2, 3\]"),
        (dict(leaf={}), r"once, got \[\]"),
        (dict(leaf={Normal(): range(4), Bernoulli(): []}), "at least one variable .* none for Bernoulli"),
        (dict(leaf={Normal(channels=3): [0, 1], Bernoulli(): [2, 3]}), r"equally many channels, got \[1, 3\]"),
    ],
    ids=str,
)
def test_models_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Einet(**{"graph": GRAPH, "leaf": Bernoulli(), "num_sums": 2, **arguments})


# EM


@pytest.mark.parametrize("lr", [0, 0.0, -0.1, 1.5, math.nan, math.inf])
def test_step_sizes_out_of_range(lr):
    with Unchanged(model := model_of(), rf"lr .*\(0, 1\], got {lr}"):
        EM(model, lr=lr)


@pytest.mark.parametrize("pseudocount", [-1.0, math.nan, math.inf])
def test_pseudocounts_out_of_range(pseudocount):
    with Unchanged(model := model_of(), f"pseudocount .*at least 0, got {pseudocount}"):
        EM(model, pseudocount=pseudocount)


def test_unconstraining_twice():
    """The second softmax would change the density."""
    with Unchanged(model := einet.unconstrained(model_of()), "already"):
        einet.unconstrained(model)


def test_constraining_what_is_not_unconstrained():
    with Unchanged(model := model_of(), "parametrization"):
        einet.constrained(model)


def test_em_of_something_else():
    with pytest.raises(ValueError, match="Einet, got Linear"):
        EM(torch.nn.Linear(2, 2))


def ones():
    return torch.ones(3, 4)


def step_on_some_gradients_only(model):
    model(ones()).sum().backward()
    model.levels[0].einsums[0].weights.grad = None
    return EM(model).step


def step_on_the_negative_likelihood(model):
    (-model(ones()).sum()).backward()
    return EM(model).step


def step_on_a_gradient_that_is_not_a_number(model):
    model(ones()).sum().backward()
    model.leaves.parts[0].phi.grad[0, 0] = math.nan
    return EM(model).step


def step_on_an_infinite_gradient(model):
    model(ones()).sum().backward()
    model.levels[-1].einsums[0].weights.grad[0, 0] = math.inf
    return EM(model).step


def step_at_a_rate_that_a_scheduler_may_not_set(model):
    model(ones()).sum().backward()
    em = EM(model)
    em.param_groups[0]["lr"] = 1.5
    return em.step


def step_on_a_parametrized_model(model):
    einet.unconstrained(model)(ones()).sum().backward()
    return EM(model).step


@pytest.mark.parametrize(
    "prepare, message",
    [
        (lambda model: EM(model).step, "no gradient"),
        (step_on_some_gradients_only, "no gradient"),
        (step_on_the_negative_likelihood, "negative"),
        (step_on_a_gradient_that_is_not_a_number, "not finite"),
        (step_on_an_infinite_gradient, "not finite"),
        (step_at_a_rate_that_a_scheduler_may_not_set, r"\[0, 1\], got 1.5"),
        (step_on_a_parametrized_model, "parametrized"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_refused_steps(prepare, message):
    model = model_of()
    step = prepare(model)
    with Unchanged(model, message):
        step()


@pytest.mark.parametrize("value, dtype", [(1e30, torch.float32), (1e200, torch.float64)])
def test_a_row_of_density_zero_is_refused_not_learned(value, dtype):
    """Farther out than a float can say: -inf in the forward pass, and no gradient that a step could be made of."""
    model, x = model_of(Normal()).to(dtype), ones().to(dtype)
    x[1] = value
    log_density = model(x)
    assert log_density.isinf().tolist() == [False, True, False]
    log_density.sum().backward()
    with Unchanged(model, "not finite"):
        EM(model).step()


def test_one_refused_network_keeps_all_others():
    pair = torch.nn.ModuleList([model_of(), model_of()])
    pair[0](ones()).sum().backward()
    with Unchanged(pair, "no gradient"):
        EM(pair).step()


# fit

LABELS = torch.tensor([0, 1, 1])
BROKEN = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 0.5, 0]])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(x=BROKEN), "0 or 1, got 0.5"),
        (dict(x=torch.zeros(0, 4)), "empty"),
        (dict(x=torch.zeros(3, 5)), r"got \(., 5\)"),
        (dict(observed=torch.ones(2, 4, dtype=torch.bool)), r"got \(2, 4\)"),
        (dict(valid=BROKEN), "0 or 1, got 0.5"),
        (dict(valid=(BROKEN,)), "0 or 1, got 0.5"),
        (dict(valid=(ones(), torch.ones(2, 4, dtype=torch.bool))), r"got \(2, 4\)"),
        (dict(epochs=0), "at least 1, got 0"),
        (dict(batch_size=0), "at least 1, got .*0"),
        (dict(patience=0), "at least 1, got .*0"),
        (dict(lr=0.0), r"\(0, 1\], got 0.0"),
        (dict(lr=2.0), r"\(0, 1\], got 2.0"),
        (dict(pseudocount=-1.0), "at least 0, got -1.0"),
        (dict(labels=LABELS), "labels"),
    ],
    ids=str,
)
def test_refused_fits(arguments, message):
    with Unchanged(model := model_of(), message):
        einet.fit(model, **{"x": ones(), "batch_size": 1, "progress": False, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(labels=None), "labels"),
        (dict(labels=LABELS[:2]), "labels must be 3 .*numbers from 0 to 1"),
        (dict(labels=LABELS + 1), "labels must be 3 .*numbers from 0 to 1"),
        (dict(labels=LABELS - 1), "labels must be 3 .*numbers from 0 to 1"),
        (dict(labels=LABELS[:, None]), "labels must be 3 .*numbers from 0 to 1"),
        (dict(labels=LABELS.float()), "labels"),
        (dict(labels=LABELS.tolist()), "labels"),
        (dict(valid=ones()), "labels"),
        (dict(valid=(ones(), None, LABELS + 1)), "labels must be 3 .*numbers from 0 to 1"),
    ],
    ids=str,
)
def test_refused_fits_of_classes(arguments, message):
    with Unchanged(model := model_of(num_classes=2), message):
        einet.fit(model, **{"x": ones(), "labels": LABELS, "batch_size": 1, "progress": False, **arguments})


def test_log_density_refuses_what_the_model_does():
    with Unchanged(model := model_of(), "0 or 1, got 0.5"):
        einet.log_density(model, BROKEN, batch_size=1)


def test_a_graph_without_its_grid_takes_no_images():
    graph = RegionGraph(GRID.regions, GRID.partitions)
    with Unchanged(model := model_of(Bernoulli(), graph), r"got \(5, 2, 3\)"):
        model(torch.zeros(5, 2, 3))


# Counts


@pytest.mark.parametrize("value", [0, -1, True, False, 1.0, "2", math.nan])
@pytest.mark.parametrize("optional", [False, True])
def test_counts_are_integers_of_at_least_1(value, optional):
    with pytest.raises(ValueError, match=re.escape(f"b must be an integer of at least 1, got {value!r}")):
        check_integers(optional=optional, a=1, b=value)


def test_a_count_may_be_none_where_that_is_said():
    check_integers(optional=True, a=None, b=1)
    check_integers(least=0, a=0)
    with pytest.raises(ValueError, match="a must be an integer of at least 0, got None"):
        check_integers(least=0, a=None)


@pytest.mark.parametrize("name", ["num_sums", "num_leaves", "num_classes"])
def test_a_network_has_no_size_of_true(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got True"):
        Einet(GRAPH, Bernoulli(), **{name: True})
