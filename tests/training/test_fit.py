"""The loop: recovery, resume bit for bit, save and load, guards; on worlds small enough for seconds."""

import dataclasses
import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import pdae_jax
from pdae_jax.compiled import RUNS_OFTEN, RUNS_ONCE, RUNS_SHORT, compiler_options
from pdae_jax.evaluation.baselines import predicted_means
from pdae_jax.losses import energy_distance
from pdae_jax.runs import folder
from pdae_jax.runs.track import read_metrics
from pdae_jax.training import folds
from pdae_jax.training.defaults import ON_SURFACE, WITH_NOISE, resolve_recipe
from pdae_jax.training.plan import Request, check_request, make_plan
from pdae_jax.training.prepare import prepare
from pdae_jax.training.step import is_small, make_train_steps
from pdae_jax.training.validate import Validator, null_variance
from pdae_jax.view.sampler import DeviceData

SMALL = {
    "num_steps": 60,
    "log_every": 10,
    "eval_every": 20,
    "checkpoint_every": 20,
    "hidden": (16,),
    "cells_per_source": 8,
    "cells_per_target": 8,
}
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def split():
    data = pdae_jax.simulate(
        jax.random.key(0),
        latent_dim=2,
        observed_dim=4,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1", "p1+p2", "p0+p2"],
        cells_per_condition=200,
    ).data
    train, test = pdae_jax.hold_out(data, ["p0+p2"])
    return (*pdae_jax.hold_out(train, ["p1+p2"]), test)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def prepared(train, recipe, validation=None, source=None, streams=1, ahead=False):
    request = Request(train, KEY, recipe, validation, source, streams=streams)
    return prepare(make_plan(check_request(request)), ahead=ahead)


@pytest.fixture(scope="module")
def finished(split, tmp_path_factory):
    train, validation, _ = split
    folder = tmp_path_factory.mktemp("runs") / "run"
    return pdae_jax.fit(train, key=KEY, validation=validation, workdir=folder, **SMALL)


def test_interrupted_fit_resumes_to_the_same_bits(split, finished, tmp_path):
    train, validation, _ = split

    class Interrupt:
        """A progress bar that breaks off the run at a step that is no checkpoint."""

        def update(self, step, num_steps, loss):
            if step == 50:
                raise KeyboardInterrupt

        def close(self):
            pass

    options = {"key": KEY, "validation": validation, "workdir": tmp_path / "run", **SMALL}
    with pytest.raises(KeyboardInterrupt):
        pdae_jax.fit(train, progress=Interrupt(), **options)
    resumed = pdae_jax.fit(train, **options)
    assert same(resumed.params, finished.params)
    timeless = [{k: v for k, v in e.items() if k != "steps_per_second"} for e in resumed.history]
    assert timeless == [{k: v for k, v in e.items() if k != "steps_per_second"} for e in finished.history]
    assert [e["step"] for e in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [10, 20, 30, 40, 50, 60]


def test_a_run_folder_loads_as_what_was_fitted(finished):
    loaded = pdae_jax.load_run(finished.workdir)
    assert same(loaded.params, finished.params)
    assert loaded.validation_errors == finished.validation_errors
    prediction = [pdae_jax.predict(f, "p0+p2", key=KEY, num_samples=50) for f in (finished, loaded)]
    np.testing.assert_array_equal(prediction[0].samples, prediction[1].samples)
    assert prediction[0].verdict == prediction[1].verdict


def test_a_run_folder_is_read_without_the_work_of_a_fit(finished, monkeypatch):
    for name in ("plan.with_defaults", "prepare.linear_start", "prepare.feed", "prepare.step_for"):
        monkeypatch.setattr(f"pdae_jax.training.{name}", lambda *_, **__: pytest.fail("nothing is fitted here"))
    loaded = pdae_jax.load_run(finished.workdir)
    assert same(loaded.params, finished.params) and loaded.validation_errors == finished.validation_errors


def test_the_folder_records_what_was_run(finished):
    config = json.loads((finished.workdir / "config.json").read_text())["identity"]
    assert config["recipe"]["num_steps"] == 60 and config["recipe"]["hidden"] == [16]
    assert json.loads((finished.workdir / "environment.json").read_text())["packages"]["jax"] == jax.__version__
    assert not list(finished.workdir.rglob("*.pkl"))


def test_another_run_does_not_touch_the_folder(split, finished):
    train, validation, _ = split
    before = {p: p.read_bytes() for p in finished.workdir.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"recipe.num_steps is 60 there, 80 here.*another workdir"):
        pdae_jax.fit(train, key=KEY, validation=validation, workdir=finished.workdir, **{**SMALL, "num_steps": 80})
    assert before == {p: p.read_bytes() for p in finished.workdir.rglob("*") if p.is_file()}


def test_errors_are_those_of_the_evaluation_that_is_kept(split, finished):
    values = [e["validation_energy_distance"] for e in finished.history if "validation_energy_distance" in e]
    assert len(values) == 3
    error = finished.validation_errors["p1+p2"]
    train, validation, _ = split
    noise = np.sqrt(null_variance(validation.cells("p1+p2"), len(train.cells("control"))))
    values = [error["start"], *values]
    good = [v for i, v in enumerate(values) if v <= max(min(values[: i + 1]), 0.0) + noise / 2 and v <= values[0]]
    np.testing.assert_allclose(error["pdae"], good[-1], rtol=1e-5)
    control = energy_distance(train.cells("control"), validation.cells("p1+p2"))
    np.testing.assert_allclose(error["control"], control, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.3, 0.2, 0.24], 2),
        ([0.3, 0.2, 0.26], 1),
        ([0.2, -0.3, 0.04], 2),
        ([0.01, -0.3, 0.06], 1),
        ([0.2, 0.3, 0.4], 0),
    ],
)
def test_the_latest_evaluation_that_is_as_good_but_for_chance_is_kept(split, monkeypatch, values, kept):
    seen = []

    def errors(params):
        seen.append(params)
        return jnp.array([[9.0, *values][len(seen) - 1]])  # the start before the first step

    monkeypatch.setattr(
        importlib.import_module("pdae_jax.training.prepare"),
        "make_validator",
        lambda *_, **__: Validator(errors, np.ones(1), ("p1+p2",), noise=0.1),
    )
    train, validation, _ = split
    fitted = pdae_jax.fit(train, key=KEY, validation=validation, **SMALL)
    jax.tree.map(np.testing.assert_array_equal, seen[1 + kept], fitted.params)


@pytest.mark.parametrize(("values", "kept"), [([0.24, 0.5, 0.5], 0), ([0.19, 0.22, 0.5], 1)])
def test_a_step_that_is_worse_than_the_start_within_the_noise_is_not_kept(split, monkeypatch, values, kept):
    """0.24 and 0.22 may be as good as the start's 0.2 but for chance, and yet nothing ends worse than it began."""
    seen = []

    def errors(params):
        seen.append(params)
        return jnp.array([[0.2, *values][len(seen) - 1]])

    monkeypatch.setattr(
        importlib.import_module("pdae_jax.training.prepare"),
        "make_validator",
        lambda *_, **__: Validator(errors, np.ones(1), ("p1+p2",), noise=0.1),
    )
    train, validation, _ = split
    fitted = pdae_jax.fit(train, key=KEY, validation=validation, **SMALL)
    jax.tree.map(np.testing.assert_array_equal, fitted.params, seen[kept])
    error = fitted.validation_errors["p1+p2"]
    assert error["pdae"] == pytest.approx([0.2, *values][kept]) and error["start"] == pytest.approx(0.2)


@pytest.mark.parametrize("step", [0, 40])
def test_a_validation_error_that_is_not_a_number_stops_the_run(split, monkeypatch, step):
    """Nothing is smaller than NaN: it would freeze the choice of what is kept for the rest of the run."""
    seen = []

    def errors(params):
        seen.append(params)
        return jnp.array([0.2, np.nan if 20 * (len(seen) - 1) == step else 0.1])

    monkeypatch.setattr(
        importlib.import_module("pdae_jax.training.prepare"),
        "make_validator",
        lambda *_, **__: Validator(errors, np.ones(2), ("p0+p1", "p1+p2"), noise=0.1),
    )
    train, validation, _ = split
    with pytest.raises(FloatingPointError, match=rf"At step {step} .*NaN or infinite: 'p1\+p2'\. Lower learning_rate"):
        pdae_jax.fit(train, key=KEY, validation=validation, **SMALL)


def test_noise_is_that_of_exact_predictions():
    """Against repeated pairs of samples of one law."""
    random = np.random.default_rng(0)

    def cells(number):
        return random.gamma(2.0, size=(number, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])

    simulated = np.std([energy_distance(cells(150), cells(80)) for _ in range(400)])
    estimated = np.sqrt([null_variance(cells(150), 80) for _ in range(20)])
    np.testing.assert_allclose(estimated.mean(), simulated, rtol=0.12)  # the standard error of `simulated` is 4 %
    assert null_variance(cells(3), 80) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("source", [{}, {"p2": "p0", "p0+p1": "p1"}])
def test_noise_of_the_mean_counts_what_conditions_share(source):
    """Against worlds where every condition is the control's law, shifted, and the same source cells are moved."""
    random, counts = np.random.default_rng(0), {"ctrl": 60, "p0": 50, "p1": 70, "p2": 60, "p0+p1": 40}
    conditions = list(counts)[1:]
    # 400 worlds of cells less their shifts, and as many samples of exact predictions' laws
    worlds, own = (
        {name: random.normal(size=(400, n, 2)).astype(np.float32) for name, n in counts.items()} for _ in range(2)
    )
    distances = jax.jit(jax.vmap(energy_distance))
    errors = [distances(worlds[source.get(name, "ctrl")], own[name]) for name in conditions]
    simulated = np.std(np.mean(errors, axis=0))
    x = np.concatenate([worlds[name][0] for name in counts])
    data = pdae_jax.from_arrays(x, conditions=np.repeat(list(counts), list(counts.values())), control="ctrl")
    same_cells = data.select(conditions)
    unseen = dataclasses.replace(same_cells, labels=2 * same_cells.labels)
    parts = prepared(data, pdae_jax.Recipe(latent_dim=1, hidden=(4,)), unseen, source)
    assert parts.frame.validator is not None
    np.testing.assert_allclose(parts.frame.validator.noise, simulated, rtol=0.15)


def test_patience_stops_early(split):
    train, validation, _ = split
    options = {**SMALL, "num_steps": 400, "learning_rate": 0.3, "clip_norm": 100.0, "patience": 2}
    fitted = pdae_jax.fit(train, key=KEY, validation=validation, **options)
    assert fitted.history[-1]["step"] < 400


@pytest.mark.parametrize(("noise", "found"), [("none", ON_SURFACE), ("gaussian", WITH_NOISE), ("counts", WITH_NOISE)])
def test_defaults_follow_from_whether_cells_lie_on_a_surface(noise, found):
    world = {"latent_dim": 2, "observed_dim": 10, "noise": noise, "noise_scale": 0.5}
    data = pdae_jax.simulate(jax.random.key(1), cells_per_condition=100, **world).data
    recipe = resolve_recipe(pdae_jax.Recipe(latent_dim=2), data)
    assert {name: getattr(recipe, name) for name in found} == found
    assert recipe.nonnegative == (noise == "counts") and recipe.standardize == ("global", "feature")[noise != "counts"]
    # what is asked for stays
    asked = pdae_jax.Recipe(latent_dim=2, likelihood=0.1, contrast=0.2, num_steps=9000, standardize="none")
    resolved = resolve_recipe(asked, data)
    assert [resolved.likelihood, resolved.contrast, resolved.num_steps, resolved.standardize] == [
        0.1,
        0.2,
        9000,
        "none",
    ]
    assert resolve_recipe(resolved, data) == resolved


def test_the_start_is_kept_where_training_does_harm(split):
    train, validation, _ = split
    options = {**SMALL, "learning_rate": 3.0, "clip_norm": 100.0}
    fitted = pdae_jax.fit(train, key=KEY, validation=validation, **options)
    error = fitted.validation_errors["p1+p2"]
    assert error["pdae"] == error["start"]
    assert min(e["validation_energy_distance"] for e in fitted.history[1::2]) > error["start"]  # else nothing was tried
    start = pdae_jax.fit(train, key=KEY, validation=validation, **{**options, "stop_step": 0})
    assert same(fitted.params, start.params)


@pytest.mark.parametrize("rate", [1e-3, 0.3])
@pytest.mark.slow
def test_a_fit_never_ends_worse_than_it_began(many_pairs, rate):
    """Mean over validation conditions: one of several may get worse."""
    train, validation = pdae_jax.hold_out(many_pairs, ["p0+p1", "p2+p4", "p1+p3"])
    errors = pdae_jax.fit(train, key=KEY, validation=validation, **SMALL, learning_rate=rate).validation_errors.values()
    assert np.mean([e["pdae"] for e in errors]) <= np.mean([e["start"] for e in errors])
    assert all(set(e) == {"pdae", "start", "control"} for e in errors)


@pytest.mark.parametrize("validated", [False, True])
def test_a_start_is_a_run_like_others(split, tmp_path, validated):
    train, validation, _ = split
    options = {**SMALL, "stop_step": 0, "validation": validation if validated else None}
    start = pdae_jax.fit(train, key=KEY, workdir=tmp_path / "run", **options)
    assert start.history == []
    loaded = pdae_jax.load_run(tmp_path / "run")
    assert same(loaded.params, start.params) and loaded.validation_errors == start.validation_errors
    assert all(e["pdae"] == e["start"] for e in start.validation_errors.values()) and loaded.recipe.stop_step == 0


@pytest.mark.slow
def test_the_start_predicts_as_the_baseline_ridge_does(many_pairs):
    train, test = pdae_jax.hold_out(many_pairs, ["p0+p1", "p2+p4"])
    options = {"observed_effects": True, "standardize": "none", "nonnegative": False, "latent_dim": 2}
    start = pdae_jax.fit(train, key=KEY, **{**SMALL, **options, "stop_step": 0})
    means, x = predicted_means(train), jnp.asarray(train.cells("p0"))
    for label in test.labels:
        moved = start.model.translate(start.params, KEY, x, train.label("p0"), label)
        expected = means.predict(label) - means.predict(train.label("p0"))
        np.testing.assert_allclose(np.mean(moved - x, axis=0), expected, atol=0.02 * np.linalg.norm(expected))


@pytest.mark.parametrize("options", [RUNS_ONCE, RUNS_OFTEN, RUNS_SHORT])
def test_the_compiler_knows_its_options(options, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # that of tests sets the level itself
    level = "xla_backend_optimization_level"
    assert compiler_options(options)[level] == options[level]
    # later versions of XLA have one fusion only
    assert set(compiler_options(options)) in ({level}, set(options))
    assert jax.jit(lambda x: 2 * x, compiler_options=compiler_options(options))(3.0) == 6.0
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2 --xla_cpu_use_fusion_emitters=true")
    assert compiler_options(options) == {}
    assert compiler_options({"xla_no_such_option": 1}) == {}


@pytest.fixture(scope="module")
def many_pairs():
    return with_all_pairs(noise="gaussian", noise_scale=0.5)


def with_all_pairs(**world):
    names = [f"p{i}" for i in range(5)]
    pairs = [f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    world = {"latent_dim": 2, "observed_dim": 4, "num_perturbations": 5, "cells_per_condition": 60, **world}
    return pdae_jax.simulate(jax.random.key(2), labels=[*names, *pairs], **world).data


@pytest.mark.slow
def test_without_validation_left_out_combinations_choose_the_last_step(many_pairs, tmp_path):
    found = folds.folds_of(make_plan(check_request(Request(many_pairs, KEY, pdae_jax.Recipe()))))
    pairs = [name for name in many_pairs.conditions if "+" in name]
    assert [len(fold) for fold in found] == [2] * 5 and sorted(name for fold in found for name in fold) == sorted(pairs)
    fitted = pdae_jax.fit(many_pairs, key=KEY, workdir=tmp_path / "run", **SMALL)
    assert fitted.recipe.stop_step in (0, 20, 40, 60) and fitted.validation_errors == {}
    again = pdae_jax.fit(many_pairs, key=KEY, workdir=tmp_path / "run", **SMALL)
    assert again.recipe == fitted.recipe and same(again.params, fitted.params)
    assert same(pdae_jax.load_run(tmp_path / "run").params, fitted.params)


@pytest.mark.slow
def test_a_fit_that_chose_its_last_step_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """The choice is made once, and read from the folder by the run that goes on."""
    data, options = with_all_pairs(), {**SMALL, "learning_rate": 1e-2, "latent_dim": 2}
    monkeypatch.setattr(folds, "_ENOUGH", 4)  # two folds do
    whole = pdae_jax.fit(data, key=KEY, **options)
    # a world where training helps, or nothing would be interrupted
    assert isinstance(whole.recipe.stop_step, int) and whole.recipe.stop_step > 20
    save = folder.Checkpoints.save

    def interrupted_in(part):
        def interrupt(self, step, state):
            save(self, step, state)
            own = str(pathlib.Path(self._manager.directory).relative_to(tmp_path / "run"))
            saved.append((own, step))
            if (own, step) == (part, 20):
                raise KeyboardInterrupt

        saved = []
        with monkeypatch.context() as patch:
            patch.setattr(folder.Checkpoints, "save", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pdae_jax.fit(data, key=KEY, workdir=tmp_path / "run", **options)
        return saved

    first, second = interrupted_in("choice/1/checkpoints"), interrupted_in("checkpoints")
    assert first[-1] == ("choice/1/checkpoints", 20) and second[0] == ("choice/1/checkpoints", 40)
    assert not (tmp_path / "run" / "choice").exists()
    monkeypatch.setattr(folds, "folds_of", lambda *_: pytest.fail("the last step was chosen again"))
    resumed = pdae_jax.fit(data, key=KEY, workdir=tmp_path / "run", **options)
    assert resumed.recipe == whole.recipe and same(resumed.params, whole.params)


def test_the_last_step_is_the_best_over_all_folds():
    one, two = {0: 1.0, 20: 0.5, 40: 0.9}, {0: 0.4, 20: 0.8, 40: 0.2}
    assert folds.best_step([one]) == 20 and folds.best_step([two]) == 40
    assert folds.best_step([one, two]) == 40  # 1.4, 1.3, 1.1
    assert folds.best_step([one, {0: 0.4, 20: 0.8}]) == 20  # 1.4, 1.3, and 1.7 of one that ended
    assert folds.best_step([{0: 0.1, 20: 0.1}] * 2) == 0  # no better than the start


def test_only_combinations_that_the_rest_determines_are_left_out(split, many_pairs):
    assert folds.folds_to_leave_out(split[0], KEY) == []  # too few
    # without the singles, six pairs of four perturbations determine each other, and not when many are gone
    names = [c for c in many_pairs.conditions if "+" in c and "p4" not in c]
    few = many_pairs.select(["control", *names])
    for seed in range(5):
        for left_out in folds.folds_to_leave_out(few, jax.random.key(seed)):
            kept = few.select([c for c in few.conditions if c not in left_out])
            assert all(pdae_jax.check_guarantee(kept, name).identified for name in left_out)


@pytest.mark.parametrize(
    ("cells", "options", "steps"),
    [
        (5000, {}, 4000),
        (240, {}, 700),  # 50 passes over 1,200 cells, 80 of them a step: 750, in chunks of 100
        (240, {"cells_per_source": 32}, 300),  # 375
        (240, {"num_sources": 2}, 1800),  # 1,875
        (240, {"log_every": 500, "eval_every": 500}, 500),
        ([30_000, 100, 100, 100, 100], {}, 300),  # every condition is drawn equally often: 312
        (5000, {"log_every": 150, "eval_every": 150, "checkpoint_every": 150}, 4000),
        (10, {}, 300),
        (10, {"log_every": 500, "eval_every": 500}, 500),
    ],
)
def test_few_cells_are_passed_over_fifty_times(cells, options, steps):
    condition = np.repeat(["ctrl", "A", "B", "C", "D"], cells)
    data = pdae_jax.from_arrays(np.arange(2.0 * len(condition)).reshape(-1, 2), conditions=condition, control="ctrl")
    recipe = pdae_jax.Recipe(latent_dim=1, **options)
    assert resolve_recipe(recipe, data).num_steps == steps


@pytest.mark.slow
def test_steps_that_are_found_are_kept_with_the_run(split, tmp_path):
    train, validation, _ = split
    options = {"key": KEY, "validation": validation, "hidden": (8,), "cells_per_source": 32}
    fitted = pdae_jax.fit(train, workdir=tmp_path / "run", **options)
    assert [fitted.recipe.num_steps, fitted.history[-1]["step"]] == [300, 300]  # 312 for 200 cells a condition
    again, loaded = pdae_jax.fit(train, workdir=tmp_path / "run", **options), pdae_jax.load_run(tmp_path / "run")
    assert loaded.recipe == again.recipe == fitted.recipe
    assert same(loaded.params, fitted.params) and same(again.params, fitted.params)


@pytest.mark.slow
def test_the_likelihood_does_not_make_the_encoder_steep_without_end():
    """In this world the term without its weights for cells ruins the fit: a tenth of the control's distance is left."""
    key_world, key_fit, key = jax.random.split(jax.random.key(519), 3)
    singles, triples = ["p0", "p1", "p2", "p3"], ["p0+p1+p2", "p1+p2+p3", "p0+p2+p3", "p0+p1+p3"]
    world = {"latent_dim": 3, "observed_dim": 6, "num_perturbations": 4, "cells_per_condition": 1000}
    simulation = pdae_jax.simulate(key_world, labels=[*singles, *triples, "p0+p3"], **world, shift_scale=1.75)
    train, test = pdae_jax.hold_out(simulation.data, ["p0+p3"])
    fitted = pdae_jax.fit(train, key=key_fit, latent_dim=3, num_steps=800)
    assert fitted.recipe.likelihood == 0.3
    predicted = pdae_jax.predict(fitted, "p0+p3", key=key).samples
    assert energy_distance(predicted, test.x) < 0.01 * energy_distance(train.cells("control"), test.x)
    assert fitted.history[-1]["reconstruction"] < 0.2


@pytest.mark.slow
def test_linear_gaussian_world_is_recovered():
    """All is known in closed form: the shift in observations, and that combinations are reached exactly."""
    simulation = pdae_jax.simulate(
        jax.random.key(3),
        latent_dim=2,
        observed_dim=3,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1"],
        cells_per_condition=2000,
        mixing="linear",
    )
    world = simulation.world
    fitted = pdae_jax.fit(simulation.data, key=KEY, num_steps=1000, latent_dim=2, hidden=(32,))
    label = {"p0": 1.0, "p2": 1.0}  # far from the control in this world; p1 and p2 nearly cancel
    predicted = pdae_jax.predict(fitted, label, key=KEY).samples
    true = np.asarray(world.sample(jax.random.key(9), label, 2000))
    control = simulation.data.cells("control")
    assert energy_distance(predicted, true) < 0.01 * energy_distance(control, true)
    shift = fitted.shift_matrix
    # up to an orthogonal map of the latents, after the base latents are scaled to unit variance
    base = np.cov(fitted.encode(control).T)
    gram = shift @ np.linalg.solve(base, shift.T)
    np.testing.assert_allclose(gram, world.shift_matrix @ world.shift_matrix.T, atol=0.25)


def test_steps_compile_once(split):
    train, _, _ = split
    parts = prepared(train, pdae_jax.Recipe().override(**SMALL))
    traces = []

    def counted(state, data: DeviceData):
        traces.append(1)
        return parts.step(state, data)

    steps = make_train_steps(counted, 5)
    state = parts.state.train
    for _ in range(3):
        state, _ = steps(state, parts.data)
    assert int(state.step) == 15
    assert steps._cache_size() == 1 and len(traces) <= 2  # scan may trace its body twice, once per compilation


def test_fits_that_differ_in_rates_share_one_compiled_step_and_train_at_their_own(split):
    train, _, _ = split
    recipe = pdae_jax.Recipe().override(**{**SMALL, "reconstruction": 0.5})
    first, second = (
        prepared(train, recipe.override(**changes))
        for changes in ({}, {"learning_rate": 1e-5, "average_decay": 0.5, "reconstruction": 0.25})
    )
    assert first.step is second.step
    steps, moved = make_train_steps(first.step, 3), []
    for parts in (first, second):
        start = np.asarray(parts.state.train.params)
        state, _ = steps(parts.state.train, parts.data)
        moved.append(np.abs(np.asarray(state.params) - start).max())
    assert steps._cache_size() == 1
    assert moved[0] > 10 * moved[1] > 0


def test_state_is_the_vector_of_the_parameters(split):
    train, _, _ = split
    parts = prepared(train, pdae_jax.Recipe().override(**SMALL), streams=2)
    params = parts.frame.unravel(parts.state.train.params)
    np.testing.assert_array_equal(ravel_pytree(params)[0], parts.state.train.params)
    start = pdae_jax.fit(train, key=KEY, **{**SMALL, "stop_step": 0})
    assert same(params, start.params)


@pytest.mark.slow
def test_steps_compiled_beside_the_start_are_those_that_run(split, caplog):
    train, _, _ = split
    recipe = pdae_jax.Recipe().override(**SMALL)
    plain = prepared(train, recipe)

    def compiled(parts) -> bool:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            small = is_small(parts.plan.recipe, parts.frame.model)
            state, _ = make_train_steps(parts.step, 7, small)(parts.state.train, parts.data)
        assert int(state.step) == 7
        return "Finished XLA compilation of jit(steps)" in caplog.text

    parts = prepared(train, recipe.override(form="pooled", log_every=7, eval_every=7, checkpoint_every=7), ahead=True)
    np.testing.assert_array_equal(plain.state.train.params, parts.state.train.params)
    assert not compiled(parts)
    assert compiled(plain)  # so the log would have told


@pytest.mark.slow
def test_a_fit_runs_in_double_precision_where_its_caller_asks_for_it(split):
    # part of it is compiled in another thread, which contexts of the caller do not reach
    train, _, _ = split
    with jax.enable_x64(True):
        fitted = pdae_jax.fit(train, key=jax.random.key(1), **SMALL)
    assert {leaf.dtype for leaf in jax.tree.leaves(fitted.params)} == {np.dtype(np.float64)}


def test_non_finite_loss_stops_the_run_and_names_the_steps(split):
    train, _, _ = split
    with pytest.raises(FloatingPointError, match=r"Between steps \d+ and \d+.*learning_rate"):
        pdae_jax.fit(train, key=KEY, learning_rate=float("inf"), **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["gaussian", "laplace", "imq"])
def test_other_kernels_train(split, kernel):
    train, _, _ = split
    options = {**SMALL, "num_steps": 10, "eval_every": 10, "checkpoint_every": 10}
    fitted = pdae_jax.fit(train, key=KEY, kernel=kernel, **options)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(fitted.params))


@pytest.mark.slow
def test_of_few_cells_the_start_is_kept_where_nothing_validates():
    data = pdae_jax.simulate(
        jax.random.key(1), num_perturbations=4, observed_dim=20, cells_per_condition=8, noise="gaussian"
    ).data
    train = data.select([name for name in data.conditions if "+" not in name])
    fitted = pdae_jax.fit(train, key=KEY, progress=False)
    assert fitted.recipe.stop_step == 0 and fitted.history == []
    asked = pdae_jax.fit(train, key=KEY, progress=False, **{**SMALL, "num_steps": 20})
    assert asked.history[-1]["step"] == 20
