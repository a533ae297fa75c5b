import dataclasses
import importlib

import anndata
import jax
import numpy as np
import pandas as pd
import pytest

from pdae_jax.data.simulate import design, simulate
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.methods import given_cells
from pdae_jax.evaluation.metrics import METRICS
from pdae_jax.evaluation.summary import COMPARED, format_table, summary_table
from pdae_jax.evaluation.table import MEAN_RESPONSE, evaluate
from pdae_jax.losses import energy_distance
from pdae_jax.reporting.plots import condition_dots
from pdae_jax.training.fit import fit
from pdae_jax.types import PerturbationData, Reading

pytestmark = pytest.mark.slow  # the table is of a fit

evaluate_module = importlib.import_module("pdae_jax.evaluation.table")
CONTRACT = ["condition", "split", "method", "metric", "value", "n_true", "n_pred", "seed"]
UNSCALED = [name for name, metric in METRICS.items() if metric.best is None]
# without interactions `ridge_additive` is `ridge`
METHODS = ["pdae", *(name for name in BASELINES if name != "ridge_additive"), "oracle_half"]
FEW = {"num_samples": 150, "metrics": ["energy_distance", "mean_l2"]}


@pytest.fixture(scope="module")
def world():
    """A linear-Gaussian world, in which the start of the model is already right up to sampling."""
    labels = design(["p0", "p1", "p2"], singles=1.0, doubles=1.0)
    simulation = simulate(
        jax.random.key(0),
        mixing="linear",
        latent_dim=3,
        observed_dim=4,
        num_perturbations=3,
        labels=[*labels, {"p0": 1.0, "p1": 1.0, "p2": 1.0}],
        cells_per_condition=300,
    )
    data = simulation.data
    train = data.select(["control", "p0", "p1", "p2", "p0+p1"])
    validation, test = data.select(["p0+p2"]), data.select(["control", "p1+p2", "p0+p1+p2"])
    fitted = fit(
        train, key=jax.random.key(1), validation=validation, num_steps=5, hidden=(8,), latent_dim=3, progress=False
    )
    return fitted, test


@pytest.fixture(scope="module")
def table(world):
    return evaluate(*world, num_samples=200, splits=("test", "validation", "train"))


def values(table, metric="energy_distance", split="test"):
    rows = table[(table["metric"] == metric) & (table["split"] == split)]
    return rows.pivot(index="condition", columns="method", values="value")


def test_the_table_is_complete(table, world):
    fitted, _ = world
    assert list(table.columns[: len(CONTRACT)]) == CONTRACT
    cases = {
        "test": ["p1+p2", "p0+p1+p2"],
        "validation": ["p0+p2"],
        "train": ["p0", "p1", "p2", "p0+p1"],  # the control is nobody's prediction
    }
    expected = {
        (condition, split, method, metric)
        for split, conditions in cases.items()
        for condition in conditions
        for method in METHODS
        for metric in METRICS
    }
    found = list(zip(*(table[c] for c in CONTRACT[:4]), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert set(table["seed"]) == {fitted.seed}
    few = table["metric"].str.contains("_top")  # of more features than there are
    assert np.isfinite(table["value"][~few]).all() and np.isnan(table["value"][few]).all()
    assert set(table[table["metric"] == "mmd"]["bandwidth"].notna()) == {True}


def test_scaled_is_zero_for_the_mean_response_and_one_for_the_ceiling(table, world):
    known = table[~table["metric"].isin(UNSCALED) & ~table["metric"].str.contains("_top")]
    known = known[~known["metric"].str.startswith("de_")]  # which the mean response has right as well
    assert np.isfinite(known["scaled"]).mean() > 0.8 and (known["scaled_noise"].dropna() < 0.5).all()
    known = known[known["scaled"].notna()]
    assert np.isnan(table["scaled"][table["metric"].isin(UNSCALED)]).all()
    for method, value in ((MEAN_RESPONSE, 0.0), ("oracle_half", 1.0)):
        np.testing.assert_allclose(known["scaled"][known["method"] == method], value, atol=1e-12)
    for (_, metric), rows in known.groupby(["condition", "metric"]):
        by_method = rows.set_index("method")
        b, r = by_method.loc[MEAN_RESPONSE, "value"], by_method.loc["oracle_half", "value"]
        np.testing.assert_allclose(by_method["scaled"], (by_method["value"] - b) / (r - b), err_msg=metric)
    energy = known[(known["metric"] == "energy_distance") & (known["split"] == "test")].set_index("method")["scaled"]
    assert energy["pdae"].min() > 0.9 > 0.5 > energy["control"].max()
    # the scale does not depend on which baselines are asked for
    alone = evaluate(*world, num_samples=200, baselines=["control"], metrics=["energy_distance", "pearson_delta"])
    merged = alone.merge(table, on=["condition", "split", "method", "metric"])
    np.testing.assert_allclose(merged["scaled_x"], merged["scaled_y"], rtol=1e-6)


def test_the_ceiling_of_changes_has_controls_of_its_own(world):
    """Half the control cells each: the noise of the control counts, as it would if the condition were measured anew."""
    fitted, test = world
    few = fitted.train.take(np.concatenate([fitted.train.rows[0][:6], *fitted.train.rows[1:]]))
    options = {"num_samples": 200, "baselines": [], "metrics": ["pearson_delta", "mean_l2"]}
    noisy, clean = (evaluate(dataclasses.replace(fitted, train=t), test, **options) for t in (few, fitted.train))
    ceiling = [t[t["method"] == "oracle_half"].set_index(["condition", "metric"])["value"] for t in (noisy, clean)]
    assert (ceiling[0].xs("pearson_delta", level=1) < ceiling[1].xs("pearson_delta", level=1)).all()
    np.testing.assert_allclose(*(c.xs("mean_l2", level=1) for c in ceiling))


def test_values_are_those_of_the_samples(world, monkeypatch):
    fitted, test = world
    seen = {}

    def recording(*args, **kwargs):
        prediction = predict(*args, **kwargs)
        seen[prediction.condition] = prediction.samples
        return prediction

    predict = evaluate_module.predict
    monkeypatch.setattr(evaluate_module, "predict", recording)
    table = evaluate(fitted, test, num_samples=300, metrics=["energy_distance", "mean_l2"], baselines=[])
    for condition, samples in seen.items():
        true = test.cells(condition)  # all 300 cells are used
        expected = energy_distance(jax.numpy.asarray(samples), jax.numpy.asarray(true))
        assert values(table).loc[condition, "pdae"] == pytest.approx(float(expected), abs=1e-5)
        l2 = np.linalg.norm(samples.mean(0) - true.mean(0))
        assert values(table, "mean_l2").loc[condition, "pdae"] == pytest.approx(l2, rel=1e-4)
    assert set(seen) == {"p1+p2", "p0+p1+p2"}


def test_methods_rank_as_they_must_in_a_linear_world(table):
    distance = values(table)
    for name in ("additive", "linear_regression", "latent_additive"):
        assert (distance[name] < 0.1).all()
        assert (distance[name] < 0.2 * distance["control"]).all()
    assert (distance["pseudobulk"] > 3 * distance["additive"]).all()  # right mean, no spread
    np.testing.assert_allclose(distance["oracle_half"], 0.0, atol=0.05)
    assert (values(table, "rank")["oracle_half"] == 0).all()
    assert (values(table, "p_value")["control"] == 0.001).all()
    assert (values(table, "coverage_90")["pseudobulk"] == 0).all()


def test_numbers_of_cells(table):
    rows = table[table["method"] == "pdae"]
    assert set(zip(rows["n_true"], rows["n_pred"], strict=True)) == {(200, 200)}
    rows = table[table["method"] == "oracle_half"]  # all 300 cells, halved
    assert set(zip(rows["n_true"], rows["n_pred"], strict=True)) == {(150, 150)}


def test_p_values_use_a_fixed_number_of_cells(world):
    table = evaluate(*world, num_samples=700, metrics=["p_value", "rank"], baselines=["control", "pool_all"])
    used = table[table["method"] == "pool_all"].set_index("metric")[["n_true", "n_pred"]]
    assert used.loc["p_value"].to_numpy().tolist() == [[300, 500]] * 2
    assert used.loc["rank"].to_numpy().tolist() == [[300, 700]] * 2
    # 300 control cells give 300 samples: a copy would pass for another cell
    assert set(table.loc[table["method"] == "control", "n_pred"]) == {300}


def test_context_columns(table):
    rows = table.drop_duplicates("condition").set_index("condition")
    assert rows["order"].to_dict() == {"p1+p2": 2, "p0+p1+p2": 3, "p0+p2": 2, "p0": 1, "p1": 1, "p2": 1, "p0+p1": 2}
    assert set(rows.index[rows["in_training"]]) == {"p0", "p1", "p2", "p0+p1"}
    assert set(rows["identified"]) == {"yes"}
    assert set(rows["tested"]) == {"yes"}
    assert set(rows["supported"]) <= {"yes", "no"}
    assert rows["residual"].max() < 1e-4


def test_the_key_decides_and_other_conditions_do_not(world, table):
    fitted, test = world
    default = evaluate(fitted, test, **FEW)
    pd.testing.assert_frame_equal(default, evaluate(fitted, test, **FEW))
    alone = evaluate(fitted, test.select(["p0+p1+p2"]), **FEW)
    merged = alone.merge(default, on=["condition", "method", "metric"])
    assert len(merged) == len(alone)
    np.testing.assert_array_equal(merged["value_x"], merged["value_y"])
    other = evaluate(fitted, test, key=jax.random.key(5), **FEW)
    assert (values(other)["pdae"] != values(default)["pdae"]).all()


def test_further_methods_are_rows_like_baselines(world):
    fitted, test = world
    mine = {"mine": BASELINES["additive"], "everybody": BASELINES["pool_all"]}
    table = evaluate(fitted, test, methods=mine, **FEW)
    assert list(dict.fromkeys(table["method"])) == [*METHODS[:-1], *mine, "oracle_half"]
    # the same key and the same cells as the baseline that it is
    np.testing.assert_array_equal(values(table)["mine"], values(table)["additive"])
    summary = summary_table(table)
    assert summary.attrs["best_baseline"] in COMPARED
    np.testing.assert_equal(summary.loc["mine", "ratio"], summary.loc["additive", "ratio"])
    assert "\neverybody " in format_table(table)
    shown = condition_dots(table).legends[0].get_texts()
    assert {"mine", "everybody"} <= {text.get_text() for text in shown}
    alone = evaluate(fitted, test, baselines=[], methods={"mine": mine["mine"]}, **FEW)
    assert set(alone["method"]) == {"pdae", "mine", "oracle_half"}
    np.testing.assert_array_equal(values(alone)["mine"], values(table)["mine"])


def test_cells_predicted_elsewhere_are_a_method(world):
    """An AnnData of them, its columns and its names of conditions in an order of their own."""
    fitted, test = world
    of_pair, of_three = test.cells("p1+p2"), test.cells("p0+p1+p2")[:100]
    adata = anndata.AnnData(
        X=np.concatenate([of_three, of_pair])[:, ::-1],
        obs=pd.DataFrame({"condition": ["p2+p1+p0"] * 100 + ["p1+p2"] * 300}, index=[str(i) for i in range(400)]),
        var=pd.DataFrame(index=list(test.features[::-1])),
    )
    table = evaluate(fitted, test, methods={"theirs": adata}, **FEW)
    theirs = table[(table["method"] == "theirs") & (table["metric"] == "mean_l2")].set_index("condition")
    assert theirs["n_pred"].to_dict() == {"p1+p2": 150, "p0+p1+p2": 100}  # those there are, none twice
    assert theirs["value"].lt(0.5 * values(table, "mean_l2")["control"]).all()
    of_layer = dataclasses.replace(Reading(), layer="counts", arcsinh=5.0)
    train = dataclasses.replace(fitted.train, reading=of_layer)  # cells are not looked for there, nor transformed again
    np.testing.assert_array_equal(given_cells("theirs", adata, train).x[100:], of_pair)
    with pytest.raises(ValueError, match=rf"lacks 1 of the {test.num_features} training features"):
        given_cells("theirs", adata[:, 1:], train)
    with pytest.raises(ValueError, match=r"'theirs'\] has fewer than two cells of 'p1\+p2' in obs"):
        evaluate(fitted, test, methods={"theirs": adata[:100]}, **FEW)
    with pytest.raises(ValueError, match="AnnData without obs"):
        evaluate(fitted, test, methods={"theirs": anndata.AnnData(test.x)}, **FEW)
    with pytest.raises(TypeError, match=r"'theirs'.*is a ndarray. Pass an AnnData.*or a function"):
        evaluate(fitted, test, methods={"theirs": of_pair}, **FEW)


def test_cells_far_off_and_cells_that_are_no_numbers_are_seen(world, caplog):
    fitted, test = world

    def spoiled(value):
        def samples(key, train, label, num_samples, **_):
            cells = train.cells("p0")[:num_samples].copy()
            cells[3, 1] = value
            return cells

        return samples

    methods = {"exploded": spoiled(1e4), "broken": spoiled(np.nan)}
    with caplog.at_level("WARNING"):
        table = evaluate(fitted, test, methods=methods, num_samples=150, baselines=["control"])
    rows = {method: table[table["method"] == method] for method in [*methods, "control", "oracle_half", "pdae"]}
    assert set(rows["exploded"]["out_of_range"]) == {1 / 150} and rows["exploded"]["farthest"].min() > 100
    assert rows["broken"][["value", "scaled"]].isna().all(axis=None) and set(rows["broken"]["out_of_range"]) == {
        1 / 150
    }
    for method in ("control", "oracle_half", "pdae"):
        assert (rows[method]["out_of_range"] == 0).all() and rows[method]["farthest"].max() < 2
    assert "exploded: predicted cells of 2 of 2 conditions" in caplog.text and "broken: some" in caplog.text
    assert {"p0+p1+p2", "p1+p2"} == set(rows["pdae"]["condition"])
    energy = table[table["metric"] == "energy_distance"].set_index("method")
    # an exact prediction: the two halves of the ceiling, and a sample of another seed, are within a few of these
    assert (energy.loc["oracle_half", "value"].abs() < 4 * energy.loc["oracle_half", "noise"]).all()
    assert 0 < energy.loc["control", "noise"].max() < energy.loc["control", "value"].min() / 10


def test_trained_conditions_among_the_test_data_are_marked(world):
    fitted, _ = world
    fresh = dataclasses.replace(fitted.train.select(["control", "p1"]))
    table = evaluate(fitted, fresh, baselines=["control"], **FEW)
    assert set(table["condition"]) == {"p1"}
    assert set(table["split"]) == {"test"}
    assert table["in_training"].all()
    # measured once more under another name: same label, still known
    renamed = dataclasses.replace(fresh, conditions=("control", "again"))
    assert evaluate(fitted, renamed, baselines=[], **FEW)["in_training"].all()


def test_few_cells(world):
    fitted, test = world
    rows = np.flatnonzero(test.condition_index == 1)[:3]
    few = dataclasses.replace(test.select(["p1+p2"]), x=test.x[rows], condition_index=np.zeros(3, dtype=np.int32))
    table = evaluate(fitted, few, baselines=["additive"], num_samples=100)
    ceiling = table["method"] == "oracle_half"
    assert table[ceiling]["value"].isna().all()  # no halves to compare
    rare = table["metric"].str.contains("_top") | table["metric"].str.contains("de_")  # of too few features or cells
    assert np.isfinite(table[~ceiling & ~rare]["value"]).all() and table["scaled"].isna().all()
    one = dataclasses.replace(few, x=few.x[:1], condition_index=np.zeros(1, dtype=np.int32))
    with pytest.raises(ValueError, match=r"'p1\+p2' of the test data has 1 cells"):
        evaluate(fitted, one)


def test_nonnegative_recipes_clip_the_baselines(world, monkeypatch):
    fitted, test = world
    seen = []

    def spy(*_, floor, **__):
        seen.append(floor)
        return fitted.train.cells("control")

    monkeypatch.setitem(BASELINES, "control", spy)
    evaluate(fitted, test, baselines=["control"], **FEW)
    evaluate(
        dataclasses.replace(fitted, recipe=fitted.recipe.override(nonnegative=True)), test, baselines=["control"], **FEW
    )
    assert seen == [None, None, 0.0, 0.0]


def rename(data: PerturbationData, **changes) -> PerturbationData:
    return dataclasses.replace(data, **changes)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            lambda d: rename(d, features=("x0", "x1", "x2", "y")),
            {},
            ValueError,
            "lack 1 of the 4 .*: 'x3'",
        ),
        (lambda d: rename(d, perturbations=("p0", "p1", "drug")), {}, KeyError, "not trained on: 'drug'"),
        (lambda d: d.select(["control"]), {}, ValueError, r"no perturbed condition to evaluate.*\['control'\]"),
        (lambda d: d.select([]), {}, ValueError, "no perturbed condition"),
        (lambda d: d, {"baselines": ["addtive"]}, ValueError, "Unknown baseline 'addtive'. Pass some of .*, additive,"),
        (lambda d: d, {"metrics": ["energy"]}, ValueError, "Unknown metric 'energy'.*p_value"),
        (lambda d: d, {"methods": {"additive": print}}, ValueError, "methods names 'additive', which the table has"),
        (lambda d: d, {"methods": {"pdae": print}}, ValueError, "methods names 'pdae'"),
        (lambda d: d, {"splits": ["tests"]}, ValueError, "Unknown split 'tests'"),
        (lambda d: d, {"splits": "test"}, TypeError, r"splits='test' is a string. Pass a list of names, \['test'\]"),
        (lambda d: d, {"num_samples": 1}, ValueError, "num_samples=1"),
    ],
)
def test_bad_input(world, change, options, error, message):
    fitted, test = world
    with pytest.raises(error, match=message):
        evaluate(fitted, change(test), **options)


def test_a_source_can_be_given_per_condition(world):
    """A source given for one condition is used for it, and written down."""
    fitted, test = world
    name = next(c for c, a in zip(test.conditions, test.labels, strict=True) if a.any())
    start = next(c for c in fitted.train.conditions if c != fitted.train.control)
    tables = {
        key: evaluate(fitted, test, source=source, baselines=["additive"], metrics=["mean_l2"], num_samples=100)
        for key, source in (("control", "control"), ("mapped", {name: start}))
    }
    row = {key: table[table["condition"] == name].iloc[0] for key, table in tables.items()}
    assert row["control"]["source"] == "control" and row["mapped"]["source"] == start
    values = {key: table[(table["condition"] == name) & (table["method"] == "pdae")] for key, table in tables.items()}
    assert values["control"]["value"].iloc[0] != values["mapped"]["value"].iloc[0]
