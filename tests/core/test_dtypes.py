"""Every type that torch has, of a model and of rows: the answer of float64 to the type's precision, or a refusal."""

import copy

import pytest
import torch
from helpers import each_of, network
from strategies import ZERO_OR_ONE, instead

import einet
from einet import Bernoulli, Binomial, Einet, Normal, random_binary_trees

DTYPES = sorted((each for each in vars(torch).values() if isinstance(each, torch.dtype)), key=str)
DTYPES = list(dict.fromkeys(DTYPES))  # each once, though some have two names
MODELS = (torch.float32, torch.float64)
FLOATS = (torch.float16, torch.bfloat16, *MODELS)
ROWS = (torch.bool, *FLOATS, *(getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)))
each_family = each_of(instead(ZERO_OR_ONE, Binomial(total=300)))
GRAPH = random_binary_trees(4, 2, 2, seed=0)


def model_of(family, dtype=torch.float32):
    return network(family, GRAPH).to(dtype)


def in_type(x, dtype):
    """Rows in another type; None where torch cannot even make them."""
    try:
        return x.to(dtype)
    except (RuntimeError, TypeError):
        return None


@pytest.mark.filterwarnings(
    "ignore"
)  # torch warns that a complex model, or a number without its imaginary part, is new
@each_family
@pytest.mark.parametrize("of_model", [d for d in DTYPES if d.is_floating_point or d.is_complex], ids=str)
def test_every_type_of_model_and_rows(of_model, family):
    """Answers and the gradients that train, or a `ValueError` that names the type."""
    x = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    model = model_of(family)
    expected = copy.deepcopy(model).double()(x.double())
    if in_type(x, of_model) is None:
        return
    model, tried = model.to(of_model), 0
    for dtype in DTYPES:
        given = in_type(x, dtype)
        if given is None:
            continue
        tried += 1
        if of_model in MODELS and dtype in ROWS:
            found = model(given)
            assert found.dtype == of_model
            torch.testing.assert_close(found.double(), expected, rtol=8 * torch.finfo(of_model).eps, atol=2e-6)
            continue
        refused = str(dtype if of_model in MODELS else of_model)
        with pytest.raises(ValueError, match=refused):
            model(given)
        with pytest.raises(ValueError, match=refused):
            einet.fit(model, given, epochs=1, progress=False)
    assert tried >= 14


@pytest.mark.parametrize("dtype", ROWS, ids=str)
def test_a_fit_to_rows_of_any_type_is_a_fit_to_floats(dtype):
    x = torch.randint(0, 2, (60, 4), generator=torch.Generator().manual_seed(0))
    found = []
    for given in (x.float(), x.to(dtype)):
        model = model_of(Bernoulli())
        einet.fit(model, given, epochs=2, batch_size=20, progress=False)
        found.append(model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float64, torch.uint32], ids=str)
def test_large_numbers_are_not_rounded_on_the_way_in(dtype):
    """2^24 + 1 is no float32. A variance of 1 about it tells."""
    model = Einet(random_binary_trees(1, 0, 1), Normal(), num_sums=1, seed=0)
    with torch.no_grad():
        model.leaves.parts[0].phi.copy_(torch.tensor([2.0**24, 1.0])[:, None, None, None])
    x = torch.tensor([[2**24], [2**24 + 1], [2**24 + 3]], dtype=dtype)
    expected = torch.distributions.Normal(2.0**24, 1.0).log_prob(torch.tensor([0.0, 1, 3]).double() + 2**24)
    torch.testing.assert_close(model(x).double(), expected, rtol=0, atol=0.05)  # the squares' last bit, in float64


@pytest.mark.parametrize("value", [2**53, -(2**53), 2**53 + 1, 2**63 - 1])
def test_whole_numbers_that_no_float_holds(value):
    model, x = model_of(Normal()), torch.zeros(2, 4, dtype=torch.int64)
    x[1, 2] = value
    with pytest.raises(ValueError, match="below 2\\^53"):
        model(x)
    assert model(x, torch.arange(4) != 2).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("of_model", MODELS, ids=str)
def test_values_that_a_model_could_not_tell_apart(of_model, dtype):
    """Seconds since 1970 within a minute: float32 has steps of 128 there, and their squares in float64 steps of 512."""
    x = torch.randint(0, 60, (200, 4), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[:, 2] += 1_700_000_000
    model, before = model_of(Normal(), of_model), model_of(Normal(), of_model).state_dict()
    with pytest.raises(ValueError, match=rf"variable 2 is from 17000000.* {of_model} knows to within .* its mean"):
        einet.fit(model, x, progress=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    observed = torch.arange(4) != 2
    einet.fit(model, x, observed, epochs=1, progress=False)  # what is not looked at need not be told apart
    einet.fit(model, x - x[:1], epochs=1, progress=False)
    x[:, 2] = 1_700_000_000  # nor what is constant
    einet.fit(model, x, epochs=1, progress=False)
