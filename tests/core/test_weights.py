"""Weights of rows: a row of weight 2 is that row twice, one of weight 0 is not there."""

import math

import pytest
import torch
from helpers import assert_same, em_step, network, seeded

import einet
from einet import Normal, random_binary_trees
from einet.data import CheckedData

GRAPH = random_binary_trees(4, 1, 2, seed=0)
X = torch.randn(40, 4, generator=seeded(1), dtype=torch.float64)
SEEN = torch.rand(40, 4, generator=seeded(2)) < 0.8
LABELS = torch.arange(40) % 3
TIMES = torch.arange(40) % 4


def model(num_classes=3):
    return network(Normal(), GRAPH, num_classes=num_classes).double()


def repeated(*tensors):
    return [tensor.repeat_interleave(TIMES, 0) for tensor in tensors]


@pytest.mark.parametrize("settings", [{}, {"pseudocount": 0.3, "leaf_pseudocount": 2.0}, {"lr": 1.0}])
def test_whole_weights_are_repeated_rows(settings):
    one, other = model(), model()
    options = {"epochs": 6, "batch_size": None, "progress": False, **settings}
    weighed = einet.fit(one, X, SEEN, LABELS, weights=TIMES, valid=(X, SEEN, LABELS, TIMES), **options)
    plain = einet.fit(other, *repeated(X, SEEN, LABELS), valid=tuple(repeated(X, SEEN, LABELS)), **options)
    assert_same(one, other, rtol=1e-9, atol=1e-11)
    assert weighed.train == pytest.approx(plain.train, rel=1e-10)
    assert weighed.valid == pytest.approx(plain.valid, rel=1e-10)


def test_whole_weights_are_repeated_rows_for_other_optimizers():
    models = []
    for rows, weights in ((X, TIMES), (*repeated(X), None)):
        free = einet.unconstrained(model(1))
        adam = torch.optim.SGD(free.parameters(), lr=0.05)
        einet.fit(free, rows, weights=weights, optimizer=adam, batch_size=None, epochs=5, progress=False)
        models.append(einet.constrained(free))
    assert_same(*models, rtol=1e-9, atol=1e-11)


def test_a_fraction_is_that_much_of_the_gradient():
    """One step of EM, by hand: its gradient is that of the weighted sum."""
    one, other = model(1), model(1)
    weights = torch.rand(40, generator=seeded(3), dtype=torch.float64) * 3
    einet.fit(one, X, weights=weights, epochs=1, batch_size=None, lr=1.0, progress=False)
    em = einet.EM(other)
    (other(X) * weights).sum().backward()
    em.step()
    assert_same(one, other, rtol=1e-12, atol=1e-14)


def test_a_weight_belongs_to_its_row_in_batches():
    """Weights that are all 2 double every count: without pseudocounts the steps are the same."""
    one, other = model(1), model(1)
    options = {"epochs": 3, "batch_size": 7, "lr": 0.3, "progress": False}
    einet.fit(one, X, weights=torch.full((40,), 2.0), **options)
    einet.fit(other, X, **options)
    assert_same(one, other, rtol=1e-9, atol=1e-11)
    heavy = torch.zeros(40).index_fill_(0, torch.arange(10), 1.0)
    only = model(1)
    einet.fit(one := model(1), X, weights=heavy, **options)
    einet.fit(only, X[:10], **options)
    assert_same(one, only, rtol=1e-12, atol=1e-14)


def test_a_row_of_weight_0_may_have_density_0():
    rows, family = torch.tensor([[1e200], [0.0], [1.0]], dtype=torch.float64), Normal()
    graph = random_binary_trees(1, 0, 1, seed=0)
    density = network(family, graph).double()
    einet.fit(density, rows, weights=[0.0, 1.0, 1.0], epochs=2, progress=False)
    assert einet.log_density(density, rows[1:]).isfinite().all()


def test_batches_of_light_rows_move_other_optimizers_less():
    """The gradient of a batch is divided by the mean weight of all rows: the steps of an epoch add up."""
    density = einet.unconstrained(model(1))
    weights = torch.cat((torch.full((20,), 0.1), torch.full((20,), 1.9))).double()
    data, found = CheckedData(density, X, weights=weights), []
    for half in (slice(0, 20), slice(20, 40)):
        density.zero_grad()
        (-data.log_likelihood(half) / (20 * data.total_weight / 40)).backward()
        found.append([parameter.grad.clone() for parameter in density.parameters()])
    density.zero_grad()
    (-(density(X) * weights).sum() / weights.sum()).backward()
    for light, heavy, parameter in zip(*found, density.parameters(), strict=True):
        assert torch.allclose((light + heavy) / 2, parameter.grad)


def test_shrinkage_goes_towards_the_weighted_column():
    one, other = model(1), model(1)
    for density, data in ((one, (X, SEEN, TIMES.double())), (other, tuple(repeated(X, SEEN)))):
        em_step(density, X, SEEN, leaf_pseudocount=5.0, data=data)
    assert_same(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "weights", [torch.ones(39), -torch.ones(40), torch.full((40,), math.nan), torch.zeros(40), torch.ones(40, 1)]
)
def test_weights_that_cannot_be(weights):
    density = model(1)
    before = {name: tensor.clone() for name, tensor in density.state_dict().items() if isinstance(tensor, torch.Tensor)}
    with pytest.raises(ValueError, match="weights must be 40 finite numbers of at least 0"):
        einet.fit(density, X, weights=weights, progress=False)
    assert all(torch.equal(tensor, density.state_dict()[name]) for name, tensor in before.items())


def test_weights_are_part_of_a_run(tmp_path):
    path = tmp_path / "run.safetensors"
    options = {"epochs": 2, "checkpoint": path, "progress": False}
    einet.fit(model(1), X, weights=TIMES, **options)
    with pytest.raises(ValueError, match="of another run: rows"):
        einet.fit(model(1), X, **options)
