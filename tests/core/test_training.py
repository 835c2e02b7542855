"""`fit`: batches, masks, labels, optimizers, validation and patience. Runs that are stopped: storage/test_resume.py."""

import math

import pytest
import torch
from helpers import TREES, assert_same, em_step, network, seeded
from strategies import rows

import einet
from einet import EM, Bernoulli, Einet, Normal, RegionGraph, fit, poon_domingos, random_binary_trees

GRAPH = random_binary_trees(6, 2, 3, seed=0)
X = torch.randn(60, 6, generator=seeded(1))


def clusters(num_rows=130):
    """Binary rows in two clusters, all ones or all zeros but for one entry in ten."""
    generator = seeded(0)
    centre = torch.rand(num_rows, 1, generator=generator) < 0.5
    flipped = torch.rand(num_rows, 6, generator=generator) < 0.1
    return (centre ^ flipped).float()


def small_model(**sizes):
    return network(Bernoulli(), GRAPH, **sizes)


def watch(model):
    """The rows of every call that is part of training, as they come."""
    batches = []
    model.register_forward_pre_hook(
        lambda _, arguments: batches.append(arguments[0]) if torch.is_grad_enabled() else None
    )
    return batches


def em_steps(model, batches, labels=None, **arguments):
    """One optimizer, a step for each batch."""
    em = EM(model, **arguments)
    for i, batch in enumerate(batches):
        em.zero_grad()
        log_density = model(batch)
        (log_density if labels is None else log_density.gather(1, labels[i][:, None])).sum().backward()
        em.step()


def test_fit_is_em_on_the_batches_it_draws():
    """Every batch is one step, and no batch is smaller than another by more than a row."""
    model, by_hand, x = small_model(), small_model(), clusters(25)
    batches = watch(model)
    einet.fit(model, x, epochs=3, batch_size=10, lr=0.4, progress=False)
    assert [len(batch) for batch in batches] == [9, 8, 8] * 3
    em_steps(by_hand, batches, lr=0.4)
    assert_same(model, by_hand, rtol=1e-5, atol=1e-6)


def test_an_epoch_is_every_row_once_in_a_new_order():
    model, x = small_model(), torch.cat((clusters(30)[:, :5], torch.zeros(30, 1)), 1)
    x[torch.arange(30), :5] = (torch.arange(30)[:, None] >> torch.arange(5) & 1).float()  # the row's number
    batches = watch(model)
    einet.fit(model, x, epochs=2, batch_size=8, progress=False)
    numbers = (torch.cat(batches)[:, :5] @ (2.0 ** torch.arange(5))).int().tolist()
    assert sorted(numbers[:30]) == sorted(numbers[30:]) == list(range(30))
    assert numbers[:30] != numbers[30:] and numbers[:30] != list(range(30))


def test_full_batch_is_one_step_an_epoch():
    model, by_hand, x = small_model(), small_model(), clusters(1100)
    einet.fit(model, x, epochs=2, batch_size=None, lr=1.0, progress=False)
    for _ in range(2):
        em_step(by_hand, x)
    assert_same(model, by_hand, rtol=1e-4, atol=1e-5)


def test_full_batch_weighs_all_rows_alike_for_any_optimizer():
    """1100 rows go in chunks, the last one smaller: their gradients still make up the gradient of the mean."""
    model, by_hand, x = (einet.unconstrained(small_model().double()) for _ in range(2)), None, clusters(1100)
    model, by_hand = model
    einet.fit(
        model, x, epochs=1, batch_size=None, progress=False, optimizer=torch.optim.SGD(model.parameters(), lr=1.0)
    )
    sgd = torch.optim.SGD(by_hand.parameters(), lr=1.0)
    (-by_hand(x).mean()).backward()
    sgd.step()
    assert_same(model, by_hand, rtol=1e-9, atol=1e-9)


def test_adam_is_an_optimizer_like_any_other():
    model, x = einet.unconstrained(small_model()), clusters()
    history = einet.fit(
        model, x, epochs=5, batch_size=20, optimizer=torch.optim.Adam(model.parameters(), lr=0.05), progress=False
    )
    assert history.train[-1] > history.train[0] + 0.3
    assert einet.constrained(model)(x).mean().item() >= history.train[-1] - 0.1


@pytest.mark.slow
def test_training_gets_close_to_the_entropy_of_the_data():
    """Two clusters and independent flips: -log 2 - 6 H(0.1) = -2.64 nats a row."""
    model, x = small_model(), clusters(1000)
    einet.fit(model, x, epochs=20, lr=0.5, progress=False)
    assert model(x).mean().item() == pytest.approx(-2.64, abs=0.15)


def test_a_step_that_falls():
    """By equal amounts, from `lr` in the first epoch to `last_lr` in the last: as a scheduler would have it."""
    falling, by_hand = small_model(), small_model()
    x = clusters()
    history = fit(falling, x, epochs=5, lr=0.9, last_lr=0.1, progress=False)
    assert history.lr == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    em = EM(by_hand, lr=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(em, lambda epoch: 1 - epoch * 2 / 9)
    fit(by_hand, x, epochs=5, optimizer=em, scheduler=scheduler, progress=False)
    assert_same(falling, by_hand, rtol=1e-5, atol=1e-6)
    assert fit(small_model(), x, epochs=3, lr=0.9, last_lr=0.9, progress=False).lr == [0.9] * 3
    assert fit(small_model(), x, epochs=1, lr=0.9, last_lr=0.1, progress=False).lr == [0.9]


def test_whoever_makes_the_optimizer_makes_its_schedule():
    model = small_model()
    with pytest.raises(ValueError, match="last_lr=0.1 is of the EM that fit makes, and an optimizer is given"):
        fit(model, clusters(), optimizer=EM(model), last_lr=0.1, progress=False)
    assert_same(model, small_model(), rtol=0, atol=0)


def test_masks_go_with_their_rows():
    """What is not observed is garbage; rows and masks are shuffled together."""
    x, observed = clusters(40), torch.rand(40, 6, generator=seeded(1)) < 0.7
    garbage = torch.where(observed, x, math.nan)
    model, other = small_model(), small_model()
    einet.fit(model, garbage, observed, epochs=2, batch_size=7, progress=False)
    einet.fit(other, torch.where(observed, x, 1 - x), observed, epochs=2, batch_size=7, progress=False)
    assert_same(model, other, rtol=0, atol=0)
    assert not torch.allclose(small_model().leaves.parts[0].phi, model.leaves.parts[0].phi)


def test_one_mask_for_all_rows():
    x, observed = clusters(40), torch.arange(6) < 4
    model, other = small_model(), small_model()
    einet.fit(model, x, observed, epochs=2, batch_size=7, progress=False)
    einet.fit(other, x, observed.expand(40, 6), epochs=2, batch_size=7, progress=False)
    assert_same(model, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "image", [lambda x: x, lambda x: x.view(-1, 4, 2), lambda x: x.view(-1, 4, 2, 1)], ids=["flat", "image", "channel"]
)
def test_one_mask_over_a_grid_with_as_many_lines_as_there_are_rows(image):
    """A (4, 2) mask and four rows of 4 x 2 pixels: the mask must not be shuffled as if it had a line a row."""
    graph = poon_domingos((4, 2), 1)
    model, other = (Einet(graph, Normal(), num_sums=2, seed=0) for _ in range(2))
    x, observed = torch.randn(4, 8), torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    einet.fit(model, image(x), observed, epochs=3, batch_size=3, progress=False)
    einet.fit(other, x, observed.flatten(), epochs=3, batch_size=3, progress=False)
    assert_same(model, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(einet.log_density(model, image(x), observed, batch_size=3), model(x, observed))


@pytest.mark.parametrize("observed", [torch.arange(6) < 4, torch.arange(6)[None] < 4], ids=["shared", "each"])
def test_a_lone_row_with_its_mask(observed):
    model, by_hand, x = small_model(), small_model(), clusters(1)
    einet.fit(model, x, observed, epochs=1, lr=0.5, progress=False)
    assert_same(model, em_step(by_hand, x, observed, lr=0.5), rtol=1e-6, atol=1e-6)


def test_labels_train_each_class_on_its_own_rows():
    x = clusters(200)
    labels = (x.mean(1) > 0.5).long()
    model = small_model(num_classes=2)
    einet.fit(model, x, labels=labels, epochs=10, progress=False)
    assert (model(x).argmax(1) == labels).double().mean() > 0.97


def test_labels_go_with_their_rows():
    x = clusters(25)
    model, by_hand = small_model(num_classes=2), small_model(num_classes=2)
    batches = watch(model)
    einet.fit(model, x, labels=(x[:, 0] == 1).long(), epochs=2, batch_size=10, lr=0.4, progress=False)
    em_steps(by_hand, batches, [(batch[:, 0] == 1).long() for batch in batches], lr=0.4)
    assert_same(model, by_hand, rtol=1e-5, atol=1e-6)


def test_seeds_reproduce():
    def trained(seed):
        model = small_model()
        return model, einet.fit(model, clusters(), epochs=2, seed=seed, progress=False)

    (one, history), (again, same), (other, _) = trained(1), trained(1), trained(2)
    assert_same(one, again, rtol=0, atol=0)
    assert history.train == same.train
    assert not torch.equal(one.leaves.parts[0].phi, other.leaves.parts[0].phi)


def test_history_has_an_entry_an_epoch():
    model, x = small_model(), clusters()
    first = model(x).mean().item()
    em = EM(model, lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(em, step_size=2, gamma=0.1)
    history = einet.fit(
        model, x[:100], valid=x[100:], epochs=5, batch_size=None, optimizer=em, scheduler=scheduler, progress=False
    )
    assert history.lr == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    assert history.train[0] == pytest.approx(small_model()(x[:100]).mean().item(), abs=1e-5)
    assert len(history.train) == len(history.valid) == len(history.seconds) == 5
    assert all(second > 0 for second in history.seconds)
    assert history.train == sorted(history.train) and first < history.valid[-1]
    assert history.valid[history.best_epoch] == max(history.valid)


def test_without_validation_the_last_epoch_stays():
    history = einet.fit(small_model(), clusters(), epochs=3, progress=False)
    assert history.valid == [] and history.best_epoch == 2


def overfitting(patience=None, epochs=12, observed=None):
    """Eight rows to train on, and others to validate: the validation gets worse before long."""
    generator = seeded(3)
    x, other = (torch.randint(0, 2, (n, 6), generator=generator).float() for n in (8, 200))
    model = small_model()
    valid = other if observed is None else (other, observed)
    return (
        model,
        other,
        einet.fit(model, x, valid=valid, epochs=epochs, batch_size=4, lr=0.5, patience=patience, progress=False),
    )


def test_validation_keeps_the_best_epoch():
    model, other, history = overfitting()
    assert history.best_epoch < 11
    assert history.valid[history.best_epoch] == max(history.valid) > history.valid[-1]
    assert model(other).mean().item() == pytest.approx(max(history.valid), abs=1e-5)


def test_patience_stops_early():
    _, _, whole = overfitting()
    with pytest.warns(UserWarning, match="without leaving its start"):
        _, _, history = overfitting(patience=2)
    assert history.best_epoch == len(history.valid) - 3
    assert history.valid == whole.valid[: len(history.valid)] and len(history.valid) < 12


def test_an_equal_validation_is_no_better():
    """One entry that fits constant data after the first epoch, and never changes again."""
    model = Einet(RegionGraph([{0}]), Bernoulli(), num_leaves=1, seed=0)
    x = torch.ones(4, 1)
    history = einet.fit(model, x, valid=x, epochs=9, batch_size=None, lr=1.0, patience=2, progress=False)
    assert len(set(history.valid)) == 1
    assert (history.best_epoch, len(history.valid)) == (0, 3)


def test_validation_may_have_masks():
    observed = torch.arange(6) < 3
    model, other, history = overfitting(observed=observed)
    assert model(other, observed).mean().item() == pytest.approx(max(history.valid), abs=1e-5)


def test_validation_may_have_labels():
    x = clusters(200)
    labels = (x.mean(1) > 0.5).long()
    model = small_model(num_classes=2)
    history = einet.fit(
        model, x[:100], labels=labels[:100], valid=(x[100:], None, labels[100:]), epochs=2, progress=False
    )
    expected = model(x[100:]).gather(1, labels[100:, None]).mean().item()
    assert max(history.valid) == pytest.approx(expected, abs=1e-5)


def test_the_progress_bar_shows_and_changes_nothing(capsys):
    quiet, loud, x = small_model(), small_model(), clusters()
    einet.fit(quiet, x, epochs=2, valid=x, progress=False)
    assert capsys.readouterr().err == ""
    einet.fit(loud, x, epochs=2, valid=x, progress=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown and "train=" in shown and "valid=" in shown
    assert_same(quiet, loud, rtol=0, atol=0)


def test_log_density_is_the_model_in_batches():
    model, x = small_model(), clusters(25)
    observed = torch.rand(25, 6) < 0.5
    out = einet.log_density(model, x, observed, batch_size=10)
    torch.testing.assert_close(out, model(x, observed))
    assert not out.requires_grad
    classes = small_model(num_classes=3)
    torch.testing.assert_close(einet.log_density(classes, x, batch_size=10), classes(x))


# Bad input


@pytest.mark.parametrize("change, reason", [
    ({"epochs": None}, "epochs must be"),
    ({"epochs": 1.5}, "epochs must be"),
    ({"patience": 0}, "patience must be"),
    ({"last_lr": 0.6}, r"last_lr must be within \(0, lr=0.5\], got 0.6"),
    ({"last_lr": 0}, "last_lr must be within .* got 0"),
    ({"last_lr": math.nan}, "last_lr must be within .* got nan"),
    ({"labels": torch.zeros(60, dtype=torch.long)}, "labels must be given where"),
    ({"x": [[1.0] * 6]}, "real tensor"),
    ({"x": torch.tensor(1.0)}, "shape"),
    ({"valid": torch.full((3, 6), math.nan)}, "finite"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_bad_settings(change, reason):
    with pytest.raises(ValueError, match=reason):
        fit(network(), **{"x": X, "progress": False, **change})


def test_bad_labels():
    for labels in (torch.zeros(60), torch.zeros(59, dtype=torch.long), torch.full((60,), 3), torch.full((60,), -1)):
        with pytest.raises(ValueError, match="labels must be 60 int64 numbers from 0 to 2"):
            fit(network(num_classes=3), X, labels=labels, progress=False)


def test_a_bad_value_is_found_in_any_row():
    """Data are checked in chunks."""
    model = Einet(TREES, Bernoulli(), num_sums=2, seed=0)
    x = rows(model, 2500)
    x[2400, 3] = 2
    with pytest.raises(ValueError, match="must be 0 or 1, got 2"):
        fit(model, x, progress=False)
