"""Configs become data, splits and a recipe; what is misspelt is refused before anything is trained."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import pdae_jax
from experiments.configs import simulated
from pdae_jax import build


@pytest.fixture
def config():
    return simulated.get_config("smoke")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sead": 1}, KeyError, "unknown key 'sead'; did you mean seed?"),
        ({"fit.latnt_dim": 3}, TypeError, "no option 'latnt_dim'; did you mean latent_dim"),
        ({"fit.form": "pooling"}, ValueError, "form='pooling' is not known; pass one of pairwise, pooled"),
        ({"data.name": "bodenmiler"}, KeyError, "Unknown data set 'bodenmiler'; did you mean bodenmiller?"),
        (
            {"data.cell_per_condition": 9},
            KeyError,
            "unknown key 'cell_per_condition'; did you mean cells_per_condition",
        ),
        ({"split.tests": ("p0+p2",)}, KeyError, "config.split has an unknown key 'tests'; did you mean test?"),
        ({"split.test": ("p0+p9",)}, KeyError, "'p9'|'p0+p9'"),
        ({"split.test": ()}, ValueError, "No conditions to hold out"),
        ({"split.protocol": "doubles"}, ValueError, "config.split.test names some. Leave one of the two out"),
        ({"split.protocol": "dubles", "split.test": (), "split.validation": ()}, ValueError, "nearest are 'doubles'"),
        (
            {"evaluation.num_sample": 9},
            KeyError,
            "unknown key 'num_sample'; did you mean num_samples or most_in_sample?",
        ),
    ],
)
def test_misspelt_configs_name_the_nearest(config, change, error, message):
    config.update_from_flattened_dict(change)
    with pytest.raises(error, match="|".join(map(re.escape, message.split("|")))):
        build.experiment(config)


def test_the_config_decides_data_split_and_recipe(config):
    config.fit.latent_dim = 3
    config.data.cells_per_condition = 10
    config.split.test, config.split.validation = ("p0+p2", "p0+p3"), ("p1+p4",)
    experiment = build.experiment(config)
    assert experiment.test.conditions == ("p0+p2", "p0+p3")
    assert experiment.validation is not None and experiment.validation.conditions == ("p1+p4",)
    assert set(experiment.train.conditions) == {"control", *config.data.labels} - {"p0+p2", "p0+p3", "p1+p4"}
    assert experiment.recipe == pdae_jax.Recipe(
        latent_dim=3, num_steps=20, log_every=10, eval_every=10, checkpoint_every=10, hidden=(16, 16)
    )
    assert experiment.evaluation == {
        "num_samples": 200,
        "most_in_sample": 2,
        "source": "control",
        "comparators": (),
    } and experiment.source == {"p1+p4": "control"}
    with config.evaluation.ignore_type():
        config.evaluation.source = {"p0+p2": "p0", "p1+p4": "p1"}
    assert build.experiment(config).source == {"p1+p4": "p1"}  # the fit is told of validation conditions only


def test_the_seed_is_all_that_is_random(config):
    config.data.cells_per_condition = 10
    first, again = build.experiment(config), build.experiment(config)
    config.seed = 1
    other = build.experiment(config)
    np.testing.assert_array_equal(first.train.x, again.train.x)
    assert not np.allclose(first.train.x, other.train.x)
    keys = [jax.random.key_data(experiment.key).tolist() for experiment in (first, again, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_config_section_gives_back_the_recipe():
    section = build.recipe_config(hidden=(8, 8), num_steps=7, log_every=7, eval_every=7, checkpoint_every=7)
    assert dataclasses.asdict(build.recipe(section))["hidden"] == (8, 8)
    section.latent_dim = 5  # None in the default recipe, and typed
    assert build.recipe(section).latent_dim == 5
    with pytest.raises(TypeError):
        section.latent_dim = "five"
    section.likelihood = 0.1
    assert build.recipe(section).likelihood == 0.1
