"""Identification: agreement against closed forms, on samples whose mean and covariance are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group

import pdae_jax
from pdae_jax.data.simulate import simulate
from pdae_jax.design.design import design_of
from pdae_jax.evaluation.identification import (
    MAP_CLASSES,
    compare_latents,
    compare_shifts,
    identification_table,
    load_truth,
    measure_identification,
    save_truth,
    truth_of,
)
from pdae_jax.model.alignment import affine_map, agreement, fit_maps, orthogonal_map
from pdae_jax.model.fitted import Fitted
from pdae_jax.model.model import make_model
from pdae_jax.recipe import Recipe
from pdae_jax.reporting.sections import format_identification
from pdae_jax.view.units import make_standardizer
from pdae_jax.view.view import View

N = 5000
FIT_ON = np.arange(2 * N) < N
# the covariance within conditions is the unbiased one, larger than the exact one of a sample by N / (N - 1)
WHITENING = 1e-3
SHIFTS = np.array([[2.0, 0.0, 0.0], [0.0, 1.5, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0, 2.0]])


def exact_normal(dim, seed=0):
    """Twice the same N cells, in another order, with mean 0 and covariance 1 exactly."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(N, dim))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / N)).T
    return np.concatenate([x, x[random.permutation(N)]])


def rotation(dim, seed=0):
    return ortho_group.rvs(dim, random_state=seed)


def shifts_under(name, learned, true, learned_shifts, true_shifts):
    maps = fit_maps(learned[FIT_ON], true[FIT_ON], np.zeros(N, dtype=int))
    return compare_shifts(learned_shifts @ getattr(maps, name).matrix, true_shifts)


@pytest.mark.parametrize("seed", range(4))
def test_rotation_and_translation_are_undone(seed):
    # seeds give rotations and reflections
    turn, offset = rotation(3, seed), np.array([5.0, -2.0, 30.0])
    true = exact_normal(3)
    learned = true @ turn + offset
    for name, found in compare_latents(learned, true, fit_on=FIT_ON).items():
        tolerance = WHITENING if name == "whitened" else 1e-10
        assert found.r2 == pytest.approx(1.0, abs=tolerance)
        assert found.residual == pytest.approx(0.0, abs=tolerance)
        assert found.excess == 0.0
        np.testing.assert_allclose(found.r2_by_latent, 1.0, atol=tolerance)
        shifts = shifts_under(name, learned, true, SHIFTS @ turn, SHIFTS)
        assert shifts.error == pytest.approx(0.0, abs=tolerance)
        np.testing.assert_allclose(shifts.cosine, 1.0, atol=tolerance)


def test_a_linear_map_that_is_not_orthogonal():
    # Z A R with A = U S V^T: the best R is V U^T, and leaves Z U (S - 1) U^T
    left, stretch, right = rotation(3, 1), np.array([0.5, 1.0, 2.0]), rotation(3, 2)
    matrix = left * stretch @ right
    true = exact_normal(3)
    learned = true @ matrix + 1.0
    found = compare_latents(learned, true, fit_on=FIT_ON)
    assert found["affine"].r2 == pytest.approx(1.0)
    assert found["whitened"].r2 == pytest.approx(1.0, abs=WHITENING)
    assert found["orthogonal"].r2 == pytest.approx(1 - (0.25 + 0.0 + 1.0) / 3)
    assert found["orthogonal"].residual == pytest.approx(np.sqrt(1.25 / 3))
    left_over = left * (stretch - 1) @ left.T
    np.testing.assert_allclose(found["orthogonal"].r2_by_latent, 1 - np.sum(left_over**2, axis=0))
    np.testing.assert_allclose(found["orthogonal"].residual_by_latent, np.sqrt(np.sum(left_over**2, axis=0)))

    shifts = shifts_under("orthogonal", learned, true, SHIFTS @ matrix, SHIFTS)
    error = np.linalg.norm(SHIFTS @ left_over) / np.linalg.norm(SHIFTS)
    assert shifts.error == pytest.approx(error)
    assert shifts.r2 == pytest.approx(1 - error**2)
    lengths = np.sqrt(np.diag(SHIFTS @ matrix @ matrix.T @ SHIFTS.T))
    np.testing.assert_allclose(shifts.length_error, lengths / np.linalg.norm(SHIFTS, axis=1) - 1)
    for name in ("affine", "whitened"):
        assert shifts_under(name, learned, true, SHIFTS @ matrix, SHIFTS).error < WHITENING


@pytest.mark.parametrize("sd", [0.1, 0.5, 1.0])
def test_noise_of_known_variance(sd):
    both = exact_normal(6)
    true, learned = both[:, :3], both[:, :3] + sd * both[:, 3:]
    # noise is paired with the same cells in both halves
    found = compare_latents(learned, true, fit_on=FIT_ON)
    assert found["affine"].r2 == pytest.approx(1 / (1 + sd**2))  # regression shrinks
    assert found["orthogonal"].r2 == pytest.approx(1 - sd**2)  # a rotation cannot
    assert found["whitened"].r2 == pytest.approx(2 / np.sqrt(1 + sd**2) - 1, abs=WHITENING)
    np.testing.assert_allclose(found["orthogonal"].residual_by_latent, sd)


def test_shifts_between_conditions_are_no_spread_within():
    # units come from the spread within conditions, however far apart these are
    turn, far = rotation(3), np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0], [0.0, 70.0, -20.0]])
    index = np.repeat(np.arange(3), 2 * N)
    true = np.concatenate([exact_normal(3, seed) for seed in range(3)]) + far[index]
    learned = true * 3.0 @ turn
    maps = fit_maps(learned, true, index)
    np.testing.assert_allclose(maps.base_sd, 3.0, rtol=WHITENING)
    np.testing.assert_allclose(maps.whitened.matrix, turn.T / 3, atol=WHITENING)
    found = compare_latents(learned, true, condition_index=index)
    assert found["whitened"].r2 > 0.999
    # one scale costs (3 - 1)^2 of the spread, which is mostly that of the conditions
    assert found["orthogonal"].r2 == pytest.approx(1 - 4.0, abs=0.1)


def test_surplus_learned_latents_are_turned_away():
    both, turn = exact_normal(4), rotation(4)
    true, learned = both[:, :3], both * np.array([1.0, 1.0, 1.0, 0.7]) @ turn
    found = compare_latents(learned, true, fit_on=FIT_ON)
    for name in MAP_CLASSES:
        assert found[name].r2 == pytest.approx(1.0, abs=WHITENING)
    assert found["orthogonal"].excess == pytest.approx(0.7)
    assert found["whitened"].excess == pytest.approx(1.0, abs=WHITENING)
    assert found["affine"].excess == 0.0

    # what a shift does to surplus latents is error
    learned_shifts = np.concatenate([SHIFTS, np.array([[0.0], [1.0], [0.0], [0.0]])], axis=1) @ turn
    shifts = shifts_under("orthogonal", learned, true, learned_shifts, SHIFTS)
    length = np.linalg.norm(SHIFTS[1])
    np.testing.assert_allclose(shifts.error_by_perturbation, [0, 1 / length, 0, 0], atol=1e-10)
    np.testing.assert_allclose(shifts.cosine, [1, length / np.hypot(length, 1), 1, 1])
    np.testing.assert_allclose(shifts.length_error, [0, np.hypot(length, 1) / length - 1, 0, 0], atol=1e-10)
    assert shifts.error == pytest.approx(1 / np.linalg.norm(SHIFTS))


def test_a_missing_learned_latent_costs_its_variance():
    true = exact_normal(3)
    learned = true[:, :2] @ rotation(2)
    found = compare_latents(learned, true, fit_on=FIT_ON)
    for name in MAP_CLASSES:
        assert found[name].r2 == pytest.approx(2 / 3, abs=WHITENING)
        np.testing.assert_allclose(found[name].residual_by_latent, [0, 0, 1], atol=WHITENING)
        assert found[name].excess == 0.0
    shifts = shifts_under("orthogonal", learned, true, SHIFTS[:, :2] @ rotation(2), SHIFTS)
    np.testing.assert_allclose(shifts.cosine, [1, 1.5 / np.hypot(1.5, 0.5), 2 / np.sqrt(6), np.nan], atol=1e-10)
    np.testing.assert_allclose(
        shifts.length_error, [0, 1.5 / np.hypot(1.5, 0.5) - 1, np.sqrt(2 / 3) - 1, -1], atol=1e-10
    )


def test_a_dead_learned_latent_is_not_blown_up():
    both = exact_normal(4)
    learned = both * np.array([1.0, 1.0, 1.0, 1e-9])
    found = compare_latents(learned, both[:, :3], fit_on=FIT_ON)
    assert found["whitened"].excess < 1e-6
    assert found["whitened"].r2 == pytest.approx(1.0, abs=WHITENING)


def test_r2_is_not_flattered_by_the_fit():
    random = np.random.default_rng(0)
    learned, true = random.normal(size=(80, 20)), random.normal(size=(80, 2))
    assert agreement(affine_map(learned, true).apply(learned), true).r2 > 0.1
    found = compare_latents(learned, true)
    assert found["affine"].r2 < 0
    # shuffled cells: nothing to find
    assert compare_latents(exact_normal(3), exact_normal(3, seed=1))["affine"].r2 == pytest.approx(0.0, abs=0.02)


def test_no_other_orthogonal_map_is_better():
    random = np.random.default_rng(0)
    learned, true = random.normal(size=(200, 4)), random.normal(size=(200, 4)) @ random.normal(size=(4, 4))
    best = orthogonal_map(learned, true)
    np.testing.assert_allclose(best.matrix @ best.matrix.T, np.eye(4), atol=1e-12)
    least = np.sum((best.apply(learned) - true) ** 2)
    centred, target = learned - learned.mean(axis=0), true - true.mean(axis=0)
    others = [np.sum((centred @ rotation(4, seed) - target) ** 2) for seed in range(500)]
    # nearby ones too: the Cayley transform of a small skew matrix is a small rotation
    for seed in range(50):
        skew = np.random.default_rng(seed).normal(size=(4, 4)) * 1e-2
        skew -= skew.T
        turned = best.matrix @ np.linalg.solve(np.eye(4) + skew, np.eye(4) - skew)
        others.append(np.sum((centred @ turned - target) ** 2))
    assert least < min(others)


def test_gram_and_lengths_need_no_alignment():
    wrong = SHIFTS + np.random.default_rng(0).normal(size=SHIFTS.shape)
    aligned, turned = compare_shifts(wrong, SHIFTS), compare_shifts(wrong @ rotation(3), SHIFTS)
    assert turned.gram_error == pytest.approx(aligned.gram_error)
    np.testing.assert_allclose(turned.length_error, aligned.length_error)
    assert turned.error != pytest.approx(aligned.error)
    assert compare_shifts(2.0 * SHIFTS, SHIFTS).gram_error == pytest.approx(3.0)
    assert compare_shifts(0.0 * SHIFTS, SHIFTS).r2 == 0.0


def test_a_perturbation_without_effect_has_no_direction():
    shifts = compare_shifts(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(np.isnan(shifts.cosine), [True, False])
    np.testing.assert_array_equal(np.isnan(shifts.length_error), [True, False])
    assert shifts.error == pytest.approx(1 / np.sqrt(2))


@pytest.mark.parametrize(
    ("learned", "true", "message"),
    [
        (np.zeros((10, 2)), np.zeros((9, 2)), "10 learned latents and 9 true ones"),
        (np.full((10, 2), np.nan), np.zeros((10, 2)), "learned latents of 10 cells are not finite"),
        (np.zeros((10, 2)), np.diag([np.inf] * 10)[:, :2], "true latents of 2 cells are not finite"),
        (np.zeros((6, 2)), np.zeros((6, 2)), "fitted on 3 cells"),
    ],
)
def test_latents_that_cannot_be_compared(learned, true, message):
    with pytest.raises(ValueError, match=message):
        compare_latents(learned, true)


def test_other_bad_input():
    with pytest.raises(ValueError, match="none is left to judge"):
        compare_latents(np.zeros((20, 2)), np.zeros((20, 2)), fit_on=np.ones(20, dtype=bool))
    with pytest.raises(ValueError, match="4 learned shifts and 3 true ones"):
        compare_shifts(SHIFTS, SHIFTS[:3])
    simulation = simulate(jax.random.key(0), mixing="linear", cells_per_condition=50)
    fitted = planted(simulation, np.eye(4))
    other = simulate(jax.random.key(0), mixing="linear", cells_per_condition=50, observed_dim=7)
    with pytest.raises(ValueError, match="do not have the features"):
        measure_identification(fitted, other)


HELD_OUT = ("p0+p2", "p1+p3")


def planted(simulation, matrix, *, shift_matrix=None):
    """A model of a linear world that has found its latents, times a matrix."""
    train, _ = pdae_jax.hold_out(simulation.data, HELD_OUT)
    latent_dim = simulation.world.latent_dim
    inverse = np.asarray(simulation.world.mixing(jnp.eye(latent_dim))).T  # orthonormal columns
    model = make_model(
        train.num_features,
        train.num_perturbations,
        latent_dim=matrix.shape[1],
        noise="abducted",
        noise_dim=0,
        observed_effects=False,
        hidden=(4,),
        activation="silu",
    )
    shift = simulation.world.shift_matrix @ matrix if shift_matrix is None else shift_matrix
    params = {"kernel": (inverse @ matrix).astype(np.float32), "shift": {"matrix": shift.astype(np.float32)}}
    model = model._replace(encode=lambda params, x: x @ params["kernel"] + 3.0)
    return untrained(model, params, make_standardizer(train, "none"), train)


def untrained(model, params, standardizer, train):
    return Fitted(
        model=model,
        params=params,
        view=View(standardizer),
        design=design_of(train),
        train=train,
        validation=None,
        validation_errors={},
        recipe=Recipe(),
        history=[],
        seed=0,
    )


@pytest.fixture(scope="module")
def linear_world():
    return simulate(jax.random.key(3), mixing="linear", cells_per_condition=400)


def test_a_model_that_found_the_truth(linear_world):
    found = measure_identification(planted(linear_world, rotation(4)), linear_world)
    assert (found.latent_dim, found.learned_dim) == (4, 4)
    np.testing.assert_allclose(found.base_sd, 1.0, atol=0.1)
    for name in MAP_CLASSES:
        result = getattr(found, name)
        # whitening with the covariance of 1,800 cells: a few per cent
        residual = 0.08 if name == "whitened" else 1e-5
        assert result.seen.residual < residual
        assert result.unseen.residual < residual
        assert result.shifts.error < residual
        assert result.shifts.gram_error < 2 * residual


def test_the_units_are_those_of_the_base():
    simulation = simulate(jax.random.key(3), mixing="linear", base="correlated", cells_per_condition=400)
    to_base = np.linalg.inv(simulation.world.base_scale).T
    in_units = measure_identification(planted(simulation, to_base @ rotation(4)), simulation)
    as_drawn = measure_identification(planted(simulation, rotation(4)), simulation)
    assert in_units.orthogonal.seen.residual < 1e-4
    assert in_units.orthogonal.shifts.error < 1e-4
    assert as_drawn.affine.seen.residual < 1e-4
    assert as_drawn.whitened.seen.residual < 0.1
    assert as_drawn.orthogonal.seen.residual > 0.2
    assert as_drawn.affine.shifts.error < 1e-4
    assert as_drawn.orthogonal.shifts.error > 0.2
    # singular values of the planted matrix, of which the truth has 1
    spread = np.linalg.svd(simulation.world.base_scale, compute_uv=False)
    np.testing.assert_allclose(as_drawn.base_sd, spread, rtol=0.08)


def test_unseen_conditions_are_judged_and_not_fitted(linear_world):
    data, _, latents = linear_world
    unseen = np.isin(data.condition_index, [data.index(name) for name in HELD_OUT])
    found = measure_identification(
        planted(linear_world, rotation(4)), linear_world._replace(latents=latents + unseen[:, None])
    )
    assert found.orthogonal.seen.residual < 1e-5
    np.testing.assert_allclose(found.orthogonal.unseen.residual_by_latent, 1.0, atol=1e-4)


def test_seen_conditions_are_judged_on_other_cells_than_fitted():
    simulation = simulate(jax.random.key(0), mixing="linear", cells_per_condition=4)
    unrelated = np.random.default_rng(0).normal(size=simulation.latents.shape)
    found = measure_identification(planted(simulation, np.eye(4)), simulation._replace(latents=unrelated))
    assert found.affine.seen.r2 < -0.1  # 4 coefficients on 18 cells: 0.2 in-sample


def test_the_table_names_the_wrong_perturbation(linear_world, tmp_path):
    turn = rotation(4)
    shift_matrix = linear_world.world.shift_matrix @ turn
    shift_matrix[2] *= -1.0
    found = measure_identification(planted(linear_world, turn, shift_matrix=shift_matrix), linear_world)
    table = identification_table(found)
    assert list(table.columns) == ["quantity", "perturbation_or_latent", "value"]
    assert not table.duplicated(["quantity", "perturbation_or_latent"]).any()
    value = table.set_index(["quantity", "perturbation_or_latent"])["value"]
    for name, error, cosine in (("p0", 0, 1), ("p1", 0, 1), ("p2", 2, -1), ("p3", 0, 1)):
        assert value["orthogonal_shift_error", name] == pytest.approx(error, abs=1e-5)
        assert value["orthogonal_shift_cosine", name] == pytest.approx(cosine, abs=1e-5)
        assert value["orthogonal_shift_length_error", name] == pytest.approx(0, abs=1e-5)
    assert value["orthogonal_r2", "all"] == pytest.approx(1.0)
    assert value["affine_r2_unseen", "latent 4"] == pytest.approx(1.0)
    assert value["learned_latent_dim", "all"] == 4

    table.to_csv(tmp_path / "identification.csv", index=False)
    text = format_identification(pd.read_csv(tmp_path / "identification.csv"))
    assert text == format_identification(table)
    assert "| p2 | -1.000 |" in text and "| p1 | 1.000 |" in text
    assert "| orthogonal | 1.000 | 0.000 | 1.000 | 0.000 |" in text


def test_without_unseen_conditions_nothing_is_said_of_them(linear_world):
    fitted = planted(linear_world, np.eye(4))
    data, _, latents = linear_world
    rows = np.isin(data.condition_index, [data.index(name) for name in fitted.train.conditions])
    found = measure_identification(fitted, linear_world._replace(data=fitted.train, latents=latents[rows]))
    assert found.orthogonal.unseen is None
    table = identification_table(found)
    assert not table["quantity"].str.endswith("_unseen").any()
    assert "| orthogonal | 1.000 | 0.000 | - | - |" in format_identification(table)


def test_the_truth_is_saved_and_read_back(linear_world, tmp_path):
    truth = truth_of(linear_world, max_cells=30)
    assert truth.data.counts.tolist() == [30] * linear_world.data.num_conditions
    save_truth(tmp_path / "truth.npz", truth)
    again = load_truth(tmp_path / "truth.npz")
    assert again.data.conditions == truth.data.conditions
    for a, b in (
        (again.latents, truth.latents),
        (again.shift_matrix, truth.shift_matrix),
        (again.data.x, truth.data.x),
    ):
        np.testing.assert_array_equal(a, b)
    # latents and cells belong together
    x = np.asarray(linear_world.world.mixing(jnp.asarray(truth.latents, jnp.float32)))
    np.testing.assert_allclose(x, truth.data.x, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["truth.npz"]


@pytest.mark.slow
def test_the_linear_start_identifies_a_linear_world():
    # PCA finds the plane of a linear world, whitening its units, regression its shifts: up to the sampling of 2 x 200
    simulation = simulate(
        jax.random.key(1),
        latent_dim=2,
        observed_dim=4,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1", "p0+p2"],
        cells_per_condition=400,
        mixing="linear",
    )
    train, _ = pdae_jax.hold_out(simulation.data, ["p0+p2"])
    fitted = pdae_jax.fit(train, key=jax.random.key(0), latent_dim=2, hidden=(4,), stop_step=0)
    found = measure_identification(fitted, simulation)
    assert found.affine.unseen.residual < 0.05
    assert found.whitened.unseen.residual < 0.15
    assert found.orthogonal.unseen.residual < 0.15
    assert found.orthogonal.shifts.error < 0.15
    np.testing.assert_allclose(found.orthogonal.shifts.cosine, 1.0, atol=0.02)
