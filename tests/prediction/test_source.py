"""Cells of another data set as the source, and as the test: columns are found by name, nothing is misread."""

import dataclasses

import anndata
import jax
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

import pdae_jax
from pdae_jax.prediction.support import neighbour_distance

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def fitted():
    """The start of a linear world: exact there."""
    data = pdae_jax.simulate(
        jax.random.key(0),
        latent_dim=3,
        observed_dim=3,
        num_perturbations=3,
        labels=["p0", "p1", "p2", "p0+p1", "p0+p2"],
        cells_per_condition=400,
        mixing="linear",
        shift_scale=3.0,
    ).data
    train, test = pdae_jax.hold_out(data, ["p0+p2"])
    return pdae_jax.fit(train, key=KEY, latent_dim=3, hidden=(4,), stop_step=0), test


def as_anndata(x, features):
    return anndata.AnnData(x, var=pd.DataFrame(index=list(features)))


def test_new_control_cells_are_translated(fitted):
    model, test = fitted
    train = model.train
    cells = train.cells("control")[:300]
    order = np.random.default_rng(0).permutation(3)
    wider = np.concatenate([cells[:, order], np.ones((300, 1), np.float32)], axis=1)
    names = [*(train.features[i] for i in order), "another"]
    expected = pdae_jax.predict(model, "p0+p2", key=KEY, source=cells)
    assert expected.source == "new cells" and len(expected.samples) == 300
    assert float(pdae_jax.losses.energy_distance(expected.samples, test.cells("p0+p2"))) < 0.05
    for way in (pd.DataFrame(wider, columns=names), as_anndata(wider, names)):
        found = pdae_jax.predict(model, "p0+p2", key=KEY, source=way)
        np.testing.assert_array_equal(found.samples, expected.samples)
        assert found.verdict.outside == expected.verdict.outside


def test_new_cells_with_labels_start_from_them(fitted):
    model, test = fitted
    found = pdae_jax.predict(model, "p0+p2", key=KEY, source=model.train.select(["p0", "p2"]))
    assert float(pdae_jax.losses.energy_distance(found.samples, test.cells("p0+p2"))) < 0.05


def test_new_cells_may_name_their_control_otherwise(fitted):
    model, _ = fitted
    cells = model.train.select(["control", "p0"])
    other = dataclasses.replace(cells, conditions=("DMSO", "p0"), control="DMSO")
    found, expected = (pdae_jax.predict(model, "p0+p2", key=KEY, source=source) for source in (other, cells))
    np.testing.assert_array_equal(found.samples, expected.samples)
    assert found.verdict == expected.verdict


@pytest.mark.parametrize("kind", ["arrays", "frame", "anndata"])
def test_a_file_without_control_joins_the_training_data(fitted, kind):
    model, test = fitted
    cells, features = test.x[:, ::-1], test.features[::-1]
    names = ["p2 + p0"] * len(cells)
    if kind == "arrays":
        data = pdae_jax.from_arrays(test.x, names, like=model.train)
    elif kind == "frame":
        frame = pd.DataFrame(cells, columns=features).assign(drug=names, note="x")
        data = pdae_jax.from_frame(frame, condition="drug", like=model.train)
    else:
        adata = as_anndata(cells, features)
        adata.obs["drug"] = names
        data = pdae_jax.from_anndata(adata, condition="drug", like=model.train)
    options = {"metrics": ["energy_distance"], "baselines": ["additive"], "progress": False}
    found, expected = (pdae_jax.evaluate(model, each, **options) for each in (data, test))
    pd.testing.assert_series_equal(found["n_true"], expected["n_true"])
    # its condition has a name of its own, and with it random numbers of its own
    np.testing.assert_allclose(found["value"], expected["value"], atol=0.05)
    with pytest.raises(KeyError, match="'p9', which is not in perturbations"):
        pdae_jax.from_arrays(test.x, ["p9"] * len(cells), like=model.train)
    with pytest.raises(ValueError, match="No control cells"):
        pdae_jax.from_arrays(test.x, names)


def test_cells_far_from_the_training_cells_are_not_supported(fitted):
    model, _ = fitted
    cells = model.train.cells("control") + 40.0
    assert pdae_jax.predict(model, "p0", key=KEY, source=cells).verdict.level == "unsupported"
    assert pdae_jax.predict(model, "p0", key=KEY).verdict.outside < 0.25


def test_a_test_set_of_its_own_gives_the_same_table(fitted):
    model, test = fitted
    order = [2, 0, 1]
    other = dataclasses.replace(
        test,
        x=np.concatenate([test.x[:, order], test.x[:, :1]], axis=1),
        features=(*(test.features[i] for i in order), "another"),
        labels=test.labels[:, [0, 2]],
        perturbations=("p0", "p2"),
    )
    options = {"metrics": ["energy_distance", "mean_l2"], "progress": False}
    pd.testing.assert_frame_equal(pdae_jax.evaluate(model, other, **options), pdae_jax.evaluate(model, test, **options))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda train: train.x[:, :2], ValueError, r"shape \(.*, 2\), but the model was fitted on \[cells, 3\]"),
        (lambda train: train.x * np.nan, ValueError, "'x0' has .* values that are NaN or infinite"),
        (lambda train: pd.DataFrame(train.x, columns=["x0", "x1", "y"]), ValueError, "lack 1 of the 3 .*'x2'"),
        (
            lambda train: dataclasses.replace(train, perturbations=("p0", "p1", "drug")),
            KeyError,
            "not trained on: 'drug'",
        ),
    ],
)
def test_unusable_cells_are_named(fitted, change, error, message):
    with pytest.raises(error, match=message):
        pdae_jax.predict(fitted[0], "p0", key=KEY, source=change(fitted[0].train))


@pytest.mark.parametrize("dim", [3, 20])
def test_distance_of_neighbours_is_that_of_a_tree(dim):
    random = np.random.default_rng(0)
    reference, query = random.normal(100.0, 1.0, (400, dim)), random.normal(100.0, 1.0, (1200, dim))
    expected = cKDTree(reference).query(query, k=5)[0][:, -1]
    np.testing.assert_allclose(neighbour_distance(reference, query, 5), expected, rtol=1e-6)
    assert neighbour_distance(reference[:2], query[:3], 5).shape == (3,)
