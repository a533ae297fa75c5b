"""A fit that goes on from the state of another run."""

import json
import shutil

import jax
import pytest
from absl import app

import pdae_jax
from experiments import reproduce
from pdae_jax.runs import folder
from pdae_jax.training.load import read_record, read_state
from pdae_jax.training.plan import planned
from pdae_jax.training.prepare import outline
from tests.training.test_fit import KEY, SMALL, same, split  # noqa: F401  (a fixture)


class Interrupt:
    """A progress bar that breaks off the run after a step."""

    def __init__(self, step):
        self._step = step

    def update(self, step, num_steps, loss):
        if step == self._step:
            raise KeyboardInterrupt

    def close(self):
        pass


@pytest.fixture(scope="module")
def runs(split, tmp_path_factory):  # noqa: F811
    """Options of a fit, what it ends with unbroken, and a run of it that was broken off after its checkpoint of 40."""
    train, validation, _ = split
    path = tmp_path_factory.mktemp("runs") / "parent"
    options = {"key": KEY, "validation": validation, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        pdae_jax.fit(train, progress=Interrupt(50), workdir=path, **options)
    unbroken = pdae_jax.fit(train, workdir=path.with_name("unbroken"), **options)
    return train, options, unbroken, path


def last_state(fitted):
    """All that the last checkpoint holds, but for the key."""
    record = read_record(fitted.workdir)
    _, shapes = outline(planned(record.request(record.path), None))
    state, _ = read_state(record.path, shapes)
    return state._replace(train=state.train._replace(key=None))


def entries(fitted):
    return [{k: v for k, v in entry.items() if k != "steps_per_second"} for entry in fitted.history]


def test_the_same_settings_give_the_numbers_of_the_unbroken_run(runs, tmp_path):
    train, options, unbroken, parent = runs
    child = pdae_jax.fit(train, start_from=parent, workdir=tmp_path / "child", **options)
    assert same(last_state(child), last_state(unbroken)) and same(child.params, unbroken.params)
    assert entries(child) == entries(unbroken)[4:]
    assert same(pdae_jax.load_run(tmp_path / "child").params, unbroken.params)
    record = folder.read_config(tmp_path / "child")
    assert record["identity"]["start"] == {"hash": folder.read_config(parent)["hash"], "step": 40}
    assert record["config"]["start_from"] == str(parent)
    with pytest.raises(app.UsageError, match="went on from step 40 of the run in"):
        reproduce.reproduce(tmp_path / "child", tmp_path / "again")


def test_other_rates_go_on_bit_for_bit_and_without_the_parent(runs, tmp_path):
    train, options, unbroken, parent = runs
    shutil.copytree(parent, tmp_path / "parent")
    options = {**options, "learning_rate": 1e-4, "clip_norm": 0.5, "start_from": tmp_path / "parent"}
    straight = pdae_jax.fit(train, workdir=tmp_path / "straight", **options)
    assert not same(last_state(straight).train.params, last_state(unbroken).train.params)
    with pytest.raises(KeyboardInterrupt):
        pdae_jax.fit(train, progress=Interrupt(50), workdir=tmp_path / "child", **options)
    with pytest.raises(ValueError, match=r"holds another run: .*start\.hash"):  # the start is part of what a run is
        pdae_jax.fit(train, workdir=tmp_path / "child", **options | {"start_from": None})
    shutil.rmtree(tmp_path / "parent")
    resumed = pdae_jax.fit(train, workdir=tmp_path / "child", **options)
    assert same(last_state(resumed), last_state(straight)) and entries(resumed) == entries(straight)


def test_what_cannot_be_taken_over_is_named(runs, tmp_path):
    train, options, _, parent = runs
    before = {path: path.stat().st_mtime_ns for path in parent.rglob("*")}

    def refuses(match, error=ValueError, **changes):
        with pytest.raises(error, match=match):
            pdae_jax.fit(**{"train": train, "start_from": parent, "workdir": tmp_path / "own", **options, **changes})

    refuses(r"hidden is \(16,\) there, \(8,\) here", hidden=(8,))
    refuses("reconstruction is 0.[15] there, 0.0 here", reconstruction=0.0)
    refuses("the validation data are others", validation=None, stop_step=60)
    refuses("the train data are others", train=pdae_jax.hold_out(train, ["p0+p1"])[0])
    refuses("is the workdir itself", workdir=parent / ".." / "parent", start_from=parent / ".")
    refuses("has no checkpoint of a run", FileNotFoundError, start_from=tmp_path)
    assert not (tmp_path / "own" / folder.CONFIG_FILE).exists()
    assert before == {path: path.stat().st_mtime_ns for path in parent.rglob("*")}


def test_an_ensemble_is_no_start(runs, tmp_path):
    train, options, _, parent = runs
    shutil.copytree(parent, tmp_path / "ensemble")
    config = json.loads((parent / folder.CONFIG_FILE).read_text())
    config["identity"]["num_replicas"] = 2
    config["hash"] = folder.config_hash(config["identity"])
    (tmp_path / "ensemble" / folder.CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is an ensemble"):
        pdae_jax.fit(train, start_from=tmp_path / "ensemble", **options)


def test_another_key_draws_other_batches(runs):
    train, options, unbroken, parent = runs
    other = pdae_jax.fit(train, start_from=parent, **options | {"key": jax.random.key(8)})
    assert entries(other)[0]["total"] != entries(unbroken)[4]["total"]
