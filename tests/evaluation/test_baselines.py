import dataclasses

import jax
import numpy as np
import pytest

from pdae_jax.data.load import from_arrays
from pdae_jax.data.normalisation import size_factors
from pdae_jax.data.simulate import design, simulate
from pdae_jax.evaluation.baselines import (
    BASELINES,
    Task,
    additive_shift,
    latent_additive,
    linear_model,
    predicted_means,
    principal_components,
)
from pdae_jax.two_sample.permutation import two_sample_test
from pdae_jax.types import PerturbationData

KEY = jax.random.key(0)


def make_data(labels, shift, *, counts=None, seed=0):
    """Gaussian cells with mean `labels @ shift` exactly, so that condition means carry no sampling error."""
    random = np.random.default_rng(seed)
    labels = np.asarray(labels, dtype=np.float32)
    counts = counts or [60] * len(labels)
    blocks = []
    for label, count in zip(labels, counts, strict=True):
        noise = random.normal(size=(count, shift.shape[1]))
        blocks.append(10.0 + noise - noise.mean(0) + label @ shift)
    return PerturbationData(
        x=np.concatenate(blocks).astype(np.float32),
        condition_index=np.repeat(np.arange(len(labels), dtype=np.int32), counts),
        labels=labels,
        conditions=tuple("control" if not label.any() else f"c{i}" for i, label in enumerate(labels)),
        perturbations=tuple("ABC"[: labels.shape[1]]),
        features=tuple(f"x{j}" for j in range(shift.shape[1])),
    )


SHIFT = np.random.default_rng(1).normal(size=(3, 5)) * 3.0
SINGLES = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_the_moving_baselines_are_exact_in_a_linear_world():
    simulation = simulate(
        KEY,
        mixing="linear",
        num_perturbations=3,
        latent_dim=3,
        observed_dim=6,
        cells_per_condition=4000,
        labels=design(["p0", "p1", "p2"]),
    )
    label = {"p0": 1.0, "p1": 0.5, "p2": 2.0}
    truth = np.asarray(simulation.world.sample(jax.random.key(1), label, 4000))
    for name in ("additive", "linear_regression", "latent_additive"):
        samples = BASELINES[name](jax.random.key(2), simulation.data, label, 4000)
        assert samples.shape == (4000, 6)
        np.testing.assert_allclose(samples.mean(0), truth.mean(0), atol=0.15)
        np.testing.assert_allclose(np.cov(samples.T), np.cov(truth.T), atol=0.15)


@pytest.mark.parametrize("label", [{"A": 1.0, "B": 1.0, "C": 1.0}, {"A": 0.5, "C": -2.0}, "B", "control"])
@pytest.mark.parametrize("name", ["additive", "linear_regression", "latent_additive", "pseudobulk"])
def test_means_add_up_for_any_order_and_dose(name, label):
    data = make_data(SINGLES, SHIFT)
    expected = 10.0 + data.label(label) @ SHIFT
    np.testing.assert_allclose(BASELINES[name](KEY, data, label, 60).mean(0), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["additive", "linear_regression", "latent_additive"])
def test_another_source_leads_to_the_same_mean(name):
    data = make_data(SINGLES, SHIFT)
    samples = BASELINES[name](KEY, data, {"A": 1.0, "B": 1.0}, 60, source="c1")
    np.testing.assert_allclose(samples.mean(0), 10.0 + SHIFT[0] + SHIFT[1], atol=1e-4)
    own = data.cells("c1")
    np.testing.assert_allclose(np.sort(samples - samples.mean(0), 0), np.sort(own - own.mean(0), 0), atol=1e-4)


def test_effects_of_perturbations_never_measured_alone():
    # C only in pairs: found by subtracting the measured singles, not by a compromise with them
    data = make_data([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]], SHIFT)
    np.testing.assert_allclose(additive_shift(data, {"B": 1.0, "C": 1.0}), SHIFT[1] + SHIFT[2], atol=1e-4)
    # B and C only together, at equal dose: A + B is not determined, and the part that is not contributes nothing
    data = make_data([[0, 0, 0], [1, 0, 0], [0, 1, 1]], SHIFT)
    np.testing.assert_allclose(additive_shift(data, {"B": 1.0, "C": 1.0}), SHIFT[1] + SHIFT[2], atol=1e-4)
    np.testing.assert_allclose(
        additive_shift(data, {"A": 1.0, "B": 1.0}), SHIFT[0] + 0.5 * (SHIFT[1] + SHIFT[2]), atol=1e-4
    )
    np.testing.assert_allclose(additive_shift(data, {"B": 1.0, "C": -1.0}), 0.0, atol=1e-4)


def test_a_dose_measured_alone_beats_the_line_through_others():
    data = make_data([[0, 0], [1, 0], [2, 0], [0, 1]], SHIFT[:2])
    x = data.x.copy()
    x[data.condition_index == 2] += 7.0  # dose 2 of A does more than twice dose 1
    data = dataclasses.replace(data, x=x)
    np.testing.assert_allclose(additive_shift(data, {"A": 2.0, "B": 1.0}), 2 * SHIFT[0] + 7.0 + SHIFT[1], atol=1e-4)
    slope = (SHIFT[0] + 2 * (2 * SHIFT[0] + 7.0)) / 5
    np.testing.assert_allclose(additive_shift(data, {"A": 3.0}), 3 * slope, atol=1e-4)


def test_linear_regression_agrees_with_the_normal_equations():
    data = make_data([*SINGLES, [1, 1, 0], [0, 1, 1]], SHIFT, counts=[60, 30, 50, 40, 20, 60])
    x = data.x.copy()
    x[data.condition_index == 4] += 5.0  # an interaction: the fit is no interpolation
    data = dataclasses.replace(data, x=x)
    means = np.stack([data.cells(name).mean(0) for name in data.conditions])
    rows = np.column_stack([np.ones(6), data.labels])
    coefficients = np.linalg.solve(rows.T @ rows, rows.T @ means)
    samples = BASELINES["linear_regression"](KEY, data, "A+C", 60)
    np.testing.assert_allclose(samples.mean(0), np.array([1, 1, 0, 1]) @ coefficients, atol=1e-4)


def test_latent_additive_drops_directions_without_components():
    data = make_data(SINGLES, SHIFT)
    loadings = principal_components(data, 2)
    pooled = data.x.astype(np.float64) - data.x.mean(0)
    _, _, directions = np.linalg.svd(pooled, full_matrices=False)  # conditions have equal size here
    np.testing.assert_allclose(np.abs(directions[:2] @ loadings), np.eye(2), atol=1e-6)
    task = Task(data, data.label("A+B"), "control")
    samples = latent_additive(KEY, task, 60, latent_dim=2)
    expected = 10.0 + (SHIFT[0] + SHIFT[1]) @ loadings @ loadings.T
    np.testing.assert_allclose(samples.mean(0), expected, atol=1e-4)
    full = latent_additive(KEY, task, 60, latent_dim=5)
    np.testing.assert_allclose(full.mean(0), 10.0 + SHIFT[0] + SHIFT[1], atol=1e-4)


def test_cells_are_drawn_without_replacement_as_long_as_they_last():
    data = make_data(SINGLES, SHIFT, counts=[40, 60, 60, 60])
    control = {tuple(row) for row in data.cells("control")}
    few = BASELINES["control"](KEY, data, "A", 25)
    assert len({tuple(row) for row in few}) == 25
    many = BASELINES["control"](KEY, data, "A", 100)
    values, times = np.unique(many, axis=0, return_counts=True)
    assert {tuple(row) for row in values} == control
    assert set(times) == {2, 3}


def test_pool_all_weighs_conditions_equally():
    data = make_data(SINGLES, 0 * SHIFT, counts=[10, 400, 30, 60])
    owner = {tuple(row): index for row, index in zip(data.x, data.condition_index, strict=True)}

    def drawn(number):
        return np.bincount([owner[tuple(row)] for row in BASELINES["pool_all"](KEY, data, "A", number)], minlength=4)

    assert sorted(drawn(39)) == [9, 10, 10, 10]
    # half of the conditions give what they have and no cell twice, of the smallest some come again
    for number in (200, 500, 2000):
        np.testing.assert_array_equal(drawn(number), [30, 30, 30, 30])


@pytest.mark.parametrize("control_cells", [50, 20_000])
def test_the_mean_response_does_not_depend_on_the_number_of_samples(control_cells):
    """Of four conditions three have the mean 1 in a feature where the control has 0: 0.75, squared error 0.0625."""
    counts = [control_cells, 120, 90, 200]
    x = np.repeat([[0.0], [1.0], [1.0], [1.0]], counts, axis=0).astype(np.float32)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    names = ("control", "A", "B", "A+B")
    index = np.repeat(np.arange(4, dtype=np.int32), counts)
    data = PerturbationData(x, index, labels, names, ("A", "B"), ("x0",))
    for number in (40, 200, 2000, 10_000):
        assert BASELINES["pool_all"](KEY, data, "A+B", number).mean() == 0.75


def test_one_law_for_all_is_not_told_from_its_pool():
    """Repeated cells would make a test reject a pool of unequal groups that is of the very law."""
    p_values = []
    for seed in range(10):
        data = make_data(SINGLES, 0 * SHIFT, counts=[12, 600, 12, 12], seed=seed)
        pool = BASELINES["pool_all"](KEY, data, "A", 400)
        other = 10.0 + np.random.default_rng(100 + seed).normal(size=(400, 5))
        p_values.append(two_sample_test(pool, other, key=KEY, num_permutations=199).p_value)
    assert np.median(p_values) > 0.1


def test_pseudobulk_is_a_point_mass():
    samples = BASELINES["pseudobulk"](KEY, make_data(SINGLES, SHIFT), "A+B", 7)
    assert samples.shape == (7, 5)
    assert np.ptp(samples, axis=0).max() == 0


@pytest.mark.parametrize("name", BASELINES)
def test_same_key_same_samples_and_clipping_only_when_asked(name):
    data = make_data(SINGLES, SHIFT)
    data = dataclasses.replace(data, x=data.x - 10.0)
    samples = BASELINES[name](KEY, data, "A+B", 50)
    assert samples.dtype == data.x.dtype
    assert samples.min() < 0
    np.testing.assert_array_equal(samples, BASELINES[name](KEY, data, "A+B", 50))
    np.testing.assert_array_equal(BASELINES[name](KEY, data, "A+B", 50, floor=0.0), np.maximum(samples, 0))


@pytest.mark.parametrize("name", ["ridge", "ridge_additive"])
def test_ridge_moves_cells_by_the_predicted_means(name):
    data = simulate(
        jax.random.key(3), latent_dim=3, observed_dim=6, num_perturbations=6, cells_per_condition=60, interaction=2.0
    ).data
    train = data.select([name for name in data.conditions if name != "p0+p1"])
    model = predicted_means(train) if name == "ridge" else linear_model(train)
    key = jax.random.key(0)
    moved = BASELINES[name](key, train, "p0+p1", 60, source="p0")
    still = BASELINES[name](key, train, "p0", 60, source="p0")
    # the same cells, moved by the difference of two predicted means
    expected = model.predict(train.label("p0+p1")) - model.predict(train.label("p0"))
    np.testing.assert_allclose(moved - still, np.broadcast_to(expected, moved.shape), atol=1e-5)
    np.testing.assert_allclose(np.sort(still, axis=0), np.sort(train.cells("p0"), axis=0), atol=1e-6)


def test_moved_counts_are_whole_numbers_again():
    random = np.random.default_rng(0)
    raw = random.poisson(random.gamma(0.8, 2.0, 12) * np.repeat([[1.0], [2.0]], 200, axis=0)) + (np.arange(12) == 0)
    data = from_arrays(raw, np.repeat(["control", "A"], 200), normalize=True)
    for name in ("additive", "ridge"):
        moved = BASELINES[name](KEY, data, "A", 200)
        still = BASELINES[name](KEY, data, "A", 200, source="A")
        assert {tuple(np.round(row, 4)) for row in still} == {tuple(np.round(row, 4)) for row in data.cells("A")}
        sizes = size_factors(moved)
        counts = np.expm1(moved) * sizes[:, None]
        np.testing.assert_allclose(counts, np.round(counts), atol=2e-2)
