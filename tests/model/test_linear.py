"""The linear model against brute force, closed forms and known truths."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from pdae_jax.design.design import make_design
from pdae_jax.design.effects import effective_label
from pdae_jax.model import linear
from pdae_jax.model.linear import DEFAULT_RIDGE, fit_linear


def some_labels(num=8, pairs=12, seed=0):
    """The control, singles, and some pairs."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(list(itertools.combinations(range(num), 2)))[:pairs]
    doubles = np.zeros((pairs, num))
    for row, pair in zip(doubles, chosen, strict=True):
        row[pair] = 1.0
    return np.concatenate([np.zeros((1, num)), np.eye(num), doubles]).astype(np.float32)


def design_of(labels):
    return make_design(labels, [f"p{i}" for i in range(labels.shape[1])])


def means_of(labels, saturation=0.0, noise=0.0, features=20, common=0.0, rank=None, seed=1):
    random = np.random.default_rng(seed)
    effects = random.normal(size=(labels.shape[1], features))
    if rank is not None:
        effects = random.normal(size=(labels.shape[1], rank)) @ random.normal(size=(rank, features))
    mean = effective_label(labels.astype(np.float64), saturation) @ effects + common * np.any(labels, axis=1)[:, None]
    return mean + noise * random.normal(size=mean.shape), effects


@pytest.mark.parametrize("wide", [False, True], ids=["more conditions", "more perturbations"])
def test_left_out_errors_are_those_of_fits_without_the_condition(wide):
    labels = some_labels()[1:].astype(np.float64)
    if wide:
        labels = labels[labels.shape[1] - 2 :][: labels.shape[1] - 1]
        assert len(labels) < labels.shape[1]
    scores, _ = means_of(labels, noise=0.5)
    counts = np.random.default_rng(2).integers(20, 200, len(labels))
    noise = np.mean(counts) / counts
    means = linear._Means(scores, labels, noise, 0.3)
    choice = linear._Choice(0.2, 0.5, 0.1)
    tested = np.count_nonzero(labels, axis=1) > 1
    common = choice.common + choice.ridge * means.control_noise
    found = linear._LeaveOneOut.of(means, choice.saturation, linear._Targets.of(means, tested)).errors(
        choice.ridge, common
    )
    x = means.regressors(choice)
    for error, row in zip(found, np.flatnonzero(tested), strict=True):
        rest = np.arange(len(x)) != row
        weights = np.diag(1 / noise[rest])
        slopes = np.linalg.solve(
            x[rest].T @ weights @ x[rest] + choice.ridge * np.eye(x.shape[1]), x[rest].T @ weights @ scores[rest]
        )
        np.testing.assert_allclose(error, np.sum((x[row] @ slopes - scores[row]) ** 2), rtol=1e-6)


@pytest.mark.parametrize("saturation", [0.0, 0.6])
def test_a_known_gain_is_found(saturation):
    labels = some_labels(pairs=16)
    means, effects = means_of(labels, saturation, noise=0.05)
    model = fit_linear(means, design_of(labels), np.full(len(labels), 100))
    assert model.saturation == pytest.approx(saturation, abs=0.11)
    np.testing.assert_allclose(model.effects, effects, atol=0.3)
    assert model.num_tested == 16 and model.error < 0.02


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_gain_is_one_where_effects_add_up(noise):
    labels = some_labels(pairs=16)
    means, _ = means_of(labels, noise=noise)
    model = fit_linear(means, design_of(labels), np.full(len(labels), 100))
    assert model.saturation == 0.0
    # and where it is not asked for, whatever the effects do
    means, _ = means_of(labels, 0.6, noise=noise)
    assert fit_linear(means, design_of(labels), np.full(len(labels), 100), additive=True).saturation == 0.0


def test_what_all_conditions_share_is_found():
    labels = some_labels(pairs=16)
    means, _ = means_of(labels, noise=0.1, common=3.0)
    model = fit_linear(means, design_of(labels), np.full(len(labels), 100))
    np.testing.assert_allclose(model.common, 3.0, atol=0.6)
    # the control is the reference
    np.testing.assert_array_equal(model.predict(labels[0]), 0.0)


def test_effects_are_those_of_weighted_ridge():
    labels = some_labels()
    means, _ = means_of(labels, noise=0.5)
    counts = np.random.default_rng(2).integers(20, 2000, len(labels))
    model = fit_linear(means, design_of(labels), counts)
    x, y = effective_label(labels[1:].astype(np.float64), model.saturation), means[1:] - means[0]
    weights = np.diag(counts[1:] / np.mean(counts))
    # the common part has a variance of its own; here only that of the noise of the control's mean
    unit = model.ridge * np.mean(counts) / counts[0]
    full = np.column_stack([x, np.full(len(x), unit**0.5)])
    slopes = np.linalg.solve(full.T @ weights @ full + model.ridge * np.eye(full.shape[1]), full.T @ weights @ y)
    np.testing.assert_allclose(model.effects, slopes[:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.common, unit**0.5 * slopes[-1], rtol=1e-5, atol=1e-6)


def test_a_condition_of_few_cells_pulls_less():
    """Two conditions of one label that disagree: their mean, weighted by cells."""
    labels = np.array([[0, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    means = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    for counts in ([1000, 10, 990, 500], [1000, 990, 10, 500], [1000, 300, 300, 500]):
        model = fit_linear(means, design_of(labels), np.array(counts))
        expected = np.average(means[1:3], axis=0, weights=counts[1:3])
        np.testing.assert_allclose(model.predict(labels[1]), expected, atol=1e-3)


def test_the_unit_of_doses_changes_nothing():
    labels = some_labels()
    means, _ = means_of(labels, 0.3, noise=0.3)
    counts = np.full(len(labels), 50)
    first = fit_linear(means, design_of(labels), counts)
    for factor in (1e-3, 1e3, 1e4):
        design = design_of(labels * np.float32(factor))
        other = fit_linear(means, design, counts)
        assert other.saturation == first.saturation
        np.testing.assert_allclose(
            other.predict(design.row(labels * np.float32(factor))), first.predict(labels), rtol=1e-4, atol=1e-5
        )


def test_effects_of_low_rank_are_shrunk_to_it(monkeypatch):
    labels = some_labels(num=30, pairs=60)
    counts = np.full(len(labels), 100)
    means, effects = means_of(labels, features=200, rank=2, noise=2.0)
    model = fit_linear(means, design_of(labels), counts)
    assert model.rank is not None and model.rank <= 5
    assert np.linalg.matrix_rank(model.effects, tol=1e-8 * np.linalg.norm(model.effects)) == model.rank
    monkeypatch.setattr(linear, "RANKS", ())
    full = fit_linear(means, design_of(labels), counts)
    assert full.rank is None and full.ridge == model.ridge and full.saturation == model.saturation
    # on pairs that were never seen
    new = np.array([np.eye(30)[i] + np.eye(30)[j] for i, j in itertools.combinations(range(30), 2)])
    new = new[~np.any(np.all(new[:, None] == labels, axis=-1), axis=1)]
    error, of_full = (np.sum((means[0] + m.predict(new) - new @ effects) ** 2) for m in (model, full))
    assert error < 0.7 * of_full


def test_without_combinations_it_is_least_squares():
    labels = np.concatenate([np.zeros((1, 4)), np.eye(4), 2 * np.eye(4)]).astype(np.float32)
    means, effects = means_of(labels)
    model = fit_linear(means, design_of(labels), np.full(len(labels), 100))
    assert np.isnan(model.error) and model.num_tested == 0 and model.saturation == 0.0
    np.testing.assert_allclose(model.effects, 2 * effects, atol=20 * DEFAULT_RIDGE)  # at the largest dose


def test_effective_labels_are_the_same_in_jax():
    labels = np.array([[0, 0, 0], [0.5, 0, 0], [1, 2, 0], [1, 1, 1]], np.float32)
    here = effective_label(labels, 0.5)
    np.testing.assert_allclose(here[:2], labels[:2])
    np.testing.assert_allclose(here[2:], labels[2:] / np.sqrt([[2], [3]]), rtol=1e-6)
    np.testing.assert_allclose(effective_label(jnp.asarray(labels), jnp.float32(0.5)), here, rtol=1e-6)


def test_without_a_common_part_effects_carry_what_conditions_share():
    """A start whose model has no common part must not count on one."""
    labels = some_labels(pairs=16)
    means, _ = means_of(labels, noise=0.1, common=3.0)
    model = fit_linear(means, design_of(labels), np.full(len(labels), 100), additive=True)
    assert model.saturation == 0.0 and not np.any(model.common)
    left = np.linalg.lstsq(labels.astype(np.float64), means - means[0], rcond=None)[0]
    of_least_squares = np.sum((labels @ left - (means - means[0])) ** 2)
    assert np.sum((model.predict(labels) - (means - means[0])) ** 2) < 1.3 * of_least_squares


@pytest.mark.parametrize("pairs", [60, 20])
def test_many_conditions_are_solved_in_another_way_with_the_same_numbers(monkeypatch, pairs):
    labels = some_labels(num=30, pairs=pairs)
    counts = np.random.default_rng(2).integers(20, 2000, len(labels))
    for features in (20, 300):
        means, _ = means_of(labels, 0.3, noise=0.5, features=features, common=1.0, rank=4)
        model = fit_linear(means, design_of(labels), counts)
        with monkeypatch.context() as changed:
            changed.setattr(linear, "_FEW", 0)
            other = fit_linear(means, design_of(labels), counts)
        assert other[2:5] == model[2:5] and other.num_tested == model.num_tested
        np.testing.assert_allclose(other.error, model.error, rtol=1e-9)
        np.testing.assert_allclose(other.effects, model.effects, atol=1e-9)
        np.testing.assert_allclose(other.common, model.common, atol=1e-9)
