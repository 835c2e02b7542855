"""The most probable completion: against all completions, its bound, and the decodings it chooses from."""

import pytest
import torch
from enumeration import MODELS, Table, labels_of, small_model
from hypothesis import given
from hypothesis import strategies as st
from oracle import Circuit
from strategies import examples, in_float64, masks, models, rows

from einet import (
    Bernoulli,
    Categorical,
    Einet,
    Mixture,
    Normal,
    mpe,
    poon_domingos,
    random_binary_trees,
    sample,
)
from einet.layers import sums as layers
from einet.layers.sums import EinsumLayer
from einet.queries import most_probable, passes

# Passes without gradients, as inside `mpe`.
pytestmark = pytest.mark.usefixtures("no_grad")
CLOSE = dict(rtol=1e-9, atol=1e-9)
nan = float("nan")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def of_label(log_density, labels):
    return log_density if not labels else log_density[:, 1]


@pytest.mark.parametrize("name", MODELS)
def test_between_the_bound_and_the_best_of_all_completions(name):
    model, table = small_model(name), Table(small_model(name))
    x = table.worlds[::61].clone()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    observed[0], observed[1] = False, True
    x[~observed] = nan
    found, log_density, bound = mpe(model, x, observed, **labels_of(model))
    assert torch.equal(found[observed], x[observed])
    torch.testing.assert_close(log_density, of_label(model(found), labels_of(model)).detach(), **CLOSE)
    pairs = list(zip(x, observed, strict=True))
    best = torch.stack([(table.given(*pair) * table.marginal(*pair)).max() for pair in pairs]).log()
    assert (log_density <= best + 1e-9).all() and (best <= bound + 1e-9).all()
    # Nothing is missing there; two sums of the same numbers may differ in the last bit, as in some builds of torch.
    torch.testing.assert_close(bound[1], log_density[1].to(bound.dtype), rtol=1e-14, atol=0)
    assert (log_density > best - 2).all(), "far from the best"


def decoded(network, passed, labels):
    return most_probable._decoded(network, passed, labels, torch.arange(len(labels)))[..., 0]


def argmax_of_the_sum_pass(model, x, observed, **labels):
    """What is usually called MPE: argmax component, then the largest weighted value at every sum."""
    inside, mask = model.as_input(x, observed)
    networks = getattr(model, "components", [model])
    component = model.log_joint(x, observed).argmax(1) if isinstance(model, Mixture) else torch.zeros(len(x)).long()
    found = x.clone()
    for b, c in enumerate(component):
        row = inside[:, :, b : b + 1], mask[:, b : b + 1]
        passed = passes.upward(networks[c], networks[c].leaves(*row))
        modes = decoded(networks[c], passed, torch.tensor([labels.get("labels", 0)]))[0]
        found[b] = torch.where(observed[b], x[b], modes)
    return of_label(model(found), labels)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_never_worse_than_the_argmax_of_the_sum_pass(name):
    model, table = small_model(name), Table(small_model(name))
    x = table.worlds[torch.randint(len(table.worlds), (60,), generator=torch.Generator().manual_seed(1))].clone()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    x[~observed] = nan
    _, log_density, _ = mpe(model, x, observed, **labels_of(model))
    usual = argmax_of_the_sum_pass(model, x, observed, **labels_of(model))
    assert (log_density >= usual - 1e-12).all()


@pytest.mark.slow
def test_networks_that_are_skipped_could_not_have_won(monkeypatch):
    """Most networks are ruled out by their bounds; what remains is the explanation by all maxima and the whole sum."""
    networks = [
        Einet(random_binary_trees(30, 2, 2, seed=s), Bernoulli(), num_sums=3, seed=s).double() for s in range(4)
    ]
    for network in networks:
        phi = network.leaves.parts[0].phi
        phi.copy_(torch.rand_like(phi).round_().clamp_(1e-5, 1 - 1e-5))
    model = Mixture(networks, [0.1, 0.2, 0.3, 0.4]).double()
    x, observed = sample(model, 40, torch.Generator().manual_seed(0)), torch.arange(30) < 15
    usual, by_maxima = argmax_of_the_sum_pass(model, x, observed.expand(40, -1)), []
    for network, weight in zip(networks, model.weights, strict=True):
        inside, mask = model.as_input(x, observed)
        modes = most_probable._with_modes(network, network.leaves(inside, mask), inside, mask)
        passed = passes.upward(network, modes, most_probable.maximum)
        completed = torch.where(observed, x, decoded(network, passed, torch.zeros(40).long()))
        by_maxima.append((passed.outputs[-1].log()[0, 0] + weight.log(), completed))
    scores, rows = map(torch.stack, zip(*by_maxima, strict=True))
    wanted = torch.maximum(usual, model(rows[scores.argmax(0), torch.arange(40)]))

    maxima, sums = [], []
    layers = sum(len(level.einsums) for level in networks[0].levels)
    einsum = EinsumLayer.maximum
    monkeypatch.setattr(EinsumLayer, "maximum", lambda *given: maxima.append(1) or einsum(*given))
    hooks = [network.register_forward_hook(lambda *_: sums.append(1)) for network in networks]
    found = [mpe(model, row[None], observed) for row in x]
    assert len(maxima) / layers < 2 * 40 and len(sums) < 4 * 40, (len(maxima) / layers, len(sums))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(torch.cat([each.log_density for each in found]), wanted, **CLOSE)
    for one, other in zip(mpe(model, x, observed), map(torch.cat, zip(*found, strict=True)), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_evidence_that_one_network_rules_out():
    """It is the other one's to explain; evidence that both rule out is refused."""
    networks = [
        Einet(random_binary_trees(4, 1, 1, seed=s), Categorical(categories=2), num_sums=2, seed=s) for s in (0, 1)
    ]
    networks[0].leaves.parts[0].phi[1] = 0.0
    x, observed = torch.tensor([[1.0, 0, 0, 0]]), torch.arange(4) < 1
    model = Mixture(networks, [0.5, 0.5])
    found, alone = mpe(model, x, observed), mpe(networks[1], x, observed)
    assert torch.equal(found.x, alone.x)
    torch.testing.assert_close(found.log_density, alone.log_density - torch.log(torch.tensor(2.0)))
    networks[1].leaves.parts[0].phi[1] = 0.0
    with pytest.raises(ValueError, match="row 0 has density 0"):
        mpe(model, x, observed)


def test_better_than_either_decoding_alone():
    """Each of the two wins on some rows, so both are worth their pass."""
    model = small_model("rectangles")
    x, observed = torch.full((64, 8), nan).double(), torch.zeros(64, 8, dtype=torch.bool)
    observed[:, :6] = True
    x[:, :6] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6)
    observed[:, 1] = observed[:, 4] = False
    x[~observed] = nan
    _, log_density, _ = mpe(model, x, observed)
    usual = argmax_of_the_sum_pass(model, x, observed)
    inside, mask = model.as_input(x, observed)
    modes = most_probable._with_modes(model, model.leaves(inside, mask), inside, mask)
    passed = passes.upward(model, modes, most_probable.maximum)
    by_maxima = torch.where(observed, x, decoded(model, passed, torch.zeros(64).long()))
    assert (log_density >= model(by_maxima) - 1e-12).all()
    torch.testing.assert_close(log_density, torch.maximum(usual, model(by_maxima)).detach(), **CLOSE)


@examples(25)
@given(models(), st.integers(0, 9))
def test_maxima_are_those_of_the_best_tree(model, seed):
    """The pass of maxima against all induced trees, where the graph is small; the bound holds for every model."""
    x, observed = rows(model, 3, seed), masks(model, 3, seed)
    circuit = Circuit(model)
    if circuit.num_trees() < 2000:
        inside, _ = model.as_input(x, None)
        passed = passes.upward(model, model.leaves(inside, None), most_probable.maximum)
        log_base = model.leaves.log_base(inside, None)
        for label in range(model.num_classes):
            found = passed.outputs[-1].log()[0, label] + log_base
            wide = x.numpy().reshape(3, model.graph.num_variables, -1)
            all_seen = torch.ones(model.graph.num_variables, dtype=torch.bool).numpy()
            best = [max(log_tree for log_tree, _ in circuit.root_trees(row, all_seen, label)) for row in wide]
            torch.testing.assert_close(found, torch.tensor(best), **CLOSE)
    x[~observed] = nan
    labels = None if model.num_classes == 1 else torch.tensor([0, 2, 1])
    explanation = mpe(model, x, observed, labels)
    assert (explanation.log_density <= explanation.upper_bound).all()
    assert torch.equal(explanation.x[observed], x[observed])


def test_with_one_entry_a_vector_the_explanation_is_exact():
    """A circuit of single entries is a product: leaves at their modes are the maximum, and the bound is tight."""
    model = in_float64(Einet(random_binary_trees(6, 2, 1, seed=0), Normal(), num_sums=1, seed=0))
    x, observed = torch.full((1, 6), nan, dtype=torch.float64), torch.zeros(6, dtype=torch.bool)
    found, log_density, bound = mpe(model, x, observed)
    (part,) = model.leaves.parts
    torch.testing.assert_close(found[0, part.pairs], part.phi[0, :, 0, 0].detach())
    torch.testing.assert_close(log_density, bound)


def test_shapes_and_dtypes():
    model = Einet(poon_domingos((2, 3), 1), Normal(channels=3), num_sums=2, seed=0)
    x = torch.randn(4, 2, 3, 3)
    observed = torch.tensor([[True, False, True], [False, True, True]])
    found = mpe(model, x, observed)
    assert found.x.shape == x.shape and found.log_density.shape == found.upper_bound.shape == (4,)
    assert torch.equal(found.x[:, observed], x[:, observed])
    binary = Einet(poon_domingos((2, 3), 1), Bernoulli(), num_sums=2, seed=0)
    assert mpe(binary, torch.ones(4, 6, dtype=torch.uint8), observed).x.dtype == torch.uint8


@pytest.mark.slow
def test_portions_change_nothing(monkeypatch):
    model, table = small_model("mixture"), Table(small_model("mixture"))
    x, observed = table.worlds[:100], torch.arange(8) < 3
    whole = mpe(model, x, observed)
    monkeypatch.setattr(passes, "CHUNK_NUMEL", 50)
    monkeypatch.setattr(layers, "CACHE_NUMEL", 50)
    for one, other in zip(mpe(model, x, observed), whole, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
