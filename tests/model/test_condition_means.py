"""Interactions against brute force, scikit-learn, closed forms and known truths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pdae_jax import check_guarantee, fit, from_arrays, hold_out, load_run
from pdae_jax.design.design import make_design
from pdae_jax.design.effects import effective_label
from pdae_jax.evaluation.baselines import predicted_means
from pdae_jax.model.completion import SHRINKAGES, Pairs, complete
from pdae_jax.model.condition_kernel import Covariance, Measured, Process, fit_process
from pdae_jax.model.condition_means import fit_condition_means
from pdae_jax.model.interactions import beyond_origin, interactions_at


def screen(num=12, pairs=40, features=15, seed=0):
    """The control, singles and some pairs, and the labels of all other pairs."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(list(itertools.combinations(range(num), 2)))
    labels = np.zeros((len(chosen), num))
    np.put_along_axis(labels, chosen, 1.0, axis=1)
    train = np.concatenate([np.zeros((1, num)), np.eye(num), labels[:pairs]])
    effects = random.normal(size=(num, 3)) @ random.normal(size=(3, features))
    return train.astype(np.float32), labels[pairs:].astype(np.float32), effects


def design_of(labels):
    return make_design(labels, [f"p{i}" for i in range(labels.shape[1])])


def some_measured(seed=0):
    random = np.random.default_rng(seed)
    labels, _, _ = screen(num=6, pairs=9)
    rows = labels[1:].astype(np.float64)
    tested = np.count_nonzero(rows, axis=1) > 1
    return Measured(random.normal(size=(len(rows), 4)), rows, random.uniform(0.5, 2.0, len(rows)), 0.3, tested)


def test_left_out_predictions_are_those_of_processes_without_the_condition():
    measured, covariance = some_measured(), Covariance(0.4, 0.2, 1.5, 0.3)
    points = measured.rows @ np.random.default_rng(1).normal(size=(6, 4))
    found = fit_process(measured, points, covariance).left_out
    x = effective_label(measured.rows, 0.4)
    prior = x @ x.T + 0.2 + 1.5 * beyond_origin(points, points)
    # of the control's noise, which all differences share, the left-out one has its part too
    prior += 0.3 * measured.control_noise
    for predicted, row in zip(found, np.flatnonzero(measured.tested), strict=True):
        rest = np.arange(len(points)) != row
        weights = np.linalg.solve(prior[rest][:, rest] + 0.3 * np.diag(measured.noise[rest]), measured.scores[rest])
        np.testing.assert_allclose(predicted, prior[row, rest] @ weights, atol=1e-9)
    decomposed = Process.of(measured, points, covariance).missed(0.3)
    np.testing.assert_allclose(measured.scores[measured.tested] - decomposed, found, atol=1e-9)


def test_the_kernel_is_the_covariance_of_differences_from_the_origin_of_scikit_learns():
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    points = np.random.default_rng(0).normal(size=(30, 3))
    joint = kernels.Matern(nu=1.5, length_scale=1.0)(np.concatenate([points, np.zeros((1, 3))]))
    differences = np.concatenate([np.eye(30), np.full((30, 1), -1.0)], axis=1)  # h(x) - h(0)
    np.testing.assert_allclose(beyond_origin(points, points), differences @ joint @ differences.T, atol=1e-12)


def test_additive_effects_are_those_of_scikit_learns_process():
    process = pytest.importorskip("sklearn.gaussian_process")
    measured, common, ridge = some_measured()._replace(control_noise=0.0), 0.2, 0.3
    found = fit_process(measured, np.zeros((15, 4)), Covariance(0.0, common, 0.0, ridge))
    kernel = process.kernels.DotProduct(sigma_0=common**0.5)
    regressor = process.GaussianProcessRegressor(kernel=kernel, optimizer=None, alpha=ridge * measured.noise)
    expected = regressor.fit(measured.rows, measured.scores).predict(np.eye(6))
    np.testing.assert_allclose((np.eye(6) @ measured.rows.T + common) @ found.weights, expected, atol=1e-9)


def saturating(labels, effects):
    """Effects that bend together where they are long: similar pairs are off from their sum in similar ways."""
    total = labels @ effects
    size = np.linalg.norm(total, axis=1, keepdims=True)
    return np.tanh(size / 6.0) * 6.0 * total / np.maximum(size, 1e-9)


@pytest.mark.parametrize(("noise", "most"), [(0.05, 0.6), (0.2, 0.8)])
def test_similar_combinations_say_what_pairs_do_beyond_their_sum(noise, most):
    labels, asked, effects = screen()
    random = np.random.default_rng(2)
    means = saturating(labels, effects) + noise * random.normal(size=(len(labels), effects.shape[1]))
    found = fit_condition_means(means, design_of(labels), np.full(len(labels), 100.0))
    assert found.interacts == "similar combinations"
    truth = saturating(asked, effects)
    error = np.sum((found.predict(asked) - truth) ** 2) / np.sum((found.linear.predict(asked) - truth) ** 2)
    assert error < most


def test_without_interactions_the_linear_model_stands():
    chosen = []
    for seed in range(6):
        labels, _, effects = screen(seed=seed)
        random = np.random.default_rng(seed)
        means = labels @ effects + 0.5 * random.normal(size=(len(labels), effects.shape[1]))
        found = fit_condition_means(means, design_of(labels), np.full(len(labels), 100.0))
        chosen.append(found.interacts)
        if found.interacts == "nothing":
            np.testing.assert_array_equal(found.predict(labels), found.linear.predict(labels))
    assert chosen.count("nothing") >= 5


def test_a_table_of_low_rank_is_completed_exactly_where_little_is_shrunk():
    random = np.random.default_rng(0)
    factors = random.normal(size=(2, 40, 2))
    table = factors @ factors.transpose(0, 2, 1)
    parts = np.array(list(itertools.combinations(range(40), 2)))
    measured = random.random(len(parts)) < 0.7
    residual = table[:, parts[:, 0], parts[:, 1]].T
    found = complete(Pairs(parts[measured], np.ones(measured.sum()), residual[measured], 40))
    missing = Pairs(parts[~measured], np.ones((~measured).sum()), residual[~measured], 40)
    errors = [np.sum((missing.read(each) - missing.residual) ** 2) / np.sum(missing.residual**2) for each in found]
    assert len(errors) == len(SHRINKAGES) and errors[-1] < 0.02 and errors[-1] < errors[0]


def test_dense_designs_are_read_off_the_table_of_pairs():
    labels, asked, effects = screen(num=20, pairs=150, features=3)
    random = np.random.default_rng(0)
    kinds = random.normal(size=(20, 2))

    def law(rows):
        beyond = 0.5 * np.sum((rows @ kinds) ** 2 - rows**2 @ kinds**2, axis=1)
        return rows @ effects + beyond[:, None] * [1.0, -0.5, 0.3]

    means = law(labels) + 0.2 * random.normal(size=(len(labels), 3))
    found = fit_condition_means(means, design_of(labels), np.full(len(labels), 100.0))
    assert found.interacts == "the table of pairs"
    off = np.sum((found.predict(asked) - law(asked)) ** 2) / np.sum((found.linear.predict(asked) - law(asked)) ** 2)
    assert off < 0.5


def test_units_of_doses_and_of_features_change_nothing():
    labels, asked, effects = screen()
    means = saturating(labels, effects) + 0.3 * np.random.default_rng(2).normal(size=(len(labels), 15))
    counts = np.full(len(labels), 100.0)
    first = fit_condition_means(means, design_of(labels), counts)
    other_unit = make_design(1e3 * labels, [f"p{i}" for i in range(12)])
    second = fit_condition_means(7.0 * means, other_unit, 3.0 * counts)
    np.testing.assert_allclose(second.predict(other_unit.row(1e3 * asked)), 7.0 * first.predict(asked), rtol=1e-6)


def test_interactions_are_the_same_in_jax_and_vanish_for_the_control():
    labels, asked, effects = screen()
    found = fit_condition_means(saturating(labels, effects), design_of(labels), np.full(len(labels), 100.0))
    assert found.interactions is not None
    in_jax = type(found.interactions)(*(jnp.asarray(array, jnp.float32) for array in found.interactions))
    expected = found.interaction(asked)
    np.testing.assert_allclose(
        interactions_at(in_jax, jnp.asarray(asked)), expected, atol=2e-4 * np.abs(expected).max()
    )
    np.testing.assert_allclose(interactions_at(in_jax, jnp.zeros(12)), 0.0, atol=1e-6)


def screen_of_cells(cells=30):
    """Cells of a saturating screen, and six pairs to hold out."""
    labels, asked, effects = screen()
    labels = np.concatenate([labels, asked[:6]])
    names = ["+".join(f"p{i}" for i in np.flatnonzero(row)) or "control" for row in labels]
    means = saturating(labels, effects)
    x = means[:, None] + 0.5 * np.random.default_rng(5).normal(size=(len(means), cells, means.shape[1]))
    x = x.reshape(-1, means.shape[1]).astype(np.float32)
    return hold_out(from_arrays(x, np.repeat(np.array(names, dtype=object), cells)), names[-6:])


@pytest.mark.slow
def test_a_fit_starts_from_interactions_and_keeps_them(tmp_path):
    train, test = screen_of_cells()
    means, key = predicted_means(train), jax.random.key(0)
    assert means.interacts == "similar combinations"
    options = {"latent_dim": 2, "log_every": 10, "eval_every": 10, "checkpoint_every": 10, "progress": False}
    fitted = fit(train, key=key, validation=test, num_steps=20, standardize="global", workdir=tmp_path, **options)
    label, zero = test.labels[0], np.zeros(12, np.float32)
    x = train.cells("control")
    start = fit(train, key=key, num_steps=20, standardize="global", stop_step=0, **options)
    moved = np.mean(start.translate(key, x, zero, label) - x, axis=0)
    np.testing.assert_allclose(moved, means.predict(label), atol=0.1)
    for one, other in zip(*(jax.tree.leaves(f.params["shift"]["interactions"]) for f in (fitted, start)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(fitted.translate(key, x, label, label), x, atol=1e-4)
    read = load_run(tmp_path)
    np.testing.assert_array_equal(read.translate(key, x, zero, label), fitted.translate(key, x, zero, label))
    verdict = check_guarantee(fitted, label)
    assert verdict.borrowed is not None and 0.02 < verdict.borrowed < 1.0
    assert "borrowed from other combinations" in verdict.summary()
