"""Small files of users, their configs, and what is read of them."""

import numpy as np
import pandas as pd

from experiments.configs import anndata as own
from pdae_jax import build

MARKERS = ["m0", "m1"]


def cells(*conditions, each=4, **columns):
    """A frame of `each` cells a condition; `columns` have one value a condition."""
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(len(conditions) * each, 2)), columns=MARKERS)
    return frame.assign(condition=np.repeat(conditions, each), **{k: np.repeat(v, each) for k, v in columns.items()})


def config_of(frame, folder, **fields):
    """The config of a file of the frame; nothing is held out."""
    frame.to_csv(folder / "cells.csv", index=False)
    return config_with(path=str(folder / "cells.csv"), features=tuple(MARKERS), **fields)


def config_with(**fields):
    config = own.get_config()
    config.data.update(**fields)
    config.split.update(test_fraction=0.0, validation_fraction=0.0)
    return config


def read(frame, folder, **fields):
    return build.experiment(config_of(frame, folder, **fields)).train


def assert_same(found, expected):
    assert found.conditions == expected.conditions and found.perturbations == expected.perturbations
    assert found.control == expected.control and found.features == expected.features
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.condition_index, expected.condition_index)
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-6)
