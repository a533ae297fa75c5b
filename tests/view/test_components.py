"""Models of scores: a cell keeps what its scores leave, and predictions, files and ensembles have the features."""

import dataclasses

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax import losses, simulate
from pdae_jax.evaluation.diagnostics import residuals
from pdae_jax.view.components import find_components

RECIPE = {"num_steps": 60, "log_every": 20, "eval_every": 20, "checkpoint_every": 20, "hidden": (16,), "latent_dim": 2}


@pytest.fixture(scope="module")
def wide():
    """Counts of 30 genes."""
    return simulate(
        jax.random.key(0),
        latent_dim=2,
        observed_dim=30,
        num_perturbations=3,
        cells_per_condition=150,
        noise="counts",
        shift_scale=6.0,
    ).data


def test_components_are_orthonormal_and_see_the_means_of_conditions(wide):
    found = find_components(wide, 12)
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(12), atol=1e-5)
    means = np.stack([wide.cells(c).mean(axis=0) for c in wide.conditions])
    effects = means - means[wide.index("control")]
    np.testing.assert_allclose(effects @ found.loadings @ found.loadings.T, effects, atol=1e-4)
    x = wide.cells("p0")
    np.testing.assert_array_equal(found.moved(x, found.scores(x), found.scores(x)), x)
    # all of them are a rotation: nothing is left
    every = find_components(wide, 30)
    np.testing.assert_allclose(every.mean + every.scores(x) @ every.loadings.T, x, atol=1e-4)
    with pytest.raises(ValueError, match="components=31, and there are 30 features"):
        find_components(wide, 31)


@pytest.mark.slow
def test_a_fit_on_scores_predicts_features_and_is_read_back(wide, tmp_path):
    train, test = pdae_jax.hold_out(wide, ["p0+p1"])
    fitted = pdae_jax.fit(train, key=jax.random.key(1), validation=test, components=8, workdir=tmp_path, **RECIPE)
    assert fitted.model.num_features == 8
    x, zero, label = train.cells("control"), np.zeros(3, np.float32), train.label("p0+p1")
    moved = fitted.translate(jax.random.key(2), x, zero, label)
    assert moved.min() == 0.0
    uncut = dataclasses.replace(fitted, view=fitted.view._replace(floor=None))
    moved = uncut.translate(jax.random.key(2), x, zero, label)
    left = np.eye(30) - fitted.view.components.loadings @ fitted.view.components.loadings.T
    np.testing.assert_allclose(moved @ left, x @ left, atol=1e-4)  # what the scores leave is the cell's own
    assert np.abs(moved - x).max() > 0.5
    prediction = pdae_jax.predict(fitted, "p0+p1", key=jax.random.key(3))
    assert prediction.samples.min() == 0.0
    counts = np.expm1(prediction.samples)  # of size factors 1: whole numbers
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    again = pdae_jax.load_run(tmp_path)
    np.testing.assert_array_equal(pdae_jax.predict(again, "p0+p1", key=jax.random.key(3)).samples, prediction.samples)
    table = pdae_jax.evaluate(again, test, metrics=["energy_distance"], progress=False)
    values = table.set_index("method")["value"]
    assert values["pdae"] < 0.5 * values["control"]


@pytest.mark.slow
def test_scores_start_where_features_do_and_stay_near_them(wide):
    """Of eight components that hold the effects; training gains most of what it gains with all features."""
    train, test = pdae_jax.hold_out(wide, ["p0+p1", "p1+p2"])

    def error(steps, components):
        fitted = pdae_jax.fit(
            train, key=jax.random.key(1), components=components, num_steps=max(steps, 100), stop_step=steps
        )
        predicted = [pdae_jax.predict(fitted, name, key=jax.random.key(2)).samples for name in test.conditions]
        pairs = zip(predicted, map(test.cells, test.conditions), strict=True)
        return np.mean([float(losses.energy_distance(*pair)) for pair in pairs])

    control = np.mean([float(losses.energy_distance(train.cells("control"), test.cells(n))) for n in test.conditions])
    start, start_of_scores = error(0, None), error(0, 8)
    assert abs(start_of_scores - start) < 0.02 * control
    trained, trained_of_scores = error(300, None), error(300, 8)
    assert trained < start - 0.15 * control and trained_of_scores < start - 0.1 * control
    assert trained_of_scores < trained + 0.1 * control


@pytest.mark.slow
def test_an_ensemble_and_a_fit_without_validation_work_on_scores(wide, tmp_path):
    train, _ = pdae_jax.hold_out(wide, ["p0+p1"])
    ensemble = pdae_jax.fit_ensemble(
        train, key=jax.random.key(1), num_replicas=2, components=8, workdir=tmp_path, **RECIPE
    )
    prediction = pdae_jax.predict(ensemble, "p0+p1", key=jax.random.key(3))
    assert prediction.samples.shape[1] == 30
    again = pdae_jax.load_ensemble(tmp_path)
    np.testing.assert_array_equal(pdae_jax.predict(again, "p0+p1", key=jax.random.key(3)).samples, prediction.samples)
    assert np.isfinite(residuals(ensemble.members[0], "p0")).all()


@pytest.mark.slow
def test_errors_on_validation_conditions_are_those_of_features():
    """Six perturbations move features of their own, and four components do not see all of them."""
    random = np.random.default_rng(0)
    shift = {name: np.zeros(30) for name in "ABCDEF"}
    for number, name in enumerate(shift):
        shift[name][5 * number : 5 * number + 3] = 0.5 + number / 2
    names = ["control", *shift, "A+E", "A+F", "B+F"]
    x = np.concatenate([random.normal(sum(shift.get(p, 0) for p in n.split("+")), 1.0, (300, 30)) for n in names])
    data = pdae_jax.from_arrays(x, conditions=np.repeat(names, 300), control="control")
    train, validation = pdae_jax.hold_out(data, ["A+E", "A+F", "B+F"])
    fitted = pdae_jax.fit(
        train, key=jax.random.key(0), validation=validation, components=4, **{**RECIPE, "stop_step": 0}
    )
    for name in validation.conditions:
        predicted = pdae_jax.predict(fitted, name, key=jax.random.key(1)).samples
        true = validation.cells(name)
        found, control = (float(losses.energy_distance(cells, true)) for cells in (predicted, train.cells("control")))
        assert fitted.validation_errors[name]["pdae"] == pytest.approx(found, rel=0.02, abs=1e-3)
        assert fitted.validation_errors[name]["control"] == pytest.approx(control, rel=0.02, abs=1e-3)
    assert fitted.validation_errors["A+E"]["pdae"] > 0.02  # A is outside of what the components see


@pytest.mark.slow
def test_components_of_another_run_do_not_hide_why_it_is_refused(wide, tmp_path):
    train, _ = pdae_jax.hold_out(wide, ["p0+p1"])
    options = {"key": jax.random.key(1), "components": 4, "workdir": tmp_path, **RECIPE, "stop_step": 0}
    pdae_jax.fit(train, **options)
    narrow = dataclasses.replace(train, x=train.x[:, :20], features=train.features[:20])
    with pytest.raises(ValueError, match="holds another run"):
        pdae_jax.fit(narrow, **options)
