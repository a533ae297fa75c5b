"""Populations: every member is the fit it stands for, whatever shares its program, its places and its folder."""

import jax
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

import pdae_jax
from experiments import reproduce
from pdae_jax.runs.track import SilentProgress
from pdae_jax.training import folds, places, population
from pdae_jax.training import train as train_module
from pdae_jax.training.plan import Request

pytestmark = pytest.mark.slow  # they train

KEY = jax.random.key(5)
SMALL = {
    "latent_dim": 2,
    "num_steps": 20,
    "log_every": 5,
    "eval_every": 5,
    "checkpoint_every": 10,
    "hidden": (8,),
    "cells_per_source": 8,
    "cells_per_target": 8,
    "noise": "abducted",
}
VALUES = (
    {},
    {"learning_rate": 3e-3, "average_decay": 0.9},
    {"reconstruction": 0.2, "clip_norm": 0.1, "num_steps": 10},
    {"kernel": "gaussian", "bandwidths": (0.5, 2.0)},
    {"kernel": "gaussian", "bandwidths": (1.0, 3.0)},
    {"latent_dim": 1, "contrast": 0.0, "beta": 1.5, "warmup_steps": 1},
    {"patience": 1, "learning_rate": 0.02},
)


@pytest.fixture(scope="module")
def data():
    return pdae_jax.simulate(
        jax.random.key(0),
        latent_dim=2,
        observed_dim=3,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1", "p0+p2", "p1+p2", "p0:2+p1", "p0+p1+p2"],
        cells_per_condition=80,
        mixing="network",
        shift_scale=2.0,
    ).data


@pytest.fixture(scope="module")
def split(data):
    return pdae_jax.hold_out(data, ["p0+p1", "p1+p2"])


def is_close(member, fitted):
    """To rounding: Adam makes a step of full size of a gradient that is nothing but rounding error."""
    left, right = (ravel_pytree(each.params)[0] for each in (member, fitted))
    assert np.linalg.norm(left - right) < 2e-3 * np.linalg.norm(right)
    assert member.recipe == fitted.recipe
    assert [entry["step"] for entry in member.history] == [entry["step"] for entry in fitted.history]
    for own, other in zip(member.history, fitted.history, strict=True):
        names = [name for name in own if name != "steps_per_second"]
        np.testing.assert_allclose([own[n] for n in names], [other[n] for n in names], rtol=5e-3, atol=1e-3)
    assert member.validation_errors.keys() == fitted.validation_errors.keys()
    for name, errors in member.validation_errors.items():
        np.testing.assert_allclose([*errors.values()], [*fitted.validation_errors[name].values()], atol=2e-3)


@pytest.fixture(scope="module")
def singles(split):
    train, validation = split
    return [pdae_jax.fit(train, key=KEY, validation=validation, **{**SMALL, **setting}) for setting in VALUES]


def test_every_member_is_the_fit_of_its_setting(split, singles):
    train, validation = split
    found = pdae_jax.fit_population(train, VALUES, key=KEY, validation=validation, at_once=2, **SMALL)
    for fitted, member in zip(singles, found.members, strict=True):
        is_close(member, fitted)
        row = found.table.iloc[found.members.index(member)]
        errors = fitted.validation_errors.values()
        assert row.validation_energy_distance == pytest.approx(np.mean([e["pdae"] for e in errors]), abs=2e-3)
        assert row.steps == fitted.history[-1]["step"] and 0 <= row.kept_step <= row.steps
    share = found.table.validation_share
    errors = found.members[0].validation_errors.values()
    assert share[0] == pytest.approx(sum(e["pdae"] for e in errors) / sum(e["control"] for e in errors))
    assert found.best is found.members[int(share.idxmin())]


def test_replicas_have_keys_of_their_own(split):
    train, validation = split
    settings = [{"learning_rate": 1e-3}, {"learning_rate": 1e-2}]
    found = pdae_jax.fit_population(train, settings, key=KEY, validation=validation, num_replicas=2, at_once=2, **SMALL)
    assert found.table.replica.tolist() == [0, 1, 0, 1]
    keys = [KEY, jax.random.fold_in(KEY, 1)] * 2
    for key, setting, member in zip(keys, np.repeat(settings, 2), found.members, strict=True):
        is_close(member, pdae_jax.fit(train, key=key, validation=validation, **{**SMALL, **setting}))


def test_a_last_chunk_that_is_shorter_does_not_move_the_others(split):
    train, validation = split
    settings = [{"learning_rate": rate} for rate in (1e-3, float("inf"), 3e-3)]
    options = {**SMALL, "num_steps": 18}
    found = pdae_jax.fit_population(train, settings, key=KEY, validation=validation, at_once=2, **options)
    assert found.members[1] is None
    for row in (0, 2):
        is_close(found.members[row], pdae_jax.fit(train, key=KEY, validation=validation, **options, **settings[row]))


def test_left_out_conditions_are_an_axis(data):
    folds = [["p0+p1"], ["p1+p2"]]
    data = data.take(np.delete(np.arange(data.num_cells), data.rows[data.index("p0+p1")][:30]))  # of other sizes
    found = pdae_jax.fit_population(data, [{"leave_out": fold} for fold in folds], key=KEY, at_once=2, **SMALL)
    for fold, member in zip(folds, found.members, strict=True):
        train, validation = pdae_jax.hold_out(data, fold)
        assert list(member.validation_errors) == fold
        is_close(member, pdae_jax.fit(train, key=KEY, validation=validation, **SMALL))


def test_the_last_step_is_chosen_for_each_member(data, monkeypatch):
    monkeypatch.setattr(folds, "_ENOUGH", 2)  # two folds do
    settings = [{"learning_rate": 1e-3}, {"learning_rate": 0.01}]
    found = pdae_jax.fit_population(data, settings, key=KEY, at_once=2, **SMALL)
    for setting, member in zip(settings, found.members, strict=True):
        fitted = pdae_jax.fit(data, key=KEY, **SMALL, **setting)
        assert member.recipe.stop_step == fitted.recipe.stop_step is not None
        is_close(member, fitted)


def test_bootstrapped_members_draw_cells_of_their_own(split):
    train, validation = split
    settings = [{"bootstrap": True}, {"bootstrap": False}]
    options = {"key": KEY, "validation": validation, **SMALL}
    found = pdae_jax.fit_population(train, settings, num_replicas=2, at_once=2, **options)
    is_close(found.members[2], pdae_jax.fit(train, **options))
    ensemble = pdae_jax.fit_ensemble(train, num_replicas=2, bootstrap=True, **options)
    is_close(found.members[1], ensemble.replicas[1])  # of one key
    distances = [np.abs(a.shift_matrix - b.shift_matrix).max() for a, b in zip(found.members, found.members[2:])]  # noqa: B905
    assert min(distances) > 1e-3


def test_a_bootstrapped_member_is_reproduced_from_its_folder(split, tmp_path):
    train, validation = split
    options = {"key": KEY, **SMALL}
    pdae_jax.fit_population(train, [{"bootstrap": True}], validation=validation, workdir=tmp_path / "all", **options)
    assert reproduce.reproduce(tmp_path / "all" / "000", tmp_path / "again")
    pdae_jax.fit(train, workdir=tmp_path / "unjudged", **{**options, "stop_step": 0})
    assert reproduce.reproduce(tmp_path / "unjudged", tmp_path / "unjudged again")


def test_runs_of_one_data_set_take_the_room_of_one(split, tmp_path):
    train, validation = split
    options = {"key": KEY, "validation": validation, "workdir": tmp_path, **SMALL, "stop_step": 0}
    pdae_jax.fit_population(train, [{}, {"learning_rate": 1e-3}], **options)
    files = [tmp_path / name / "data" / "train.npz" for name in ("000", "001")]
    assert files[0].samefile(files[1])
    files[0].unlink()  # a folder may go, and the others stay whole
    np.testing.assert_array_equal(pdae_jax.load_run(tmp_path / "001").train.x, train.x)
    files[0].write_bytes(b"of another data set")
    pdae_jax.fit(train, **options | {"workdir": tmp_path / "other"})
    np.testing.assert_array_equal(pdae_jax.load_run(tmp_path / "other").train.x, train.x)


def test_a_member_that_fails_is_recorded_and_the_others_go_on(split):
    train, validation = split
    settings = [{}, {"learning_rate": float("inf")}, {"learning_rate": 1e-3}]
    found = pdae_jax.fit_population(train, settings, key=KEY, validation=validation, at_once=2, **SMALL)
    assert found.members[1] is None and "Lower learning_rate" in found.table.error[1]
    assert found.table.error[0] == found.table.error[2] == ""
    is_close(found.members[2], pdae_jax.fit(train, key=KEY, validation=validation, **{**SMALL, **settings[2]}))
    with pytest.raises(FloatingPointError, match=r"Every member failed.*learning_rate"):
        pdae_jax.fit_population(train, settings[1:2], key=KEY, validation=validation, **SMALL)


def test_half_of_the_places_do_for_half_of_the_members(split, monkeypatch):
    train, validation = split
    settings = [{"num_steps": steps} for steps in (5, 10, 20)]
    seen = []
    monkeypatch.setattr(places.Places, "_saves_time", lambda self, share: True)
    step_of_chunk = places.Places.advance
    monkeypatch.setattr(places.Places, "advance", lambda self: (seen.append(self._places), step_of_chunk(self))[1])
    found = pdae_jax.fit_population(train, settings, key=KEY, validation=validation, at_once=3, **SMALL)
    assert seen == [3, 3, 1, 1]
    for setting, member in zip(settings, found.members, strict=True):
        is_close(member, pdae_jax.fit(train, key=KEY, validation=validation, **{**SMALL, **setting}))


def test_members_that_wait_are_not_prepared(split, monkeypatch):
    train, validation = split
    monkeypatch.setattr(train_module, "MOST_OPEN", 2)
    settings = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    bars = []
    monkeypatch.setattr(train_module, "make_progress", lambda show, name: bars.append(name) or SilentProgress())
    found = pdae_jax.fit_population(train, settings, key=KEY, validation=validation, **SMALL)
    assert bars == ["population 1/2", "population 2/2"]
    assert found.table["learning_rate"].tolist() == [1e-3, 3e-3, 1e-2]
    is_close(found.members[2], pdae_jax.fit(train, key=KEY, validation=validation, **{**SMALL, **settings[2]}))


def test_a_program_that_breaks_down_does_not_end_the_others(split, monkeypatch):
    train, validation = split
    real = places.train_in_places

    def full(members, *rest):
        if members[0].program.plan.recipe.latent_dim == 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        real(members, *rest)

    monkeypatch.setattr(train_module, "train_in_places", full)
    recipes = [pdae_jax.Recipe(**{**SMALL, "latent_dim": latent_dim}) for latent_dim in (1, 2)]
    asked = [Request(train, KEY, recipe, validation) for recipe in recipes]
    small, good = train_module.train_requests(asked, tolerant=True)
    assert small.error == "RuntimeError: RESOURCE_EXHAUSTED: Out of memory" and good.fitted is not None
    with pytest.raises(RuntimeError, match="Out of memory"):
        train_module.train_requests(asked)


def test_settings_are_cross_validated():
    rows = [("a", 0.1, 0.2), ("b", 0.1, 0.6), ("a", 0.2, 0.3), ("b", 0.2, 0.4), ("a", 0.3, 0.1), ("b", 0.3, np.nan)]
    table = pd.DataFrame({"validation_share": [share for _, _, share in rows]})
    settings = tuple({"leave_out": name, "learning_rate": rate} for name, rate, _ in rows)
    found = population.Population(table, (None,) * 6, settings)
    assert found.best_setting == {"learning_rate": 0.2}  # of mean 0.35; 0.4 that of 0.1, and 0.3 has failed once
    with pytest.raises(ValueError, match="validated on different conditions"):
        _ = found.best
    with pytest.raises(ValueError, match="No member has validation"):
        _ = found._replace(table=table.assign(validation_share=np.nan)).best_setting


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at_once", [1, 2])
def test_members_have_folders_and_go_on_where_they_were_broken_off(split, tmp_path, at_once, monkeypatch):
    train, validation = split
    settings = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
    options = {"key": KEY, "validation": validation, "at_once": at_once, **SMALL}
    whole = pdae_jax.fit_population(train, settings, **options)

    class Kills:
        updates = 0

        def update(self, step, num_steps, loss):
            self.updates += 1
            if self.updates == 5:
                raise Killed

        def close(self):
            pass

    with pytest.raises(Killed):
        pdae_jax.fit_population(train, settings, **options, workdir=tmp_path, progress=Kills())
    resumed = pdae_jax.fit_population(train, settings, **options, workdir=tmp_path)
    for number, (member, other) in enumerate(zip(whole.members, resumed.members, strict=True)):
        is_close(other, member)
        loaded = pdae_jax.load_run(tmp_path / f"{number:03d}")
        assert all(
            np.array_equal(left, right)
            for left, right in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(other.params), strict=True)
        )
    with pytest.raises(ValueError, match="holds another run"):
        pdae_jax.fit_population(train, settings[::-1], **options, workdir=tmp_path)


def test_what_cannot_be_is_said_before_anything_is_trained(split):
    train, validation = split
    with pytest.raises(ValueError, match="No settings"):
        pdae_jax.fit_population(train, [], key=KEY)
    with pytest.raises(TypeError, match="learning_rate"):
        pdae_jax.fit_population(train, [{"learning_rte": 1.0}], key=KEY)
    with pytest.raises(TypeError, match="settings"):
        pdae_jax.fit_population(train, {"learning_rate": 1e-3}, key=KEY)
    with pytest.raises(ValueError, match="at_once=0"):
        pdae_jax.fit_population(train, [{}], key=KEY, at_once=0)
    with pytest.raises(ValueError, match="num_replicas=0"):
        pdae_jax.fit_population(train, [{}], key=KEY, num_replicas=0)
    with pytest.raises(ValueError, match="needs validation"):
        pdae_jax.fit_population(train, [{"patience": 3}], key=KEY)
    with pytest.raises(KeyError, match="p9"):
        pdae_jax.fit_population(train, [{"leave_out": "p9"}], key=KEY, validation=validation)
