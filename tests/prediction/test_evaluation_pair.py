"""The pair of AnnData that evaluation packages read, and their numbers beside ours."""

import subprocess
import sys
import warnings

import jax
import numpy as np
import pandas as pd
import pytest

import pdae_jax
from pdae_jax.evaluation.differential import Summary, differential
from pdae_jax.evaluation.metrics import METRICS, Comparison, Reference
from pdae_jax.prediction.samples import Prediction
from pdae_jax.two_sample.target import Target

PAIRS = ["A+B", "A+C"]


@pytest.fixture(scope="module")
def pair():
    """Counts of 30 genes under three singles and two held-out pairs, and predictions that are near the truth."""
    random = np.random.default_rng(0)
    effects = {name: random.normal(0, 0.8, 30) * (random.random(30) < 0.5) for name in "ABC"}
    base, names = random.gamma(1.0, 8.0, 30), ["ctrl", "A", "B", "C", *PAIRS]
    rates = {n: base * np.exp(sum((effects[p] for p in n.split("+") if p in effects), np.zeros(30))) for n in names}
    x = np.concatenate([random.poisson(rates[n], (60, 30)) for n in names]) + (np.arange(30) == 0)
    data = pdae_jax.from_arrays(
        x, np.repeat(names, 60), control="ctrl", features=[f"g{i}" for i in range(30)], normalize=True
    )
    train, test = pdae_jax.hold_out(data, PAIRS)
    noisy = [test.cells(p)[random.permutation(60)[:50]] + np.float32(0.05) * random.normal(size=30) for p in PAIRS]
    verdict = pdae_jax.check_guarantee(train, "A+B")
    predictions = [
        Prediction(
            np.maximum(cells, 0).astype(np.float32),
            *(train.features, pair, train.label(pair), "ctrl", verdict),
            size_factors=test.size_factors[test.rows[test.index(pair)]][:50],
        )
        for cells, pair in zip(noisy, PAIRS, strict=True)
    ]
    return train, test, predictions


def test_both_sides_have_the_same_conditions_and_control_cells(pair):
    train, test, predictions = pair
    predicted, measured = pdae_jax.evaluation_pair(train, test, predictions)
    for side, sizes in ((predicted, [60, 50, 50]), (measured, [60, 60, 60])):
        assert list(side.obs["perturbation"].cat.categories) == ["ctrl", *PAIRS]
        assert list(side.obs["perturbation"].value_counts(sort=False)) == sizes
        assert tuple(side.var_names) == train.features
        np.testing.assert_array_equal(side[side.obs["perturbation"] == "ctrl"].X, train.cells("ctrl"))
        counts = side.layers["counts"]
        assert np.array_equal(counts, np.round(counts))
    np.testing.assert_array_equal(measured[measured.obs["perturbation"] == "A+C"].X, test.cells("A+C"))
    np.testing.assert_array_equal(predicted[predicted.obs["perturbation"] == "A+C"].X, predictions[1].samples)


def test_what_does_not_fit_is_refused(pair):
    train, test, predictions = pair
    with pytest.raises(ValueError, match=r"Two predictions of one condition.*'A\+B'"):
        pdae_jax.evaluation_pair(train, test, [predictions[0], predictions[0]])
    with pytest.raises(KeyError, match="B"):
        pdae_jax.evaluation_pair(train, test.select(["A+C"]), predictions)
    with pytest.raises(ValueError, match="other features"):
        pdae_jax.evaluation_pair(train, test, predictions[0]._replace(features=("x",) * 30))


def ours(pair):
    """Means of the field as `evaluate` computes them."""
    train, test, predictions = pair
    control, found = train.cells("ctrl"), {}
    against = Summary.of(control)
    for each in predictions:
        true = test.cells(each.condition)
        change = differential(Summary.of(true), against)
        reference = Reference(
            against.mean, against.mean, control[:0], 1.0, 1.0, against.mean, against.mean, control, against, change
        )
        comparison = Comparison.of(each.samples, Target(true, jax.random.key(0)), reference)
        found[each.condition] = {"mse": METRICS["mse"](comparison), "pearson": METRICS["pearson_delta"](comparison)}
    return pd.DataFrame(found).T


def test_scperteval_agrees(pair, tmp_path):
    pytest.importorskip("scperteval")
    for name, side in zip(("predicted", "measured"), pdae_jax.evaluation_pair(*pair), strict=True):
        side.write_h5ad(tmp_path / f"{name}.h5ad")
    command = [sys.executable, "-m", "scperteval", "score", "measured.h5ad", "predicted.h5ad", "-p", "pearson_ctrl,mse"]
    options = {"--perturbation-key": "perturbation", "--control-label": "ctrl", "--min-cells": "10", "--out-dir": "out"}
    subprocess.run([*command, *(word for item in options.items() for word in item)], cwd=tmp_path, check=True)
    table = pd.read_csv(next((tmp_path / "out").glob("*.csv")))
    theirs = table.pivot(index="perturbation", columns="protocol", values="raw_prediction").loc[PAIRS]
    np.testing.assert_allclose(theirs["mse"], ours(pair)["mse"], rtol=1e-4)
    np.testing.assert_allclose(theirs["pearson_ctrl"], ours(pair)["pearson"], rtol=1e-4)


def test_cell_eval2_agrees(pair):
    cell_eval2 = pytest.importorskip("cell_eval2")
    config = cell_eval2.EvalConfig(
        metrics=["delta_pearson", "expr_mse"],
        pert_col="perturbation",
        control="ctrl",
        input_type="lognorm",
        target_gene_map={"*": None},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = cell_eval2.compute_metrics(*pdae_jax.evaluation_pair(*pair), config=config).to_pandas()
    theirs = table.pivot(index="perturbation", columns="metric", values="value").loc[PAIRS]
    np.testing.assert_allclose(theirs["expr_mse"], ours(pair)["mse"], rtol=1e-4)
    np.testing.assert_allclose(theirs["delta_pearson"], ours(pair)["pearson"], rtol=1e-4)


@pytest.mark.slow
def test_predictions_of_a_fit_make_a_pair(pair):
    train, test, _ = pair
    few = {"num_steps": 20, "log_every": 10, "eval_every": 10, "checkpoint_every": 10, "hidden": (8,)}
    fitted = pdae_jax.fit(train, key=jax.random.key(0), **few)
    predictions = [pdae_jax.predict(fitted, pair, key=jax.random.key(1)) for pair in ("B+A", "A+C")]
    predicted, _ = pdae_jax.evaluation_pair(train, test, predictions)
    assert list(predicted.obs["perturbation"].cat.categories) == ["ctrl", "A+B", "A+C"]
    np.testing.assert_allclose(predicted.layers["counts"][60:], predictions_counts(predictions), atol=1e-3)


def predictions_counts(predictions):
    return np.concatenate([each.counts(jax.random.key(0)) for each in predictions])
