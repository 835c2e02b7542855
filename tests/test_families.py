"""What every exponential family keeps to: `FamilyContract`. A new family gets all tests by one subclass."""

import inspect
import itertools
import math
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch
from scipy import stats

import einet
from einet import (
    Bernoulli,
    Binomial,
    Categorical,
    Einet,
    ExponentialFamily,
    LogNormal,
    Normal,
    Poisson,
    RegionGraph,
    random_binary_trees,
    start_leaves,
)
from einet.em import column_parameters
from einet.estimator import EinetDensity
from einet.exponential_family import refuse
from einet.families import FAMILIES
from einet.leaves import LeafLayer

torch.set_num_threads(1)  # as in oracle.py: a second thread would only wait


def expected_statistics(family, phi):
    """E[T(x)] as the gradient of A at theta(phi)."""
    theta = family.natural(phi).detach().requires_grad_()
    return torch.autograd.grad(family.log_normalizer(theta).sum(), theta)[0]


class FamilyContract:
    """Subclass, and say what a test cannot guess."""

    family: ExponentialFamily
    outside: list[tuple[float, str]]  # a value outside the support, and the error it gets
    wild: list[list[float]]  # parameter vectors that project must bring back

    def support(self, phi):
        """Values (V, 1) and weights (V, 1), so that sum of weight * f(value) is the integral of f, or its sum."""
        raise NotImplementedError

    def scipy_log_density(self, x, phi):
        """log p(x) for numpy x (V, 1) and phi (|T|, N)."""
        raise NotImplementedError

    def inside(self, phi):
        """Whether phi (|T|, N) is within the family's bounds."""
        raise NotImplementedError

    # What the tests draw on

    @property
    def phi(self):
        """Seven parameter vectors (|T|, 7), anywhere within the bounds."""
        raw = torch.randn(
            self.family.num_statistics, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        return self.family.constrain(raw)

    @property
    def x(self):
        """A few values of the support, (V, 1)."""
        values, _ = self.support(self.phi)
        return values[:: max(1, len(values) // 8)]

    def log_density(self, x, phi):
        """Every value of x (V, 1) under every parameter vector of phi (|T|, N): (V, N)."""
        return self.family.log_density(x, phi[:, None])

    def expectation(self, f, phi):
        values, weights = self.support(phi)
        return (weights * self.log_density(values, phi).exp() * f(values)).sum(-2)

    # The density

    def test_density_has_mass_one(self):
        mass = self.expectation(torch.ones_like, self.phi)
        torch.testing.assert_close(mass, torch.ones_like(mass))

    def test_density_is_scipys(self):
        expected = self.scipy_log_density(self.x.numpy(), self.phi.numpy())
        torch.testing.assert_close(self.log_density(self.x, self.phi), torch.tensor(expected))

    def test_gradient_of_the_log_normalizer_is_the_expected_statistics(self):
        expected = self.expectation(self.family.statistics, self.phi)
        torch.testing.assert_close(expected_statistics(self.family, self.phi), expected)

    def test_mean_and_variance(self):
        mean = self.expectation(lambda x: x, self.phi)
        torch.testing.assert_close(self.family.mean(self.phi), mean)
        torch.testing.assert_close(
            self.family.variance(self.phi), self.expectation(lambda x: (x - mean) ** 2, self.phi)
        )

    def test_mode_is_the_likeliest_value(self):
        values, _ = self.support(self.phi)
        at_mode = self.family.log_density(self.family.mode(self.phi), self.phi)
        assert (at_mode >= self.log_density(values, self.phi).amax(0) - 1e-12).all()

    def test_entropy_is_the_mean_of_the_negative_log_density_or_refused(self):
        phi, values = self.phi, self.support(self.phi)[0]
        exact = self.expectation(lambda x: -self.log_density(x, phi).clamp_min(-1e3), phi)
        try:
            entropy = self.family.entropy(phi)
        except ValueError as error:
            assert "no `entropy`" in str(error) and self.family.log_base(values) is not None
        else:
            torch.testing.assert_close(entropy, exact)
            assert entropy.shape == (7,) and not entropy.requires_grad

    def test_finitely_many_values_have_the_whole_mass(self):
        if self.family.num_values is not None:
            mass = self.family.log_probabilities(self.phi).exp().sum(0)
            torch.testing.assert_close(mass, torch.ones_like(mass))

    def test_what_may_be_shifted_and_scaled(self):
        """a x + b has a density of the family again: that with a mean and a deviation shifted and scaled alike."""
        if self.family.location_scale:  # phi is the mean and the variance
            moved = torch.stack((3 + 2 * self.family.mean(self.phi), 4 * self.family.variance(self.phi)))
            other = self.log_density(3 + 2 * self.x, moved) + math.log(2)
            torch.testing.assert_close(other, self.log_density(self.x, self.phi))

    def test_any_leading_shape(self):
        phi, x = self.phi, self.x
        cube = self.family.log_density(x[:, None].expand(-1, 3, 7), phi[:, None, None].expand(-1, len(x), 3, 7))
        torch.testing.assert_close(cube, self.log_density(x, phi)[:, None].expand(-1, 3, -1))

    def test_float32_stays_float32(self):
        phi, x = self.phi.float(), self.x.float()
        for result in (self.log_density(x, phi), self.family.project(phi), self.family.mode(phi)):
            assert result.dtype == torch.float32

    # Learning

    def test_a_step_moves_the_expected_statistics_straight(self):
        """natural_gradient turns d log p/dphi into T(x) - E[T], and step walks that way, far or not."""
        phi = self.phi.requires_grad_()
        old = expected_statistics(self.family, phi)
        for x in self.x:
            (gradient,) = torch.autograd.grad(self.family.log_density(x, phi).sum(), phi)
            direction = self.family.natural_gradient(phi.detach(), gradient)
            for rate in (0.01, 0.3, 0.9):
                moved = expected_statistics(self.family, self.family.step(phi.detach(), rate * direction))
                expected = old + rate * (self.family.statistics(x.expand(7)) - old)
                torch.testing.assert_close(moved, expected)

    def test_score_is_the_gradient_of_weighted_rows(self):
        uses = torch.rand(len(self.x), 7, dtype=torch.float64)
        statistics = (self.family.statistics(self.x) * uses).sum(1)
        phi = self.phi.requires_grad_()
        (expected,) = torch.autograd.grad((uses * self.log_density(self.x, phi)).sum(), phi)
        torch.testing.assert_close(self.family.score(phi.detach(), statistics, uses.sum(0)), expected)
        statistics = self.family.statistics(self.x).sum(1).expand(-1, 7)  # all densities use each row once
        (expected,) = torch.autograd.grad(self.log_density(self.x, phi).sum(), phi)
        result = self.family.score(phi.detach(), statistics, torch.tensor([float(len(self.x))], dtype=torch.float64))
        torch.testing.assert_close(result, expected)

    def test_natural_gradient_is_linear(self):
        one, two = (torch.randn_like(self.phi) for _ in range(2))
        phi = self.phi
        both = self.family.natural_gradient(phi, 2 * one - two)
        apart = 2 * self.family.natural_gradient(phi, one) - self.family.natural_gradient(phi, two)
        torch.testing.assert_close(both, apart)

    def test_one_em_step_fits_the_mean_statistics(self):
        """One variable, one leaf, one entry: the M-step is the maximum-likelihood estimate."""
        model = Einet(RegionGraph([{0}]), self.family, num_sums=1, seed=0).double()
        x = self.family.sample(self.phi[:, 1:2].expand(-1, 500), torch.Generator().manual_seed(1))[:, None]
        model(x).sum().backward()
        einet.EM(model).step()
        (part,) = model.leaves.parts
        mean = self.family.statistics(x[:, 0]).mean(1)
        torch.testing.assert_close(expected_statistics(self.family, part.phi[:, :, 0, 0])[:, 0], mean)

    def test_an_em_step_from_a_bound_in_float32(self):
        """As in float64: what divides the gradient by a variance and what multiplies with it must agree near bounds."""
        start = self.family.project(torch.tensor(self.wild, dtype=torch.float64).T)
        for phi, value in itertools.product(start.T, self.x):
            fitted = []
            for dtype in (torch.float64, torch.float32):
                model = Einet(RegionGraph([{0}]), self.family, num_sums=1, seed=0).to(dtype)
                (part,) = model.leaves.parts
                part.phi.data[..., 0] = phi[:, None, None]
                model(value.to(dtype)[None]).sum().backward()
                einet.EM(model).step()
                fitted.append(part.phi.detach().double())
            torch.testing.assert_close(fitted[1], fitted[0], rtol=1e-3, atol=1e-5)

    # Bounds

    def test_project_comes_back_inside_and_stays(self):
        wild = torch.tensor(self.wild, dtype=torch.float64).T
        assert not self.inside(wild).any()
        tame = self.family.project(wild)
        assert self.inside(tame).all()
        torch.testing.assert_close(self.family.project(tame), tame, rtol=1e-12, atol=0)

    def test_project_leaves_what_is_inside(self):
        torch.testing.assert_close(self.family.project(self.phi), self.phi, rtol=1e-12, atol=0)

    def test_constrain_undoes_unconstrain(self):
        torch.testing.assert_close(
            self.family.constrain(self.family.unconstrain(self.phi)), self.phi, rtol=1e-9, atol=0
        )

    def test_constrain_undoes_unconstrain_at_the_bounds(self):
        """Nearly: a bound lies at infinity, and gradients should be able to leave it."""
        phi = self.family.project(torch.tensor(self.wild, dtype=torch.float64).T)
        torch.testing.assert_close(self.family.constrain(self.family.unconstrain(phi)), phi, rtol=0.01, atol=0)

    @pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_every_real_vector_is_constrained_to_the_bounds(self, size, dtype):
        raw = size * torch.randn(self.family.num_statistics, 50, dtype=dtype)
        phi = self.family.constrain(raw)
        assert self.inside(phi[:, phi.isfinite().all(0)]).all() and not phi.isnan().any()

    def test_initial_is_inside_and_breaks_symmetry(self):
        phi = self.family.initial((3, 50), torch.Generator().manual_seed(0))
        assert phi.shape == (self.family.num_statistics, 3, 50)
        torch.testing.assert_close(self.family.project(phi), phi, rtol=1e-6, atol=0)
        assert len(phi.flatten(1).unique(dim=1).T) == 150
        assert torch.equal(phi, self.family.initial((3, 50), torch.Generator().manual_seed(0)))

    def test_leaves_start_around_rows(self):
        """By a loop over entries, with missing values: a share of the entry's rows, and the rest of all rows."""
        family, generator = self.family, torch.Generator().manual_seed(0)
        x = family.sample(self.phi[:, 3:4].expand(-1, 40 * 4 * family.channels), generator)
        x = x.view(40, 4, family.channels)
        observed = torch.rand(40, 4, generator=generator) < 0.7
        model = Einet(random_binary_trees(4, 1, 1, seed=0), family, num_sums=3, seed=1).double()
        start_leaves(model, torch.where(observed[..., None], x, torch.nan), observed, rows=2, share=0.6, seed=2)
        (part,) = model.leaves.parts
        chosen = torch.randint(40, (2, 3, 2), generator=torch.Generator().manual_seed(2))
        for regions, pairs, variables in part.groups():
            phi = part.phi.detach()[:, pairs].unflatten(1, variables.shape)  # (T, L, s, C, K)
            for i, j, k in itertools.product(range(len(regions)), range(variables.shape[1]), range(3)):
                d = variables[i, j]
                rows = [r for r in chosen[regions[i], k].tolist() if observed[r, d]]
                of_all = family.statistics(x[observed[:, d], d]).mean(1)
                of_rows = family.statistics(x[rows, d]).mean(1) if rows else of_all
                wanted = family.expecting(0.6 * of_rows + 0.4 * of_all)
                torch.testing.assert_close(phi[:, i, j, :, k], wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(family.project(part.phi), part.phi.detach(), rtol=1e-6, atol=0)
        assert model(x).isfinite().all()

    # Samples

    def test_samples_have_the_moments_of_the_density(self):
        phi, n = self.phi, 20_000
        draws = self.family.sample(phi[:, None].expand(-1, n, -1), torch.Generator().manual_seed(0))
        assert draws.shape == (n, 7) and draws.dtype == phi.dtype
        deviation = self.family.variance(phi).sqrt()
        torch.testing.assert_close(
            (draws.mean(0) - self.family.mean(phi)) / deviation, torch.zeros(7).double(), atol=0.04, rtol=0
        )
        torch.testing.assert_close(draws.var(0).sqrt() / deviation, torch.ones(7).double(), atol=0.1, rtol=0)
        self.family.check(draws)

    def test_samples_have_the_mean_statistics_of_the_density(self):
        phi, n = self.phi, 20_000
        draws = self.family.sample(phi[:, None].expand(-1, n, -1), torch.Generator().manual_seed(1))
        mean, expected = self.family.statistics(draws).mean(1), expected_statistics(self.family, phi)
        torch.testing.assert_close(mean, expected, atol=0.02, rtol=0.05)

    def test_samples_are_the_generators(self):
        one, two = (self.family.sample(self.phi, torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(one, two)
        before = torch.get_rng_state()
        self.family.sample(self.phi, torch.Generator().manual_seed(4))
        assert torch.equal(torch.get_rng_state(), before)
        self.family.sample(self.phi)  # without one, the global generator serves

    # Data

    def test_check_names_the_value_and_the_limit(self):
        good = self.x[0, 0].item()
        for value, message in self.outside:
            with pytest.raises(ValueError, match=message):
                self.family.check(torch.tensor([[good, good], [value, good]]))

    def test_check_passes_the_support(self):
        self.family.check(self.x)
        self.family.check(self.x[:0])

    # A value like any other

    def test_families_are_values(self):
        twin = type(self.family)(**{name: getattr(self.family, name) for name in self._fields()})
        assert twin == self.family and hash(twin) == hash(self.family)
        with pytest.raises(FrozenInstanceError):
            self.family.channels = 7

    def _fields(self):
        return [name for name in inspect.signature(type(self.family)).parameters]

    @pytest.mark.parametrize("channels", [0, -1, 1.5])
    def test_channels_must_be_positive(self, channels):
        with pytest.raises(ValueError, match=f"channels .*at least 1, got {channels}"):
            type(self.family)(channels=channels)

    # In a layer

    @pytest.mark.parametrize("channels", [1, 2])
    @pytest.mark.parametrize("masked", [False, True])
    def test_leaf_layer_is_the_sum_of_log_densities(self, channels, masked):
        """Regions of different sizes: value and natural gradient."""
        scopes, batch = [(0, 2), (1,), (0, 1, 3), (3,)], 6
        layer, x, observed = self._leaf_layer(scopes, channels, batch)
        phi, plain = layer.parts[0].phi, []
        allowed = torch.where(
            observed[:, None], x, self.x[0, 0]
        )  # what is missing is 0, where a density may have no value
        for row, scope in enumerate(scopes):
            total = torch.zeros(3, batch, dtype=torch.float64)
            for d in scope:
                each = self.family.log_density(allowed[d, :, None], self._phi_of(layer, row, d)[..., None])  # (C, K, B)
                base = self.family.log_base(allowed[d])
                each = each - (0 if base is None else base[:, None])
                total = total + torch.where(observed[d], each.sum(0), 0)
            plain.append(total)
        plain = torch.stack(plain)
        if not masked:
            x, plain = x[..., observed.all(0)], plain[..., observed.all(0)]
        largest = plain.detach().amax(1)  # compared as densities: what is far below the largest may come out as 0
        leaves, plain = layer(x, observed if masked else None), torch.exp(plain - largest[:, None])
        fast = leaves.value * torch.exp(leaves.log_scale - largest)[:, None]
        torch.testing.assert_close(fast, plain)
        gradients = [torch.autograd.grad((out * out).sum(), phi, retain_graph=True)[0] for out in (fast, plain)]
        torch.testing.assert_close(*(self.family.natural_gradient(phi, gradient) for gradient in gradients))

    @pytest.mark.parametrize("masked", [False, True])
    def test_base_measure_of_the_observed(self, masked):
        layer, x, observed = self._leaf_layer([(0, 1), (2, 3), (1, 3)], 2, 6)
        base = self.family.log_base(x)
        expected = (
            torch.zeros(6).double() if base is None else torch.where(observed | (not masked), base.sum(1), 0).sum(0)
        )
        result = torch.as_tensor(layer.log_base(x, observed if masked else None)).expand(6)
        torch.testing.assert_close(result.double(), expected)

    def _leaf_layer(self, scopes, channels, batch):
        family = type(self.family)(
            **{name: getattr(self.family, name) for name in self._fields()} | {"channels": channels}
        )
        layer = LeafLayer(scopes, {family: range(4)}, 3).double()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            raw = torch.randn(layer.parts[0].phi.shape, generator=generator, dtype=torch.float64)
            layer.parts[0].phi.copy_(family.constrain(raw))
        values = self.x[:, 0]
        x = values[torch.randint(0, len(values), (4, channels, batch), generator=generator)]
        observed = torch.rand(4, batch, generator=generator) < 0.5
        observed[:, :2] = True
        return layer, torch.where(observed[:, None], x, 0), observed

    def _phi_of(self, layer, row, variable):
        (part,) = layer.parts
        for rows, pairs, variables in part.groups():
            for place, (n, d) in enumerate(np.ndenumerate(variables.numpy())):
                if (rows[n[0]].item(), d) == (row, variable):
                    return part.phi[:, pairs.start + place]
        raise AssertionError(f"no parameters for variable {variable} in row {row}")

    # Everywhere else that a density is used

    def _model(self, num_variables=3, num_sums=2):
        """A small network in float64 whose leaves are those of `self.phi`, in turn."""
        model = Einet(random_binary_trees(num_variables, 1, 2, seed=0), self.family, num_sums=num_sums, seed=0).double()
        for part in model.leaves.parts:
            which = torch.arange(part.phi[0].numel()).view(part.phi.shape[1:]) % 7
            part.phi.data.copy_(self.phi[:, which])
        return model

    def _rows(self, model, num_rows=60):
        """Rows of a model and what is observed of them: two entries in three, the others are no value at all."""
        generator = torch.Generator().manual_seed(0)
        x = einet.sample(model, num_rows, generator)
        observed = torch.rand(x.shape, generator=generator) < 0.67
        return torch.where(observed, x, torch.nan), observed

    def test_it_is_trained_on_what_is_there(self):
        model = self._model()
        x, observed = self._rows(model)
        for part in model.leaves.parts:
            part.phi.data.copy_(self.family.initial(part.phi.shape[1:], torch.Generator().manual_seed(3)))
        before = model(x, observed).mean()
        einet.fit(model, x, observed, epochs=5, batch_size=20, leaf_pseudocount=0.1, progress=False)
        assert model(x, observed).mean() > before
        for part in model.leaves.parts:
            torch.testing.assert_close(self.family.project(part.phi), part.phi, rtol=1e-9, atol=0)

    def test_leaves_shrink_towards_their_columns(self):
        """The density of a column has the mean statistics of its values, and many pseudocounts make it every leaf's."""
        model = self._model()
        x, observed = self._rows(model)
        em = einet.EM(model, leaf_pseudocount=1e9, data=(x, observed))
        model(x, observed).sum().backward()
        em.step()
        for part in model.leaves.parts:
            columns = column_parameters(part, *model.as_input(x, observed))[..., 0, 0]
            for place, d in enumerate(part.pairs.tolist()):
                mean = self.family.statistics(x[observed[:, d], d]).mean(1)
                allowed = expected_statistics(self.family, self.family.expecting(mean))
                torch.testing.assert_close(expected_statistics(self.family, columns[:, place]), allowed)
                ours = expected_statistics(self.family, part.phi.detach()[:, place, 0])
                torch.testing.assert_close(ours, allowed[:, None].expand_as(ours), rtol=1e-5, atol=1e-5)

    def test_adam_trains_it(self):
        model = self._model()
        x, observed = self._rows(model)
        einet.unconstrained(model)
        adam, values = torch.optim.Adam(model.parameters(), 0.003), []
        for _ in range(20):
            adam.zero_grad()
            value = -model(x, observed).mean()
            value.backward()
            adam.step()
            values.append(value.item())
        assert values[-1] < values[0] and all(each.isfinite().all() for each in einet.constrained(model).parameters())

    def test_missing_values_and_those_of_other_families_have_finite_gradients(self):
        """Inside the network what is missing is 0, where some statistics are infinite; so may be another's value."""
        model = Einet(
            random_binary_trees(3, 1, 2, seed=0), {self.family: [0, 2], Normal(min_variance=0.123): [1]}, num_sums=2
        ).double()
        value = self.x[1, 0].item()
        x = torch.tensor([[value, 0.0, 0.0], [0.0, -3.0, value]], dtype=torch.float64, requires_grad=True)
        observed = torch.tensor([[True, True, False], [False, True, True]])
        model(x, observed).sum().backward()
        gradients = [x.grad, *(parameter.grad for parameter in model.parameters())]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert not x.grad[~observed].any()
        (again,) = torch.autograd.grad(model(x, observed).sum(), x, create_graph=True)
        torch.testing.assert_close(again, x.grad)
        self.family.check(torch.tensor([self.family.placeholder]))
        inside = x.detach().T[:, None].clone().requires_grad_()  # for the leaves alone, without the network's own mask
        log_density = model.leaves(inside, observed.T).log().sum() + model.leaves.log_base(inside, observed.T)
        log_density.sum().backward()
        assert inside.grad.isfinite().all()

    def test_marginals_moments_and_modes(self):
        """Of one variable, given another: against the model's own density at every value."""
        model = self._model(2)
        values, weights = self.support(self.phi)
        x = torch.cat((values, torch.full_like(values, self.x[-1, 0].item())), 1)
        with torch.no_grad():
            log_density = model(x) - model(x[:1], torch.tensor([False, True]))
        mass = log_density.exp() * weights[:, 0]
        mean = (mass * values[:, 0]).sum()
        marginals = einet.conditional_marginals(model, x[:1], torch.tensor([False, True]))
        torch.testing.assert_close(marginals.mean()[0], torch.stack((mean, x[0, 1])))
        torch.testing.assert_close(marginals.variance()[0, 0], (mass * (values[:, 0] - mean) ** 2).sum())
        at = x[:: max(1, len(x) // 5)].clone()
        found = einet.conditional_marginals(model, x[:1].expand_as(at), torch.tensor([False, True])).log_density(at)
        torch.testing.assert_close(found[:, 0].exp(), log_density[:: max(1, len(x) // 5)].exp())

    def test_completed_rows_are_in_the_support(self):
        model = self._model()
        x, observed = self._rows(model)
        for completed in (
            einet.mpe(model, x, observed).x,
            einet.sample_conditional(model, x, observed, generator=torch.Generator().manual_seed(0)),
        ):
            self.family.check(completed)
            assert torch.equal(completed.view(x.shape)[observed], x[observed])
            assert model(completed.view(x.shape)).isfinite().all()

    def test_entropy_of_a_network_is_within_bounds_or_refused(self):
        model = self._model()
        try:
            self.family.entropy(self.phi)
        except ValueError as refused:
            with pytest.raises(ValueError) as error:
                einet.entropy_bounds(model)
            assert str(error.value) == str(refused)
        else:
            lower, upper = einet.entropy_bounds(model)
            estimate = einet.entropy(model, 5000, torch.Generator().manual_seed(0))
            assert lower - 4 * estimate.standard_error <= estimate.value <= upper + 4 * estimate.standard_error

    def test_float32_is_as_good_as_float64(self):
        model = self._model().float()
        x, observed = self._rows(model)
        exact = Einet(model.graph, self.family, num_sums=2, seed=0).double()
        exact.load_state_dict(
            {name: each.double() if each.is_floating_point() else each for name, each in model.state_dict().items()}
        )
        torch.testing.assert_close(model(x, observed).double(), exact(x.double(), observed), rtol=1e-5, atol=1e-4)

    def test_it_is_saved_and_loaded(self, tmp_path):
        model = self._model()
        x, observed = self._rows(model)
        known = () if type(self.family) is FAMILIES.get(type(self.family).__name__) else (type(self.family),)
        einet.save(model, tmp_path / "model", families=known)
        assert torch.equal(einet.load(tmp_path / "model", families=known)(x, observed), model(x, observed))

    @pytest.mark.filterwarnings("ignore::einet.columns.TableWarning")  # where the family's own bound is a wide one
    def test_it_is_a_column_of_a_table(self):
        model = self._model(2)
        x, _ = self._rows(model)
        kind = np.arange(len(x)) % 2
        X = np.c_[x.numpy(), kind]
        density = EinetDensity(num_replicas=2, num_sums=2, epochs=5, random_state=0, leaf={self.family: [0, 1]}).fit(X)
        assert np.isfinite(density.score_samples(X)).all() and np.isfinite(density.score(X))
        filled, drawn = density.predict_missing(X), density.sample(20)
        assert np.isfinite(filled).all() and (filled[~np.isnan(X)] == X[~np.isnan(X)]).all()
        assert set(drawn[:, 2]) <= {0, 1}
        self.family.check(torch.tensor(drawn[:, :2]))
        if self.family.num_values is not None:
            self.family.check(torch.tensor(filled[:, :2]))


# The families of the package


class TestNormal(FamilyContract):
    family = Normal()
    outside = [(math.nan, "finite, got nan"), (math.inf, "finite, got inf"), (-math.inf, "finite, got -inf")]
    wild = [[0.5, 0.0], [-1.0, -3.0], [2.0, 1e-9]]

    def support(self, phi):
        """The rectangle rule, which is exact to rounding for a smooth density that vanishes at both ends."""
        values = torch.linspace(-80, 80, 16001, dtype=torch.float64)[:, None]
        return values, torch.full_like(values, 0.01)

    @property
    def x(self):
        return torch.tensor([-3.0, -0.4, 0.0, 0.7, 5.0], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.norm.logpdf(x, phi[0], np.sqrt(phi[1]))

    def inside(self, phi):
        return (phi[1] >= self.family.min_variance * (1 - 1e-6)) & (phi[1] <= self.family.max_variance * (1 + 1e-6))

    @pytest.mark.parametrize("size", [1e-8, 1e10, 1e15])
    def test_an_em_step_on_numbers_of_any_size(self, size):
        """Fails where the square of a variance is taken: in float32 it is infinite, or 0."""
        x = size * torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        model = Einet(RegionGraph([{0}]), Normal(min_variance=1e-30), num_sums=1, seed=0)
        (part,) = model.leaves.parts
        part.phi.data.copy_(torch.tensor([0.0, 4 * size * size])[:, None, None, None])
        model(x).sum().backward()
        einet.EM(model).step()
        assert part.phi[1].item() == pytest.approx(x.double().var(correction=0).item(), rel=1e-4)


class TestNormalBounded(TestNormal):
    family = Normal(min_variance=0.3, max_variance=4.0)
    wild = [[0.5, 0.0], [-1.0, 4.5], [2.0, 1e9]]

    def test_initial_variance_is_as_near_to_one_as_allowed(self):
        for bounds, expected in [((0.3, 4.0), 1.0), ((1e-6, 1e-2), 1e-2), ((2.0, 3.0), 2.0)]:
            phi = Normal(*bounds).initial((5,), torch.Generator())
            assert phi[1].tolist() == pytest.approx([expected] * 5)


class TestNormalOfImages(TestNormal):
    """The paper's bounds for pixels, four orders of magnitude apart."""

    family = Normal(min_variance=1e-6, max_variance=1e-2)
    wild = [[0.5, 0.0], [-1.0, 1.0], [2.0, 1e-9]]

    def support(self, phi):
        values = torch.linspace(-4, 4, 80001, dtype=torch.float64)[:, None]
        return values, torch.full_like(values, 1e-4)

    @property
    def phi(self):
        mean = torch.linspace(-1, 1, 7, dtype=torch.float64)
        return torch.stack((mean, torch.logspace(-5, -2.01, 7, dtype=torch.float64)))

    @property
    def x(self):
        return torch.tensor([-1.0, 0.0, 0.34, 1.0], dtype=torch.float64)[:, None]


class Discrete(FamilyContract):
    values: range

    def support(self, phi):
        values = torch.tensor(list(self.values), dtype=torch.float64)[:, None]
        return values, torch.ones_like(values)

    def test_samples_have_the_frequencies_of_the_density(self):
        phi = self.phi
        draws = self.family.sample(phi[:, None].expand(-1, 20_000, -1), torch.Generator().manual_seed(2))
        for value in self.values:
            probability = self.family.log_density(torch.full((7,), float(value), dtype=phi.dtype), phi).exp()
            torch.testing.assert_close((draws == value).double().mean(0), probability, atol=0.02, rtol=0)


class TestBernoulli(Discrete):
    family = Bernoulli(floor=0.01)
    values = range(2)
    outside = [
        (2.0, "0 or 1, got 2"),
        (0.5, "0 or 1, got 0.5"),
        (-1.0, "0 or 1, got -1"),
        (math.nan, "0 or 1, got nan"),
    ]
    wild = [[0.0], [1.0], [-3.0], [0.999]]

    def scipy_log_density(self, x, phi):
        return stats.bernoulli.logpmf(x, phi[0])

    def inside(self, phi):
        return (phi[0] >= 0.01 * (1 - 1e-6)) & (phi[0] <= 0.99 * (1 + 1e-6))


class TestBinomial(Discrete):
    family = Binomial(total=7, floor=0.01)
    values = range(8)
    outside = [
        (8.0, "from 0 to 7, got 8"),
        (-1.0, "0 to 7, got -1"),
        (2.5, "0 to 7, got 2.5"),
        (math.nan, "0 to 7, got nan"),
    ]
    wild = [[0.0], [7.0], [-3.0], [0.01]]

    def scipy_log_density(self, x, phi):
        return stats.binom.logpmf(x, 7, phi[0] / 7)

    def inside(self, phi):
        return (phi[0] >= 0.07 * (1 - 1e-6)) & (phi[0] <= 6.93 * (1 + 1e-6))

    @pytest.mark.parametrize("value", [0, 255])
    def test_a_pixel_comes_back_from_the_end_of_the_scale(self, value):
        """Fails where phi (1 - phi / total) cancels: near the upper bound it is off by half a percent in float32."""
        model = Einet(RegionGraph([{0}]), Binomial(), num_sums=1, seed=0)
        (part,) = model.leaves.parts
        part.phi.data.copy_(Binomial().project(torch.full_like(part.phi, float(value))))
        model(torch.full((100, 1), 100.0)).sum().backward()
        einet.EM(model).step()
        assert part.phi.item() == pytest.approx(100, abs=1e-3)


class TestCategorical(Discrete):
    family = Categorical(categories=4, floor=0.01)
    values = range(4)
    outside = [
        (4.0, "from 0 to 3, got 4"),
        (-1.0, "0 to 3, got -1"),
        (1.5, "0 to 3, got 1.5"),
        (math.nan, "0 to 3, got nan"),
    ]
    wild = [[1.0, 0.0, 0.0, 0.0], [0.5, 0.495, 0.005, 0.0], [0.2, 0.2, 0.2, 0.2], [5.0, 1.0, 1.0, 3.0]]

    def scipy_log_density(self, x, phi):
        one_hot = np.eye(4, dtype=int)[x[:, 0].astype(int)]
        return np.stack([stats.multinomial.logpmf(one_hot, 1, p) for p in phi.T], 1)

    def inside(self, phi):
        return (phi >= 0.01 * (1 - 1e-5)).all(0) & ((phi.sum(0) - 1).abs() < 1e-5)

    def test_initial_is_normalised(self):
        """Mistake 7: a density that starts unnormalised disagrees with its own samples."""
        total = self.family.initial((100,), torch.Generator()).sum(0)
        torch.testing.assert_close(total, torch.ones(100))


# Families of your own


@dataclass(frozen=True)
class NegativeBinomial(ExponentialFamily):
    """How many failures there were before success number `total`: T(x) = x, phi = E[x], at least `floor`."""

    total: int = 3
    floor: float = 1e-3

    def check(self, x):
        refuse(~((x >= 0) & (x == x.floor())), x, "a negative binomial variable must be an integer of at least 0")

    def log_base(self, x):
        return torch.lgamma(x + self.total) - math.lgamma(self.total) - torch.lgamma(x + 1)

    def natural(self, phi):
        return -torch.log1p(self.total / phi)

    def log_normalizer(self, theta):
        return -self.total * torch.log(-torch.expm1(theta[0]))

    def initial(self, shape, generator):
        return 0.5 + 4 * torch.rand((1, *shape), generator=generator)

    def natural_gradient(self, phi, gradient):
        return phi * (1 + phi / self.total) * gradient

    def project(self, phi):
        return phi.clamp_min(self.floor)

    def sample(self, phi, generator=None):
        rate = -torch.log(torch.rand((self.total, *phi[0].shape), generator=generator, dtype=phi.dtype)).sum(0)
        return torch.poisson(rate * phi[0] / self.total, generator)

    def variance(self, phi):
        return phi[0] * (1 + phi[0] / self.total)

    def mode(self, phi):
        return (phi[0] * (1 - 1 / self.total)).floor()


class TestNegativeBinomial(Discrete):
    family = NegativeBinomial()
    values = range(400)
    outside = [(-1.0, "at least 0, got -1"), (0.5, "at least 0, got 0.5"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-5]]

    @property
    def x(self):
        return torch.tensor([0.0, 1, 2, 5, 30], dtype=torch.float64)[:, None]

    def scipy_log_density(self, x, phi):
        return stats.nbinom.logpmf(x, 3, 3 / (3 + phi[0]))

    def inside(self, phi):
        return phi[0] >= 1e-3 * (1 - 1e-6)

    def test_a_family_takes_forty_lines(self):
        for family in (NegativeBinomial, Rayleigh):
            assert len([line for line in inspect.getsource(family).splitlines() if line.strip()]) <= 40

    def test_it_trains(self):
        """Counts whose mean is 1 or 9 for all variables together: a mixture beats one mean by far."""
        generator = torch.Generator().manual_seed(0)
        means = torch.tensor([1.0, 9.0])[torch.randint(0, 2, (400, 1), generator=generator)].expand(-1, 6)
        x = self.family.sample(means[None], generator)
        model = Einet(random_binary_trees(6, 2, 3, seed=0), self.family, num_sums=4, seed=0)
        einet.fit(model, x, epochs=15, batch_size=50, progress=False)
        one_mean = self.scipy_log_density(x.numpy(), x.mean(0)[None].numpy()).sum(1).mean()
        assert model(x).mean().item() > one_mean + 1
        total = model(torch.arange(200.0)[:, None].expand(-1, 6), torch.arange(6) == 2).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-4)


@dataclass(frozen=True)
class Rayleigh(ExponentialFamily):
    """How far from the centre a round normal density of the plane hits: T(x) = x^2, h(x) = 2 x, phi = E[x^2]."""

    placeholder = 1.0

    def check(self, x):
        refuse(~((x > 0) & torch.isfinite(x)), x, "a Rayleigh variable must be positive and finite")

    def statistics(self, x):
        return (x * x)[None]

    def log_base(self, x):
        return torch.log(2 * x)

    def natural(self, phi):
        return -1 / phi

    def log_normalizer(self, theta):
        return -torch.log(-theta[0])

    def initial(self, shape, generator):
        return 0.5 + torch.rand((1, *shape), generator=generator)

    def natural_gradient(self, phi, gradient):
        return phi**2 * gradient

    def project(self, phi):
        return phi.clamp_min(1e-6)

    def sample(self, phi, generator=None):
        return torch.sqrt(-phi[0] * torch.log1p(-torch.rand(phi[0].shape, generator=generator, dtype=phi.dtype)))

    def mean(self, phi):
        return torch.sqrt(math.pi * phi[0]) / 2

    def variance(self, phi):
        return phi[0] * (1 - math.pi / 4)

    def mode(self, phi):
        return torch.sqrt(phi[0] / 2)


class OverPositiveNumbers(FamilyContract):
    def support(self, phi):
        """The rectangle rule for the logarithm: smooth, and nothing at either end."""
        values = torch.exp(torch.linspace(-87, 12, 19801, dtype=torch.float64))[:, None]
        return values, 0.005 * values

    @property
    def x(self):
        return torch.tensor([0.1, 0.6, 1.0, 4.0], dtype=torch.float64)[:, None]


class TestRayleigh(OverPositiveNumbers):
    family = Rayleigh()
    outside = [(0.0, "positive and finite, got 0"), (-1.0, "got -1"), (math.inf, "got inf"), (math.nan, "got nan")]
    wild = [[0.0], [-1.0], [1e-9]]

    def scipy_log_density(self, x, phi):
        return stats.rayleigh.logpdf(x, scale=np.sqrt(phi[0] / 2))

    def inside(self, phi):
        return phi[0] >= 1e-6 * (1 - 1e-6)


# What a family says of its own density


def test_what_a_density_promises_is_not_inherited_by_another_density():
    """Through a mixin, too; what is refined without a change of the density keeps it."""

    class OfLogarithms:
        def statistics(self, x):
            return super().statistics(torch.log(x))

    class Mixed(OfLogarithms, Normal):
        pass

    class Renamed(Normal):
        def check(self, x):
            pass

    class Bare(Normal):
        statistics, log_base = LogNormal.statistics, LogNormal.log_base

    class Own(Bare):
        def entropy(self, phi):
            return phi[0] + 0.5 * torch.log(2 * math.pi * math.e * phi[1])

    for other in (Bare, Mixed):
        assert other.entropy is ExponentialFamily.entropy and not other.location_scale
    assert Renamed.entropy is Normal.entropy and Renamed.location_scale
    phi = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert Own().entropy(phi).item() == pytest.approx(stats.lognorm(1).entropy())


def test_how_many_values_a_family_has():
    for family, expected in ((Bernoulli(), 2), (Binomial(9), 10), (Categorical(4), 4), (Normal(), None)):
        assert family.num_values == expected
    assert LogNormal().num_values is Poisson().num_values is None  # nor have they a last value


def test_the_entropy_of_a_narrow_density_far_away_has_all_its_digits():
    """A(theta) - E[T(x)] . theta cancels there: both are 5e19."""
    phi = torch.tensor([[1e7], [1e-6]], dtype=torch.float64)
    assert Normal().entropy(phi).item() == pytest.approx(stats.norm(scale=1e-3).entropy(), abs=1e-12)


# Constructor arguments, one family at a time


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Normal(min_variance=0.0), "0 < min_variance < max_variance, got 0.0 and inf"),
        (lambda: Normal(min_variance=-1.0), "got -1.0"),
        (lambda: Normal(min_variance=2.0, max_variance=1.0), "got 2.0 and 1.0"),
        (lambda: Normal(min_variance=math.nan), "got nan"),
        (lambda: Binomial(total=0), "total .*at least 1, got 0"),
        (lambda: Binomial(total=2.5), "total .*at least 1, got 2.5"),
        (lambda: Binomial(total=3, floor=0.5), r"floor .*\(0, 0.5\), got 0.5"),
        (lambda: Bernoulli(floor=0.0), r"floor .*\(0, 0.5\), got 0.0"),
        (lambda: Categorical(categories=1), "categories .*at least 2, got 1"),
        (lambda: Categorical(categories=4, floor=0.25), r"floor .*\(0, 1/4\), got 0.25"),
    ],
)
def test_limits_of_a_family(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bernoulli_is_the_binomial_of_one_trial():
    phi, x = torch.tensor([[0.1, 0.4, 0.9]]), torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(Bernoulli().log_density(x, phi), Binomial(total=1).log_density(x, phi))
    assert Bernoulli() != Binomial(total=1)
    with pytest.raises(TypeError):
        Bernoulli(total=3)


def test_families_are_found_by_name():
    names = {name for name in einet.__all__ if isinstance(getattr(einet, name), type)}
    public = {name for name in names if issubclass(getattr(einet, name), ExponentialFamily)} - {"ExponentialFamily"}
    assert FAMILIES == {name: getattr(einet, name) for name in public} and len(public) == 9


def test_small_variances_do_not_drown_in_the_mean():
    """At a mean of 100 and a variance of 1e-6, E[x^2] - E[x]^2 has no digit left in float32; phi keeps the variance."""
    family, phi = Normal(), torch.tensor([[100.0], [1e-6]])
    moved = family.step(phi, torch.tensor([[0.0], [0.5e-6]]))
    assert moved[1].item() == pytest.approx(1.5e-6, rel=1e-5)
