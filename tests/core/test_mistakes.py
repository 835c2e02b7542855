"""Mistakes of existing implementations, numbered as in the project's list. Docstrings say what brings one back.

1, 2, 12 and 14 are about mixtures, samples and conditionals and are tested with those.
"""

import math

import pytest
import torch
from helpers import COUNTS, each_of, em_step, network
from oracle import worlds
from strategies import ZERO_OR_ONE, in_float64

import einet
from einet import EM, Bernoulli, Categorical, Einet, Normal, RegionGraph, poon_domingos, random_binary_trees

each_family = each_of(ZERO_OR_ONE)


def model_of(family, graph=random_binary_trees(6, 2, 3, seed=0), **sizes):
    return in_float64(network(family, graph, **sizes))


def data(num_rows=20):
    """Rows that all families allow."""
    return torch.randint(0, 2, (num_rows, 6)).double()


# 3. EM with missing variables, or with unvisited components, that shrinks parameters towards 0


@each_family
def test_3_a_variable_that_every_row_lacks_keeps_its_parameters(family):
    """Fails where T(x) = 0 stands in for a missing value, as in sum(p T) / sum(p)."""
    model = model_of(family)
    (part,) = model.leaves.parts
    before = part.phi.detach().clone()
    em_step(model, data(), observed=torch.arange(6) != 4)
    of_4 = part.pairs == 4
    torch.testing.assert_close(part.phi[:, of_4], before[:, of_4], rtol=0, atol=1e-12)
    assert not torch.allclose(part.phi[:, ~of_4], before[:, ~of_4], atol=1e-3)


def test_3_a_missing_value_counts_as_what_the_leaf_expects():
    """Fails where missing rows are left out of both sums, too: three of four rows say nothing, so one quarter moves."""
    model = model_of(Bernoulli(), RegionGraph([{0}]), num_leaves=1)
    (part,) = model.leaves.parts
    before = part.phi.item()
    em_step(model, torch.ones(4, 1).double(), observed=torch.tensor([[True], [False], [False], [False]]))
    assert part.phi.item() == pytest.approx(0.25 * 1 + 0.75 * before, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_3_a_component_that_nobody_visits_keeps_its_parameters(dtype):
    """Fails where 0 / 0 is patched by 0 / (0 + epsilon)."""
    model = model_of(Normal(), RegionGraph([{0}]), num_leaves=2).to(dtype)
    (part,) = model.leaves.parts
    with torch.no_grad():
        part.phi[:, 0, 0] = torch.tensor([[0.0, 1e4], [1.0, 2.0]])
    em_step(model, torch.tensor([[-1.0], [1.0], [3.0]]))
    assert part.phi[:, 0, 0, 1].tolist() == [1e4, 2.0]
    assert part.phi[0, 0, 0, 0].item() == pytest.approx(1)


# 4. Marginalising by log-density * mask: 0 * NaN = NaN


@each_family
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30, -7.5])
def test_4_unobserved_entries_may_hold_anything(family, junk):
    """Fails where the mask multiplies: the value, a gradient or the data's own gradient is then NaN."""
    model, x = model_of(family), data(4)
    observed = torch.rand(4, 6) < 0.5
    results = []
    for filled in (torch.where(observed, x, junk), torch.where(observed, x, 1.0)):
        model.zero_grad()
        filled = filled.requires_grad_()
        log_density = model(filled, observed)
        log_density.sum().backward()
        results.append([log_density, *(parameter.grad for parameter in model.parameters())])
        assert filled.grad is None or filled.grad[~observed].eq(0).all()
    assert all(map(torch.equal, *results))
    assert all(tensor.isfinite().all() for tensor in results[0])


# 5. Padded entries of a mixing layer that carry weight


def test_5_regions_with_two_and_three_partitions_in_one_layer_have_mass_one():
    """Fails where both share one padded weight tensor: a softmax over 3 gives the padding of the other some mass."""
    model = model_of(Bernoulli(), COUNTS)
    everything = worlds(model)
    for _ in range(3):
        torch.testing.assert_close(model(everything).exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-9)
        em_step(model, everything[::5])
    assert [mixing.weights.shape[:2] for level in model.levels for mixing in level.mixings] == [(1, 2), (1, 3)]


# 6. Natural-parameter Gaussians in float32


@pytest.mark.parametrize("variance", [1e-6, 1e-4])
def test_6_narrow_gaussians_are_exact_in_float32(variance):
    """Fails where T(x) . theta is formed in float32: 20 to 230 nats off on 3,072 dimensions."""
    model = Einet(RegionGraph([range(3072)]), Normal(), num_leaves=1, seed=0)
    mean = torch.rand(3072)
    with torch.no_grad():
        model.leaves.parts[0].phi[0, :, 0, 0] = mean
        model.leaves.parts[0].phi[1] = variance
    x = (mean + variance**0.5 * torch.randn(3072))[None]
    deviation = x[0].double() - mean.double()
    expected = (-0.5 * deviation**2 / variance - 0.5 * math.log(2 * math.pi * variance)).sum()
    assert model(x).item() == pytest.approx(expected.item(), abs=0.01)


# 7. Categorical leaves that start unnormalised


def test_7_categorical_leaves_are_normalised_before_training():
    """Fails where the initial phi is any positive vector and only the M-step normalises it."""
    model = model_of(Categorical(categories=3), random_binary_trees(4, 1, 2, seed=0))
    torch.testing.assert_close(model(worlds(model)).exp().sum(), torch.tensor(1.0).double())


# 8. Batches left over at the end of an epoch that carry stale statistics into the next


def test_8_no_statistics_are_left_over():
    """Fails where `fit` steps only on full batches, or starts on gradients that were there before."""
    x, (model, other) = data(7).float(), (model_of(Bernoulli()) for _ in range(2))
    model(x[:3]).sum().backward()
    einet.fit(model, x, epochs=2, batch_size=4, progress=False)
    einet.fit(other, x, epochs=2, batch_size=4, progress=False)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
        assert one.grad is None or not one.grad.any()


def test_8_a_lone_last_row_is_learned_from():
    """Fails where a smaller last batch is dropped: at lr=1, a batch of one row leaves just that row."""
    model = model_of(Bernoulli(), RegionGraph([{0}]), num_leaves=1)
    seen = []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    einet.fit(model, torch.tensor([[0.0], [1.0], [1.0]]), epochs=1, batch_size=2, lr=1.0, progress=False)
    assert [len(batch) for batch in seen] == [2, 1]
    assert model.leaves.parts[0].phi.item() == pytest.approx(seen[-1].item(), abs=1e-4)


# 9. Activations kept on the module


def test_9_no_module_holds_on_to_a_batch():
    """Fails where `forward` stores its input, its output or an activation anywhere on the model."""
    model = Einet(poon_domingos((2, 3), 1), {Normal(): range(3), Bernoulli(): range(3, 6)}, num_sums=3, seed=0)

    def held():
        return {(name, key) for name, module in model.named_modules() for key in _tensors(vars(module))}

    before = held()
    model(torch.ones(777, 6), torch.rand(777, 6) < 0.5).sum().backward()
    EM(model).step()
    assert held() == before


def _tensors(value, path=()):
    """Where there are tensors inside nested containers, and their shapes."""
    if isinstance(value, torch.Tensor):
        yield path, tuple(value.shape)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _tensors(inner, (*path, place))


# 10. Minibatch EM without a step size


def test_10_a_batch_moves_parameters_by_its_step_size_alone():
    """Fails where each batch replaces all parameters, and where the step reaches weights or leaves only."""
    model = model_of(Bernoulli(), RegionGraph([{0}]), num_leaves=2)
    (root,), (part,) = model.levels[0].einsums, model.leaves.parts
    with torch.no_grad():
        part.phi[0, 0, 0] = torch.tensor([0.5, 0.1])
        root.weights.fill_(0.5)
    em_step(model, torch.ones(4, 1).double(), lr=0.1)
    assert part.phi.flatten().tolist() == pytest.approx([0.9 * 0.5 + 0.1, 0.9 * 0.1 + 0.1])
    assert root.weights[0, 0].tolist() == pytest.approx([0.45 + 0.1 * 5 / 6, 0.45 + 0.1 / 6])


def test_10_fit_takes_small_steps_by_default():
    assert 0 < einet.fit(model_of(Bernoulli()), data(8), epochs=1, progress=False).lr[0] < 1


# 11. Sum weights that become NaN when a node's expected count underflows to 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_11_a_node_that_is_never_used_keeps_its_weights(dtype):
    """Fails where counts are divided by their sum, which is 0 for the partition that is 1e8 nats less likely."""
    graph = RegionGraph([{0}, {1}, {0}, {1}, {0, 1}], [(4, 0, 1), (4, 2, 3)])
    model = model_of(Normal(), graph).to(dtype)
    circuit_rows = [model.leaf_order.index(region) for region in (2, 3)]
    (part,) = model.leaves.parts
    for rows, pairs, _ in part.groups():
        for place, row in enumerate(rows.tolist()):
            if row in circuit_rows:
                part.phi.data[0, pairs.start + place] += 1e4
    (einsum,) = model.levels[0].einsums
    before = einsum.weights.detach().clone()
    em_step(model, torch.randn(10, 2))
    unchanged = [torch.equal(new, old) for new, old in zip(einsum.weights, before, strict=True)]
    assert sorted(unchanged) == [False, True]
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model(torch.randn(10, 2)).isfinite().all()


# 13. Structural marginalisation that redraws weights; Bernoulli leaves that reject NaN in unobserved entries


@each_family
def test_13_a_marginal_is_the_same_model(family):
    """Fails where asking for a marginal changes, draws or prunes parameters."""
    model, x = model_of(family), data(3)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    observed = torch.arange(6) < 3
    first = model(x, observed)
    assert torch.equal(model(x, observed), first)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("shared", [True, False])
@each_family
def test_13_nan_is_refused_only_where_it_is_observed(family, shared):
    """Fails where the support is checked before the mask is applied."""
    model, x = model_of(family), data(3)
    x[:, 2] = math.nan
    observed = torch.arange(6) != 2
    assert model(x, observed if shared else observed.expand(3, 6)).isfinite().all()
    with pytest.raises(ValueError, match="got nan"):
        model(x, torch.arange(6) != 1)
