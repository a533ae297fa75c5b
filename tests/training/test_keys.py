"""Of a fit, its replicas and an ensemble no two draws have one key; runs of earlier versions keep the keys they had."""

import inspect
from types import SimpleNamespace

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import pdae_jax
from pdae_jax.randomness import key_of_fit, key_record, recorded_key
from pdae_jax.training import folds, prepare
from pdae_jax.training.ensemble import replica_key
from pdae_jax.training.member import Member
from pdae_jax.training.places import places_for
from pdae_jax.training.plan import Request
from pdae_jax.training.resume import streams_of_folder
from pdae_jax.training.train import train_request
from pdae_jax.view.stream import step_keys

KEY = jax.random.key(3)
STEPS = 40


def keys_of_fit(key, streams, monkeypatch):
    """Name -> key of what a fit draws, as its own functions derive them."""
    root, found = key_of_fit(key, streams), {}

    def recorded(name):
        return lambda key, *_: found.update({name: key}) or SimpleNamespace(params=jnp.zeros(1))

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "init_state", recorded("steps"))
        model = SimpleNamespace(init=recorded("init"))
        _, found["validate"] = inspect.unwrap(prepare._start)(root, None, None, model)
    steps = found.pop("steps")
    for step in range(STEPS):
        (found["cells", step],) = step_keys(steps, jnp.asarray(step))
        found["loss", step] = jax.random.fold_in(steps, 2 * step + 1)
    found |= {("validate", i): k for i, k in enumerate(jax.random.split(found["validate"], 3))}
    found |= {"seed": jax.random.fold_in(root, prepare._SEED), "choice": jax.random.fold_in(root, folds._CHOICE)}
    found |= {"bootstrap": jax.random.fold_in(root, prepare._BOOTSTRAP), "root": root}
    return {("steps", "of the fit"): steps, **found}


def all_keys(streams, monkeypatch):
    """Of the fit with a key, nine replicas of it in a population, and an ensemble of five with another key."""
    keys = {"fit": KEY, **{f"replica {r}": jax.random.fold_in(KEY, r) for r in range(1, 10)}}
    other = jax.random.split(KEY, 20)[15]
    keys |= {"ensemble": other, **{f"of the ensemble {r}": replica_key(other, r) for r in range(5)}}
    return [k for key in keys.values() for k in keys_of_fit(key, streams, monkeypatch).values()]


@pytest.mark.parametrize("streams", [1, 2])
def test_no_two_draws_have_one_key(streams, monkeypatch):
    keys = jnp.stack(all_keys(streams, monkeypatch))
    data = np.asarray(jax.random.key_data(keys))
    equal = len(data) - len(np.unique(data, axis=0))
    if streams == 1:  # what the second way mends
        assert equal > 20
        return
    assert equal == 0
    draws = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (400,)))(keys))
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 6.0 / np.sqrt(400)  # of a million pairs the largest is 5


def test_keys_are_derived_as_they_are_recorded():
    """Golden: another derivation is another number of `streams`."""
    assert jax.random.key_data(key_of_fit(jax.random.key(0))).tolist() == [1024996982, 1461176505]
    assert key_of_fit(KEY, 1) is KEY


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_kind_of_a_key_is_recorded(kind):
    key = jax.random.key(7, impl=kind)
    record = key_record(key)
    assert ("key_kind" in record) == (kind != "threefry2x32")  # runs of earlier versions do not have it
    again = recorded_key(record)
    assert again.dtype == key.dtype and (jax.random.key_data(again) == jax.random.key_data(key)).all()


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_keys_whose_draws_side_by_side_are_not_their_own_train_one_at_a_time(kind):
    keys = jax.random.split(jax.random.key(0, impl=kind), 3)
    together, alone = jax.vmap(jax.random.normal)(keys), [jax.random.normal(key) for key in keys]
    members = [object.__new__(Member) for _ in keys]  # what the rest of a member is does not matter
    for member, key in zip(members, keys, strict=True):
        member.state = SimpleNamespace(train=SimpleNamespace(key=key))
        member.program = SimpleNamespace(devices=None)
    assert places_for(members, 3) == (3 if np.array_equal(together, alone) else 1)


SMALL = {"latent_dim": 1, "hidden": (4,), "num_steps": 20, "log_every": 5, "eval_every": 5, "checkpoint_every": 10}


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    return pdae_jax.from_arrays(x, conditions=["ctrl"] * 8 + ["A"] * 8 + ["B"] * 8, control="ctrl")


class Stops:
    def update(self, step, num_steps, loss):
        if step == 10:
            raise KeyboardInterrupt

    def close(self):
        pass


@pytest.mark.slow
def test_a_run_that_an_earlier_version_began_ends_as_it_would_have(data, tmp_path):
    request = Request(data, KEY, pdae_jax.Recipe(**SMALL), streams=1)
    whole = train_request(request)
    with pytest.raises(KeyboardInterrupt):
        train_request(request._replace(workdir=tmp_path / "run"), progress=Stops())
    assert streams_of_folder(tmp_path / "run") == 1
    resumed = pdae_jax.fit(data, key=KEY, workdir=tmp_path / "run", **SMALL)
    loaded, new = pdae_jax.load_run(tmp_path / "run"), pdae_jax.fit(data, key=KEY, workdir=tmp_path / "new", **SMALL)
    params = [jax.flatten_util.ravel_pytree(each.params)[0] for each in (whole, resumed, loaded, new)]
    assert [np.array_equal(params[0], each) for each in params] == [True, True, True, False]
    assert whole.seed == resumed.seed == loaded.seed != new.seed


@pytest.mark.slow
def test_a_run_with_another_kind_of_key_is_read_back(data, tmp_path):
    key = jax.random.key(0, impl="rbg")
    fitted = pdae_jax.fit(data, key=key, workdir=tmp_path / "run", **SMALL, stop_step=0)
    loaded = pdae_jax.load_run(tmp_path / "run")
    assert loaded.seed == fitted.seed
    np.testing.assert_array_equal(loaded.shift_matrix, fitted.shift_matrix)
    pdae_jax.fit(data, key=key, workdir=tmp_path / "run", **SMALL, stop_step=0)  # the same run
    with pytest.raises(ValueError, match="key_kind is 'rbg' there, 'unsafe_rbg' here"):
        other = jax.random.wrap_key_data(jax.random.key_data(key), impl="unsafe_rbg")
        pdae_jax.fit(data, key=other, workdir=tmp_path / "run", **SMALL, stop_step=0)
