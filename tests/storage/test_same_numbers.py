"""What einet 0.1.0 (commit a33eb23) answered, it answers still: a fixed set of models, all that is asked, a saved file.

    git worktree add FOLDER a33eb23
    PYTHONPATH=FOLDER python tests/storage/test_same_numbers.py --write

wrote `data/same_numbers.safetensors`. Numbers that a mend of a fault changed on purpose are written anew by the version
that has the mend, and the commit says so.
"""

import inspect
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import einet

NUMBERS = Path(__file__).parent / "data/same_numbers.safetensors"
SAVED = Path(__file__).parent / "data/saved_by_0_1_0.safetensors"
# That version drew all weights from the flat distribution, and had no argument for it.
flat = {"concentration": 1.0} if "concentration" in inspect.signature(einet.Einet).parameters else {}
Network = partial(einet.Einet, **flat)
CLOSE = {"rtol": 1e-6, "atol": 1e-6, "equal_nan": True}


def models():
    """By name: a network or a mixture, and how its rows are drawn, from uniform numbers (B, D) to values."""
    trees, grid = einet.random_binary_trees(8, 2, 3, seed=0), einet.poon_domingos((2, 3), 1)
    mixed = {einet.Normal(): [0, 5], einet.Bernoulli(): [1, 2], einet.Categorical(3): [3, 6], einet.Binomial(4): [4, 7]}
    several = torch.tensor([1, 2, 2, 3, 5, 1, 3, 5])  # how many values each variable of `mixed` has
    real = several == 1

    def bits(u):
        return (u < 0.4).double()

    networks = [
        Network(einet.random_binary_trees(8, depth, 2, seed=depth), einet.Bernoulli(), num_sums=2, seed=depth)
        for depth in (1, 2)
    ]
    return {
        "trees": (Network(trees, einet.Normal(), num_sums=3, seed=1).double(), lambda u: 4 * u - 2),
        "float32": (Network(trees, einet.Normal(), num_sums=3, seed=1), lambda u: (4 * u - 2).float()),
        "lengths": (Network(trees, einet.Bernoulli(), num_sums=3, num_leaves=2, seed=2).double(), bits),
        "grid": (Network(grid, einet.Binomial(3), num_sums=2, seed=3).double(), lambda u: (4 * u).floor()),
        "mixed": (
            Network(trees, mixed, num_sums=2, seed=4).double(),
            lambda u: torch.where(real, 4 * u - 2, (several * u).floor()),
        ),
        "classes": (Network(grid, einet.Bernoulli(), num_sums=2, num_classes=3, seed=5).double(), bits),
        "leaf": (Network(einet.random_binary_trees(4, 0, 1), einet.Bernoulli(), num_sums=3, seed=6).double(), bits),
        "mixture": (einet.Mixture(networks, [0.3, 0.7]).double(), bits),
    }


NAMES = ("trees", "float32", "lengths", "grid", "mixed", "classes", "leaf", "mixture")


def answers(model, draw):
    """All numbers of a model, by name."""
    network = getattr(model, "components", [model])[0]
    generator = torch.Generator().manual_seed(0)
    shape = (5, network.graph.num_variables)
    x = draw(torch.rand(shape, generator=generator, dtype=torch.float64))
    observed = torch.rand(shape, generator=generator) < 0.6
    labels = {} if model.num_classes == 1 else {"labels": torch.tensor([0, 2, 1, 1, 0])}
    found = {"x": x, "observed": observed}
    for name, mask in (("whole", None), ("masked", observed)):
        model.zero_grad()
        log_density = found[f"{name}.log_density"] = model(x, mask)
        log_density.sum().backward()
        found |= {f"{name}.gradient.{key}": parameter.grad for key, parameter in model.named_parameters()}
    found["sample"] = einet.sample(model, 5, torch.Generator().manual_seed(1), **labels)
    generator = torch.Generator().manual_seed(2)
    found["sample_conditional"] = einet.sample_conditional(model, x, observed, 2, generator, **labels)
    explanation = einet.mpe(model, x, observed, **labels)
    found |= {f"mpe.{field}": value for field, value in explanation._asdict().items()}
    found["mean"] = einet.conditional_mean(model, x, observed, **labels)
    found["variance"] = einet.conditional_variance(model, x, observed, **labels)
    if model.num_classes == 1:
        found["entropy_bounds"] = torch.tensor(einet.entropy_bounds(model), dtype=torch.float64)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for lr in (0.5, 1.0):
        em = einet.EM(model, lr=lr, pseudocount=0.1)
        em.zero_grad()
        model(x, observed).sum().backward()
        em.step()
        found |= {f"em.{lr}.{name}": parameter.clone() for name, parameter in model.named_parameters()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name])
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_numbers(name):
    expected = {key.partition("/")[2]: value for key, value in load_file(NUMBERS).items() if key.startswith(f"{name}/")}
    found = answers(*models()[name])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **CLOSE, msg=lambda text, key=key: f"{name}, {key}: {text}")


def test_a_file_of_0_1_0_is_read():
    """The same model, by its parameters, its log-densities, and the optimizer's step size."""
    model, (drawn, _) = einet.load(SAVED), models()["classes"]
    for one, other in zip(model.parameters(), drawn.parameters(), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)  # another CPU may round a drawn number otherwise
    numbers = load_file(NUMBERS)
    torch.testing.assert_close(model(numbers["classes/x"]), numbers["classes/whole.log_density"], **CLOSE)
    em = einet.EM(model)
    einet.load_optimizer(SAVED, em)
    assert em.param_groups[0]["lr"] == 0.25
    model(numbers["classes/x"]).sum().backward()
    em.step()  # a state of 0.1.0 has neither what a usual step sees, nor a pseudocount of leaves


def write():
    NUMBERS.parent.mkdir(exist_ok=True)
    found = {f"{name}/{key}": value for name, each in models().items() for key, value in answers(*each).items()}
    save_file(found, NUMBERS)
    model, _ = models()["classes"]
    einet.save(model, SAVED, einet.EM(model, lr=0.25))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
