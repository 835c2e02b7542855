"""`WithAtoms`: the contract of families, values beside and at atoms, and files that hold a family within a family."""

import json
import math

import numpy as np
import pytest
import torch
from contract import FamilyContract, OverPositiveNumbers
from scipy import stats

import einet
from einet import Einet, Exponential, Gamma, LogNormal, Normal, Poisson, RegionGraph, WithAtoms
from einet.families import FAMILIES, Categorical
from einet.family import ExponentialFamily


class OfAtoms(FamilyContract):
    own: np.ndarray  # phi' (|T'|, 7)

    @property
    def phi(self):
        chosen = torch.randn(len(self.family.atoms) + 1, 7, generator=torch.Generator().manual_seed(0)).double()
        return torch.cat((torch.softmax(chosen, 0), torch.tensor(self.own, dtype=torch.float64)))

    def support(self, phi):
        """The atoms, each with weight 1, and a rule for the integral over the rest."""
        values, weights = self.rule()
        atoms = torch.tensor(self.family.atoms, dtype=torch.float64)[:, None]
        return torch.cat((atoms, values)), torch.cat((torch.ones_like(atoms), weights))

    @property
    def x(self):
        return torch.tensor([*self.family.atoms, 0.1, 0.7, 1.0, 4.0], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        number = len(self.family.atoms)
        result = np.log(phi[number]) + self.scipy_of_family(x, phi[number + 1 :])
        for atom, probability in zip(self.family.atoms, phi, strict=False):
            result = np.where(x == atom, np.log(probability), result)
        return result

    def inside(self, phi):
        number = len(self.family.atoms) + 1
        whole = torch.isclose(phi[:number].sum(0), torch.ones_like(phi[0]))
        return (phi[:number] >= 1e-5 * (1 - 1e-3)).all(0) & whole & self.inside_family(phi[number:])


class TestNormalWithAtoms(OfAtoms):
    family = WithAtoms(Normal(min_variance=1e-4, max_variance=4.0), atoms=(-2.0, 0.5))
    own = np.stack((np.linspace(-2, 2, 7), np.linspace(0.1, 3, 7)))
    outside = [(math.inf, "must be finite, got inf"), (math.nan, "got nan")]
    wild = [[1.0, 0, 0, 0, 0], [0.5, 0.5, 0.5, 1, 9], [0.2, 0.3, 0.5, 1, 1e-9], [-1, 2, 1, 0, 1]]

    def rule(self):
        values = torch.linspace(-25.0001, 25, 20001, dtype=torch.float64)[:, None]
        return values, torch.full_like(values, values[1].item() - values[0].item())

    def scipy_of_family(self, x, phi):
        return stats.norm.logpdf(x, phi[0], np.sqrt(phi[1]))

    def inside_family(self, phi):
        return (phi[1] >= 1e-4 * (1 - 1e-6)) & (phi[1] <= 4 * (1 + 1e-6))


class TestGammaWithZeros(OfAtoms):
    family = WithAtoms(Gamma(max_shape=1e4))
    own = np.stack((np.linspace(0.5, 3, 7), [0.3, 0.7, 1, 1.5, 4, 20, 50]))
    outside = [(-1.0, "positive and finite, got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[1.0, 0, 0.5, 0.0], [0.5, 0.5, 1.0, -3.0], [0.1, 0.1, 2.0, 1e9]]
    rule = lambda self: OverPositiveNumbers.support(self, None)  # noqa: E731

    def scipy_of_family(self, x, phi):
        return stats.gamma.logpdf(np.where(x > 0, x, 1), phi[1], scale=phi[0] / phi[1])

    def inside_family(self, phi):
        return (phi[1] >= 0.01 * (1 - 1e-6)) & (phi[1] <= 1e4 * (1 + 1e-6))


class TestLogNormalWithACode(OfAtoms):
    """An atom outside the support of the family, as -999 for what is missing, beside a family with log h."""

    family = WithAtoms(LogNormal(max_variance=0.5), atoms=(-999.0, 0.0), floor=1e-5)
    own = np.stack((np.linspace(-1, 1, 7), np.linspace(0.05, 0.4, 7)))
    outside = [(-1.0, "positive and finite, got -1"), (-998.0, "got -998"), (math.nan, "got nan")]
    wild = [[0, 0, 1, 0, 3.0], [0.3, 0.3, 0.4, 2.0, 1e-9]]
    rule = TestGammaWithZeros.rule

    def scipy_of_family(self, x, phi):
        return stats.lognorm.logpdf(np.where(x > 0, x, 1), np.sqrt(phi[1]), scale=np.exp(phi[0]))

    def inside_family(self, phi):
        return (phi[1] >= 1e-6 * (1 - 1e-6)) & (phi[1] <= 0.5 * (1 + 1e-6))


class TestExponentialWithZeros(OfAtoms):
    """An atom at the mode of the density beside it."""

    family = WithAtoms(Exponential(), atoms=(0.0,))
    own = np.linspace(0.2, 3, 7)[None]
    outside = [(-1.0, "at least 0, got -1"), (math.nan, "got nan")]
    wild = [[1.0, 0.0, 0.0], [2.0, 1.0, 1.0]]
    rule = TestGammaWithZeros.rule

    def scipy_of_family(self, x, phi):
        return stats.expon.logpdf(x, scale=phi[0])

    def inside_family(self, phi):
        return phi[0] >= 1e-6 * (1 - 1e-6)


def one_leaf(family):
    return Einet(RegionGraph([{0}]), family, num_sums=1, seed=0).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("atom", [-1.0, 0.0, 0.3, 1.0])
def test_a_peak_that_is_an_atom_is_not_one(atom, dtype):
    """The density is larger there than the atom's probability: the mode lies beside the atom, in either precision."""
    family = WithAtoms(Normal(), atoms=(atom,))
    phi = torch.tensor([0.5, 0.5, atom, 1e-4], dtype=dtype)
    mode = family.mode(phi)
    assert abs(mode.item() - atom) < 1e-6
    wanted = Normal().log_density(torch.tensor(atom, dtype=dtype), phi[2:]) + phi[1].log()
    assert family.log_density(mode, phi).item() == pytest.approx(wanted.item(), abs=1e-3)


def test_em_finds_the_share_of_zeros_and_the_density_of_the_rest():
    random = np.random.RandomState(0)
    x = np.where(random.rand(4000) < 0.7, 0, random.gamma(3, 2, 4000))
    model = one_leaf(WithAtoms(Gamma()))
    einet.fit(model, torch.tensor(x)[:, None], epochs=2, batch_size=None, lr=1.0, progress=False)
    phi = model.leaves.parts[0].phi.detach().flatten()
    shape, _, scale = stats.gamma.fit(x[x > 0], floc=0)
    expected = [(x == 0).mean(), (x > 0).mean(), shape * scale, shape]
    assert phi.tolist() == pytest.approx(expected, rel=1e-4)
    drawn = einet.sample(model, 4000, torch.Generator().manual_seed(0))
    assert (drawn == 0).double().mean().item() == pytest.approx((x == 0).mean(), abs=0.03) and (drawn >= 0).all()


@pytest.mark.parametrize("value", [0.1, -999.0, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_atoms_are_found_in_either_type(value, dtype):
    model = one_leaf(WithAtoms(Normal(), atoms=(value, 7.0))).to(dtype)
    at, near = torch.tensor([[value], [value + 1e-3]], dtype=dtype)
    part = model.leaves.parts[0]
    assert model(at[None]).item() == pytest.approx(part.phi[0].log().item(), abs=1e-5)
    assert model(near[None]).item() != pytest.approx(part.phi[0].log().item(), abs=1e-3)
    drawn = einet.sample(model, 200, torch.Generator().manual_seed(0))
    assert (drawn == at).any() and model(drawn).isfinite().all()


def test_a_number_next_to_zero_is_no_zero():
    model = one_leaf(WithAtoms(Gamma()))
    near, zero = model(torch.tensor([[1e-60], [0.0]], dtype=torch.float64)).tolist()
    assert near != pytest.approx(zero, abs=1e-3)


def test_the_bound_on_entropies_holds_for_mixtures():
    """Half the mass at zero, half far: a bound for densities alone, by the variance, lies below the entropy."""
    family = WithAtoms(Normal(), atoms=(0.0, 1.0))
    for scale in (1e-3, 0.1, 1.0, 30.0):
        for which in ([0.3, 0.3, 0.4], [0.01, 0.01, 0.98], [0.49, 0.49, 0.02]):
            phi = torch.tensor([*which, 0.0, scale**2], dtype=torch.float64)
            assert family.entropy(phi) <= family.max_entropy(family.variance(phi)) + 1e-9


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: WithAtoms(Poisson()), "family must be one of one channel .*, got Poisson"),
        (lambda: WithAtoms(Categorical(3)), "family must .*, got Categorical"),
        (lambda: WithAtoms(WithAtoms()), "family must .*, got WithAtoms"),
        (lambda: WithAtoms(Normal(channels=3)), "family must .*channels=3"),
        (lambda: WithAtoms("Normal"), "family must .*, got 'Normal'"),
        (lambda: WithAtoms(Normal(), atoms=()), r"atoms must .*, got \(\)"),
        (lambda: WithAtoms(Normal(), atoms=(0.0, 0)), "atoms must"),
        (lambda: WithAtoms(Normal(), atoms=(math.nan,)), "atoms must"),
        (lambda: WithAtoms(Normal(), atoms=0.0), "atoms must"),
        (lambda: WithAtoms(Normal(), atoms=(1.0, 1 + 1e-12)), "atoms must"),
        (lambda: WithAtoms(Normal(), floor=0.5), r"floor must be within \(0, 1/2\), got 0.5"),
    ],
)
def test_limits(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_the_atoms_are_kept_sorted():
    assert WithAtoms(Normal(), atoms=[3, -1]) == WithAtoms(Normal(), atoms=(-1.0, 3.0))


def test_what_a_density_promises_is_not_inherited():
    class Rounded(Normal):
        def log_base(self, x):
            return torch.zeros_like(x)

    assert Normal().atomless and not Rounded().atomless and not Poisson().atomless


# A family within a family, on disk


class Shifted(Normal):
    pass


def test_the_fields_of_the_family_within_are_kept(tmp_path):
    family = WithAtoms(LogNormal(min_variance=0.01, max_variance=3.0), atoms=(0.0, -9.0))
    model = one_leaf(family)
    einet.save(model, tmp_path / "model")
    assert list(einet.load(tmp_path / "model").families) == [family]
    other = one_leaf(WithAtoms(LogNormal(min_variance=0.02, max_variance=3.0), atoms=(0.0, -9.0)))
    with pytest.raises(RuntimeError, match="LogNormal"):
        other.load_state_dict(model.state_dict())


def test_a_family_of_ones_own_within(tmp_path):
    model = one_leaf(WithAtoms(Shifted()))
    with pytest.raises(ValueError, match=r"Shifted is not one of .*families=\(Shifted,\)"):
        einet.save(model, tmp_path / "model")
    einet.save(model, tmp_path / "model", families=(Shifted,))
    with pytest.raises(ValueError, match="'Shifted' is not one of"):
        einet.load(tmp_path / "model")
    assert einet.load(tmp_path / "model", families=(Shifted,)).families == model.families


@pytest.mark.parametrize("within", [{"family": "os", "fields": {}}, {"family": "Normal", "fields": 3}, 7])
def test_a_file_may_not_name_anything_else(within, tmp_path, monkeypatch):
    from einet.storage import checkpoint

    model = one_leaf(WithAtoms())
    content = {"model": checkpoint.description(model)}
    content["model"]["networks"][0]["leaf"][0]["fields"]["family"] = within
    checkpoint.write(tmp_path / "model", json.loads(json.dumps(content)), checkpoint.parameters_of(model))
    with pytest.raises(ValueError, match="cannot read"):
        einet.load(tmp_path / "model")


def test_it_is_known_by_name():
    assert FAMILIES["WithAtoms"] is WithAtoms and issubclass(WithAtoms, ExponentialFamily)


def test_a_mode_beside_an_atom_is_a_value_of_its_own_in_either_precision():
    """The density is largest where there is an atom with less: the value beside it, also as float32."""
    family = WithAtoms(Normal(), atoms=(-2.0,))
    phi = torch.tensor([0.01, 0.99, -2.0, 1.0], dtype=torch.float64)[:, None]
    mode = family.mode(phi)
    assert mode.item() > -2 and mode.float().item() > -2
    assert family.log_density(mode, phi).item() == pytest.approx(math.log(0.99) - 0.5 * math.log(2 * math.pi))
