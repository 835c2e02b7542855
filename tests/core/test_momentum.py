"""EM with momentum: counts are moving averages over steps. Against a loop over rows and states, and against itself."""

import copy

import pytest
import torch
from helpers import assert_same, log_likelihood, network, same

import einet
from einet import EM, Bernoulli, Einet, Mixture, Normal, fit
from einet.storage.checkpoint import optimizer_state, set_optimizer_state

LINE = einet.random_binary_trees(1, depth=0, num_replicas=1)
DEPTHLESS = einet.random_binary_trees(3, depth=0, num_replicas=1)


def step(em, model, x, observed=None, labels=None):
    em.zero_grad()
    log_likelihood(model, x, observed, labels).backward()
    em.step()


def by_hand(batches, w, p, lr, momentum, pseudocount):
    """A mixture of K products of Bernoulli distributions, w (K,) and p (K, D), after a step for each batch."""
    counts, ones = torch.zeros_like(w), torch.zeros_like(p)
    for t, x in enumerate(batches, 1):
        parts = w * (p ** x[:, None] * (1 - p) ** (1 - x[:, None])).prod(2)  # (B, K)
        r = parts / parts.sum(1, keepdim=True)
        counts = momentum * counts + (1 - momentum) * r.sum(0)
        ones = momentum * ones + (1 - momentum) * r.T @ x
        c, s = counts / (1 - momentum**t), ones / (1 - momentum**t)
        w = (1 - lr) * w + lr * (c + pseudocount) / (c + pseudocount).sum()
        p = p + lr * (s - c[:, None] * p) / (c + pseudocount)[:, None]
    return w, p


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("sum_product", ["tucker", "cp"])
@pytest.mark.parametrize("pseudocount", [0.0, 0.3])
def test_steps_are_those_of_a_loop(momentum, sum_product, pseudocount):
    x = (torch.rand(120, 3, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    model = Einet(DEPTHLESS, Bernoulli(), num_sums=4, seed=0, sum_product=sum_product).double()
    weights, phi = model.sum_layers()[-1].weights, model.leaves.parts[0].phi
    start = weights.detach().flatten().clone(), phi.detach()[0].squeeze(1).T.clone()
    em = EM(model, lr=0.6, momentum=momentum, pseudocount=pseudocount)
    batches = x.split(20)
    for batch in batches:
        step(em, model, batch)
    w, p = by_hand(batches, *start, 0.6, momentum, pseudocount)
    torch.testing.assert_close(weights.detach().flatten(), w, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(phi.detach()[0].squeeze(1).T, p, atol=1e-12, rtol=1e-9)


def test_far_from_zero_single_precision_is_enough():
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    found = []
    for offset in (0.0, 4096.0):
        model = Einet(LINE, Normal(), num_sums=1, seed=0)
        model.leaves.parts[0].phi.data.copy_(torch.tensor([offset + 0.5, 2.0])[:, None, None, None])
        em = EM(model, lr=0.5, momentum=0.8)
        for batch in (x + offset).split(50):
            step(em, model, batch)
        mean, variance = model.leaves.parts[0].phi.detach().flatten().tolist()
        found.append((mean - offset, variance))
    assert found[0] == pytest.approx(found[1], abs=2e-3)


def test_constant_counts_are_their_own_average():
    """At a fixed point of full-batch EM nothing moves, and the first step is that without momentum."""
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    plain, averaged = network(), network()
    for model, momentum in ((plain, 0.0), (averaged, 0.9)):
        step(EM(model, lr=0.3, momentum=momentum), model, x)
    assert_same(averaged, plain, atol=1e-6, rtol=1e-5)


def test_what_a_step_leaves_as_it_is():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    model = network()
    em = EM(model, lr=0.3, momentum=0.9)
    model(x).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    em.step()
    assert all(map(torch.equal, before, (parameter.grad for parameter in model.parameters())))
    em = EM(model, lr=0.3)
    step(em, model, x)
    assert all({"usual", "steps"}.issuperset(kept) for kept in em.state.values()), "without momentum nothing is kept"


@pytest.mark.parametrize("copied", ["deepcopy", "state_dict", "file"])
@pytest.mark.parametrize("double", [False, True])
def test_averages_go_with_the_optimizer(copied, double):
    batches = torch.randn(80, 6, generator=torch.Generator().manual_seed(1)).split(20)
    model = network()
    em = EM(model, lr=0.4, momentum=0.9)
    for batch in batches[:2]:
        step(em, model, batch)
    if copied == "deepcopy":
        again, other = copy.deepcopy((model, em))
    else:
        again = copy.deepcopy(model)
        other = EM(again, lr=0.4, momentum=0.9)
        if copied == "file":
            set_optimizer_state(other, *optimizer_state(em))
        else:
            other.load_state_dict(copy.deepcopy(em.state_dict()))  # torch would share the tensors
    for each, optimizer in ((model, em), (again, other)):
        if double:
            each.double()
        for batch in batches[2:]:
            step(optimizer, each, batch.to(next(each.parameters()).dtype))
        of_type = {
            t.dtype for kept in optimizer.state.values() for name, t in kept.items() if name in ("way", "counts")
        }
        assert of_type == {next(each.parameters()).dtype}
    assert same(model, again)


def test_mixtures_and_classes():
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(1))
    both = Mixture([network(seed=0), network(seed=1)], [0.5, 0.5])
    for model, labels in ((both, None), (network(num_classes=3), torch.arange(90) % 3)):
        history = fit(model, x, labels=labels, epochs=6, batch_size=30, momentum=0.5, progress=False)
        assert history.train[-1] > history.train[0] + 0.1


def test_missing_values_and_classes_without_rows():
    x = torch.tensor([[1, 1, 0], [0, 1, 1]])
    model = Einet(DEPTHLESS, Bernoulli(), num_sums=2, num_classes=2, seed=0)
    weights, phi = model.sum_layers()[-1].weights, model.leaves.parts[0].phi
    before = weights.detach().clone(), phi.detach().clone()
    em = EM(model, lr=0.5, momentum=0.9)
    for _ in range(3):
        step(em, model, x, observed=torch.tensor([True, True, False]), labels=torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(weights[:, 1], before[0][:, 1], atol=1e-6, rtol=0)  # (L, K_out, n)
    torch.testing.assert_close(phi[:, 2], before[1][:, 2], atol=1e-6, rtol=0)
    assert not torch.allclose(phi[:, :2], before[1][:, :2], atol=1e-3)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 1.5, float("nan"), None, "0.5", True])
def test_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match=r"momentum must be within \[0, 1\), got"):
        EM(network(), momentum=momentum)
    em, model = EM(model := network(), momentum=0.5), model
    em.param_groups[0]["momentum"] = momentum
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"momentum must be within \[0, 1\), got"):
        step(em, model, torch.zeros(2, 6))
    assert same(model, before)


def test_joint_leaves_have_none():
    model = einet.Einet(einet.RegionGraph([range(3)]), einet.MultivariateNormal(), num_sums=2, seed=0)
    em = einet.EM(model, momentum=0.9)
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(x).sum().backward()
    with pytest.raises(ValueError, match="momentum=0.9 is not for joint leaves"):
        em.step()
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
