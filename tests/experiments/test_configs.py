"""Every config loads, builds a recipe, and holds conditions out that nothing is trained on."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from pdae_jax import build, check_guarantee
from pdae_jax.training.defaults import resolve_recipe

FOLDER = Path(__file__).parents[2] / "experiments" / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "base"))


def load(name):
    return importlib.import_module(f"experiments.configs.{name}")


def config_of(name, *argument):
    try:
        return load(name).get_config(*argument)
    except FileNotFoundError as error:  # a split drawn from data that cannot be downloaded
        pytest.skip(str(error))


@pytest.fixture
def no_download(monkeypatch):
    """Data that are not on this machine are not fetched for a test."""
    import pooch

    def refuse(*_, **__):
        pytest.skip("the data are not on this machine; set PDAE_DATA_DIR to their folder")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def test_there_are_configs():
    assert "simulated" in NAMES


@pytest.mark.parametrize("arg", [pytest.param("", marks=pytest.mark.slow), "smoke"])  # the data as a whole take long
@pytest.mark.parametrize("name", NAMES)
def test_config_builds(name, arg, no_download):
    if (name, arg) in (("anndata", ""), ("norman", "")):
        pytest.skip("the user names the file")
    config = config_of(name, *([arg] if arg else []))
    if "cells_per_condition" in config.data:
        config.data.cells_per_condition = 20
    experiment = build.experiment(config)
    parts = [experiment.train, experiment.test, *([experiment.validation] if experiment.validation else [])]
    conditions = [condition for part in parts for condition in part.conditions]
    assert len(conditions) == len(set(conditions))
    assert set(experiment.test.conditions) == set(config.split.test) or any(
        map(config.split.get, ("test_fraction", "protocol"))
    )
    labels = np.concatenate([part.labels for part in parts])
    assert len(np.unique(labels, axis=0)) == len(labels)  # not under another name either
    steps = resolve_recipe(experiment.recipe, experiment.train).num_steps
    assert steps is not None and steps <= (50 if arg == "smoke" else 50_000)


@pytest.mark.parametrize("name", NAMES)
def test_config_holds_out_what_training_identifies(name, no_download):
    """A held-out condition that no data determine would measure luck."""
    experiment = build.experiment(config_of(name, "smoke"))
    for part in (experiment.test, experiment.validation):
        for condition in part.conditions if part else ():
            assert check_guarantee(experiment.train, part.label(condition)).identified, condition


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_names_the_known_ones(name):
    with pytest.raises(ValueError, match=r"'nonsense'.*smoke"):
        load(name).get_config("nonsense")


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(load(name), "get_sweep")])
def test_sweep_changes_what_the_config_has(name):
    config = load(name).get_config()
    known = {*config, *(f"{section}.{field}" for section in ("data", "split", "fit") for field in config[section])}
    points = list(load(name).get_sweep())
    assert points and all(point and set(point) <= known for point in points)
    assert len({repr(sorted(point.items())) for point in points}) == len(points)
    for point in points:
        changed = load(name).get_config()
        changed.update_from_flattened_dict(point)
        build.recipe(changed.fit)


@pytest.mark.slow
def test_papers_label_what_is_identified_as_such():
    papers = load("papers")
    assert set(papers.VARIANTS) >= {"plane", "clean", "interactions_1", "labels_outside_the_span", "cells_100"}
    kinds = set()
    for name, variant in papers.VARIANTS.items():
        config = papers.get_config(name)
        config.data.cells_per_condition = 20
        experiment = build.experiment(config)
        for label, kind in variant.test.items():
            identified = check_guarantee(experiment.train, experiment.train.label(label)).identified
            assert identified == (kind != "outside"), (name, label)
            kinds.add(kind)
    assert kinds == {"in span", "off support", "outside"}
