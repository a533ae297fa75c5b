"""Types and ranges of every setting: an error names it and shows the value, and nothing is computed before.

Annotations are checked while tests run, but not for users: functions are called without that.
"""

import dataclasses
import inspect
import math

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.data.simulate import simulate
from pdae_jax.recipe import _KINDS, _OPEN, Recipe, Resolved
from pdae_jax.training.devices import shared_by

KEY = jax.random.key(0)


def arrays():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    return pdae_jax.from_arrays(x, conditions=["ctrl"] * 4 + ["A"] * 4 + ["A+B"] * 4, control="ctrl")


WRONG = {
    "latent_dim": (2.5, 0, True, "four", math.nan),
    "noise": (3, "both", None),
    "noise_dim": (-1, 1.5, None),
    "observed_effects": ("no", 1),
    "hidden": (8, (64.5,), "64", (0,), None),
    "activation": ("swish", None),
    "nonnegative": ("yes",),
    "components": (0, 2.5),
    "standardize": ("None", 1),
    "kernel": ("rbf", None),
    "beta": (0.0, 2.0, math.nan, "1", None),
    "bandwidths": (1.0, (), (0.5, -1.0), (math.nan,), None),
    "form": ("pair", None),
    "reconstruction": (-0.1, math.nan, True),
    "contrast": ("1",),
    "likelihood": (-1,),
    "num_sources": (0, 2.5, None),
    "cells_per_source": (1, None),
    "num_targets": (0, False),
    "cells_per_target": (0.5,),
    "num_steps": (40.5, 0, "40", math.inf),
    "stop_step": (-1, 0.5),
    "learning_rate": (0.0, math.nan, "1e-3"),
    "warmup_steps": (-5, 0.5, None),
    "clip_norm": (0.0, math.nan, None),
    "average_decay": (2, -0.1, math.nan, None),
    "log_every": (0, 1.5, None),
    "eval_every": (0, None),
    "patience": (-1, 1.5, True),
    "checkpoint_every": (0, None),
}


def test_every_field_of_a_recipe_is_checked_by_its_name():
    assert WRONG.keys() == {field.name for field in dataclasses.fields(Recipe)}
    for name, values in WRONG.items():
        for value in values:
            if value is None:
                assert name not in _OPEN
                continue
            with pytest.raises((TypeError, ValueError)) as caught:
                _KINDS[name].checked(name, value)
            shown = value[-1] if value and isinstance(value, tuple) else value
            assert name in str(caught.value) and (repr(shown) in str(caught.value) or shown == ()), (name, value)


def test_numbers_of_numpy_become_plain_ones():
    given = {"latent_dim": np.int64(3), "num_steps": 4e3, "learning_rate": np.float32(0.5), "nonnegative": np.True_}
    found = [_KINDS[name].checked(name, value) for name, value in given.items()]
    assert found == [3, 4000, 0.5, True] and [type(value) for value in found] == [int, int, float, bool]
    assert _KINDS["hidden"].checked("hidden", [np.int32(8)]) == (8,)
    assert type(_KINDS["learning_rate"].checked("learning_rate", 1)) is int  # as it was given, and as it was saved


def test_a_saved_recipe_that_never_stopped_never_stops():
    """Earlier versions wrote None both for what is open and for no stop."""
    resolved = {"latent_dim": 2, "observed_effects": False, "nonnegative": False, "standardize": "feature"}
    resolved |= {"reconstruction": 0.5, "contrast": 1.0, "likelihood": 0.3, "num_steps": 100, "learning_rate": 5e-3}
    saved = {**Recipe().to_dict(), **resolved, "patience": None}
    found = Recipe.from_dict(saved)
    assert isinstance(found, Resolved) and found.patience == 0
    assert Recipe.from_dict(Recipe().to_dict()).patience is None  # open
    with pytest.raises((TypeError, ValueError), match="patience"):
        found.override(patience=None)


plain = inspect.unwrap
AT_THE_DOORS = {
    "num_replicas": (lambda v: plain(pdae_jax.fit_ensemble)(arrays(), key=KEY, num_replicas=v), (1, 2.5, "3", True)),
    "bootstrap": (lambda v: plain(pdae_jax.fit_ensemble)(arrays(), key=KEY, bootstrap=v), ("no", 1, None)),
    "bootstrap of a setting": (lambda v: pdae_jax.fit_population(arrays(), [{"bootstrap": v}], key=KEY), ("no", 0)),
    "num_replicas of a population": (
        lambda v: plain(pdae_jax.fit_population)(arrays(), [{}], key=KEY, num_replicas=v),
        (0, 2.5),
    ),
    "at_once": (lambda v: plain(pdae_jax.fit_population)(arrays(), [{}], key=KEY, at_once=v), (0, 1.5)),
    "devices": (lambda v: plain(shared_by)(v, 4, False), (0, 1.5, "all", True)),
    "latent_dim": (lambda v: plain(simulate)(KEY, latent_dim=v), (0, 2.5, "4")),
    "observed_dim": (lambda v: plain(simulate)(KEY, observed_dim=v), (0, 10.5)),
    "num_perturbations": (lambda v: plain(simulate)(KEY, num_perturbations=v), (0, 1.5)),
    "cells_per_condition": (lambda v: plain(simulate)(KEY, cells_per_condition=v), (0, 10.5, "many")),
    "shift_scale": (lambda v: plain(simulate)(KEY, shift_scale=v), (math.nan, math.inf, "1")),
    "noise_scale": (lambda v: plain(simulate)(KEY, noise_scale=v), (-1.0,)),
    "nonlinearity": (lambda v: plain(simulate)(KEY, nonlinearity=v), (math.nan, None)),
    "interaction": (lambda v: plain(simulate)(KEY, interaction=v), (-1.0, math.nan)),
    "noise": (lambda v: plain(simulate)(KEY, noise=v), (None, "poisson")),
}


@pytest.mark.parametrize("door", AT_THE_DOORS)
def test_arguments_are_checked_by_their_name(door, monkeypatch):
    call, values = AT_THE_DOORS[door]
    monkeypatch.setattr("pdae_jax.training.train.make_plan", lambda *_: pytest.fail("refused too late"))
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"^{door.split()[0]}="):
            call(value)
