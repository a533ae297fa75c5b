"""End to end on the smallest world: config -> fit -> run folder, and the folder stands by itself."""

import json
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest

import pdae_jax
from experiments.configs import simulated
from pdae_jax import build
from pdae_jax.evaluation import identification
from pdae_jax.evaluation.baselines import BASELINES
from pdae_jax.evaluation.metrics import METRICS
from pdae_jax.reporting import results
from pdae_jax.reporting.report import VERDICTS
from pdae_jax.runs import folder

FILES = {"config.json", "environment.json", "metrics.jsonl", "report.md"}
FILES |= {"evaluation.csv", "identification.csv", "predictions.h5ad", "extremes.csv", "residual_laws.csv"}
pytestmark = pytest.mark.slow  # a run is trained and evaluated for them

COLUMNS = ["condition", "split", "method", "metric", "value", "n_true", "n_pred", "seed"]
COMMAND = "python experiments/run.py --config=experiments/configs/simulated.py:smoke"


def run(workdir):
    """What experiments/run.py does, on fewer conditions and steps."""
    config = simulated.get_config("smoke")
    config.data.update(latent_dim=2, observed_dim=4, num_perturbations=3, cells_per_condition=60)
    config.data.labels = ("p0", "p1", "p2", "p0+p1", "p1+p2", "p0+p2")
    config.split.validation, config.split.test = ("p1+p2",), ("p0+p2",)
    config.fit.update(num_steps=4, log_every=2, eval_every=2, checkpoint_every=2, hidden=(8,), latent_dim=2)
    config.evaluation.update(num_samples=50, most_in_sample=20)
    with config.evaluation.ignore_type():
        config.evaluation.source = {"p0+p2": "p0", "p1+p2": "p1"}
    experiment = build.experiment(config)
    fitted = pdae_jax.fit(
        experiment.train,
        key=experiment.key,
        validation=experiment.validation,
        source=experiment.source,
        recipe=experiment.recipe,
        workdir=workdir,
        config={"command": COMMAND, **config.to_dict()},
    )
    results.save_test(workdir, experiment.test)
    identification.save_truth(workdir / folder.TRUTH_FILE, experiment.truth)
    return fitted, results.write_results(workdir, **experiment.evaluation)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    fitted, summary = run(workdir)
    return workdir, fitted, summary


def test_the_folder_holds_what_the_contract_says(finished):
    workdir, *_ = finished
    assert {path.name for path in workdir.iterdir() if path.is_file()} == FILES
    assert {path.name for path in workdir.iterdir() if path.is_dir()} == {"checkpoints", "data", "figures"}
    for path in (*workdir.glob("*.*"), *workdir.glob("figures/*"), *workdir.glob("data/*")):
        assert path.stat().st_size > 0, path
    assert [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()] == [2, 4]
    assert json.loads((workdir / "config.json").read_text())["config"]["split"]["test"] == ["p0+p2"]


def test_the_evaluation_is_one_long_table(finished):
    workdir, *_ = finished
    table = pd.read_csv(workdir / "evaluation.csv")
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert set(table["method"]) == {"pdae", "oracle_half", *BASELINES} - {"ridge_additive"}
    assert set(table["metric"]) == set(METRICS)
    splits = {split: sorted(set(rows["condition"])) for split, rows in table.groupby("split")}
    assert splits == {"test": ["p0+p2"], "validation": ["p1+p2"], "train": ["p0", "p0+p1", "p1", "p2"]}
    sources = dict(zip(table["condition"], table["source"], strict=True))
    assert sources["p0+p2"] == "p0" and sources["p1+p2"] == "p1" and sources["p0"] == "control"
    assert (table["n_true"] <= 60).all() and (table["n_pred"] <= 50).all()


def test_predictions_open_as_anndata(finished):
    workdir, *_ = finished
    adata = anndata.read_h5ad(workdir / "predictions.h5ad")
    assert adata.shape == (60, 4)  # as many as were measured
    assert list(adata.var_names) == ["x0", "x1", "x2", "x3"]
    assert adata.obs["condition"].tolist() == ["p0+p2"] * 60
    assert adata.obs["source"].tolist() == ["p0"] * 60
    assert np.isfinite(adata.X).all()


def test_the_report_shows_verdicts_figures_and_the_command(finished):
    workdir, _, summary = finished
    report = (workdir / "report.md").read_text()
    table = pd.read_csv(workdir / "evaluation.csv")
    for condition, verdict in set(zip(table["condition"], table["verdict"], strict=True)):
        line = next(line for line in report.splitlines() if line.startswith(f"| {condition} |"))
        assert verdict in VERDICTS and f"| {verdict} |" in line
    figures = sorted(path.name for path in (workdir / "figures").glob("*.png"))
    assert figures and all(f"](figures/{name})" in report for name in figures)
    assert summary in report and COMMAND in report


def test_without_held_out_conditions_the_report_says_so(finished, tmp_path):
    workdir, *_ = finished
    alone = shutil.copytree(workdir, tmp_path / "alone")
    (alone / folder.TEST_FILE).unlink()
    with pytest.raises(FileNotFoundError):  # they were there: nothing is written over what they said
        results.write_results(alone)
    for name in ("evaluation.csv", "predictions.h5ad", "extremes.csv"):
        (alone / name).unlink()
    summary = results.write_results(alone, baselines=("additive",), metrics=("energy_distance",), most_in_sample=2)
    report = (alone / "report.md").read_text()
    assert "Nothing was held out" in report and "## Held-out conditions" not in report
    assert summary.startswith("Nothing was held out for the test: these are the validation conditions.\n")
    assert summary.partition("\n")[2] in report and "## Validation conditions" in report
    assert not (alone / "predictions.h5ad").exists()


@pytest.mark.slow
def test_all_is_redone_from_the_folder_alone(finished, tmp_path):
    workdir, *_ = finished
    moved = tmp_path / "moved"
    shutil.copytree(workdir, moved)
    for name in ("evaluation.csv", "predictions.h5ad", "report.md"):
        (moved / name).unlink()
    shutil.rmtree(moved / "figures")
    options = json.loads((moved / "config.json").read_text())["config"]["evaluation"]
    results.write_results(moved, **options)
    assert (moved / "evaluation.csv").read_bytes() == (workdir / "evaluation.csv").read_bytes()
    for figure in (workdir / "figures").iterdir():
        assert (moved / "figures" / figure.name).stat().st_size > 0
    first, second = (anndata.read_h5ad(path / "predictions.h5ad").X for path in (workdir, moved))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.slow
def test_comparators_are_trained_for_the_table_and_the_model_keeps_its_numbers(finished, tmp_path):
    workdir, *_ = finished
    moved = tmp_path / "moved"
    shutil.copytree(workdir, moved)
    options = json.loads((moved / "config.json").read_text())["config"]["evaluation"]
    before = results.read_evaluation(moved)
    printed = results.write_results(moved, **(options | {"comparators": ["compositional_with_source_label"]}))
    after = results.read_evaluation(moved)
    assert (
        set(after["method"]) - set(before["method"]) == {"compositional_with_source_label"}
        and "compositional_with_source_label" in printed
    )
    pd.testing.assert_frame_equal(
        after[after["method"] != "compositional_with_source_label"].reset_index(drop=True), before
    )
    assert np.isfinite(
        after.query("method == 'compositional_with_source_label' and metric == 'energy_distance'")["value"]
    ).all()


def test_a_finished_run_repeated_ends_with_the_same_numbers(finished):
    workdir, _, summary = finished
    before = {name: (workdir / name).read_bytes() for name in FILES - {"predictions.h5ad"}}
    assert run(workdir)[1] == summary
    assert before == {name: (workdir / name).read_bytes() for name in before}


def test_the_loaded_run_was_tested_on_the_same_cells(finished):
    workdir, fitted, _ = finished
    assert fitted.validation_errors == pdae_jax.load_run(workdir).validation_errors
    assert list(fitted.validation_errors) == ["p1+p2"]


def test_a_folder_without_test_data_says_so(finished, tmp_path):
    workdir, *_ = finished
    moved = tmp_path / "moved"
    shutil.copytree(workdir, moved)
    (moved / "data" / "test.npz").unlink()
    before = (moved / "evaluation.csv").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"test\.npz"):
        results.write_results(moved)
    assert (moved / "evaluation.csv").read_bytes() == before
    assert pdae_jax.load_run(moved).train.num_conditions == 5
