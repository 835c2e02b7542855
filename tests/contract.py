"""What every exponential family keeps to: `FamilyContract`. A new family gets all tests by one subclass."""

import inspect
import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

import einet
from einet import Einet, ExponentialFamily, Normal, RegionGraph, random_binary_trees, start_leaves
from einet.families import FAMILIES
from einet.leaves import LeafLayer
from einet.tables import EinetDensity


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
        start_leaves(
            model, torch.where(observed[..., None], x, torch.nan), observed, rows=2, share=0.6, distinct=False, seed=2
        )
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

    # Intervals

    def test_intervals_have_the_mass_of_the_density_or_are_refused(self):
        """By the rule that integrates the density, whose step is seen at an end; without it is none guessed."""
        phi, (values, weights) = self.phi, self.support(self.phi)
        infinite = torch.full((), math.inf, dtype=phi.dtype)
        try:
            whole = self.family.log_probability(-infinite, infinite, phi)
        except ValueError as error:
            assert "no `log_probability`" in str(error) and self.family.num_values is None
            return
        torch.testing.assert_close(whole, torch.zeros_like(whole), atol=1e-12, rtol=0)
        density = self.log_density(values, phi).exp()
        for low, high in ((-infinite, self.x[1]), (self.x[1], infinite), (self.x[0], self.x[-1])):
            inside = (values >= low) & (values <= high)
            step = 0 if self.family.num_values or isinstance(self, Discrete) else weights * density
            found = self.family.log_probability(low, high, phi).exp()
            error = (found - (inside * weights * density).sum(0)).abs()
            assert (error <= 1e-9 + (step if isinstance(step, int) else step.amax(0))).all()

    def test_draws_between_are_there_and_of_the_support(self):
        try:
            phi, (low, high) = self.phi[:, None].expand(-1, 500, -1), (self.x[0], self.x[-1])
            draws = self.family.draw_between(low, high, phi, torch.Generator().manual_seed(0))
        except ValueError as error:
            assert "no `log_probability`" in str(error)
            return
        assert draws.shape == (500, 7) and draws.dtype == phi.dtype
        assert ((draws >= low) & (draws <= high)).all()
        self.family.check(draws)
        middle = self.x[len(self.x) // 2]
        share = (
            self.family.log_probability(low, middle, self.phi) - self.family.log_probability(low, high, self.phi)
        ).exp()
        deviation = (share * (1 - share) / 500).sqrt()
        assert (((draws <= middle).double().mean(0) - share).abs() <= 4.5 * deviation + 1e-9).all()

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
            columns = part.column_parameters(*model.as_input(x, observed))[..., 0, 0]
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

    @pytest.mark.filterwarnings("ignore::einet.tables.TableWarning")  # where the family's own bound is a wide one
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


class OverPositiveNumbers(FamilyContract):
    def support(self, phi):
        """The rectangle rule for the logarithm: smooth, and nothing at either end."""
        values = torch.exp(torch.linspace(-87, 12, 19801, dtype=torch.float64))[:, None]
        return values, 0.005 * values

    @property
    def x(self):
        return torch.tensor([0.1, 0.6, 1.0, 4.0], dtype=torch.float64)[:, None]
