"""Sweeps by other launchers and searches, and processes that are killed."""

import json
import os
import subprocess
import sys
import types

import pandas as pd
import pytest

import pdae_jax
from experiments.lab import faults
from pdae_jax.cli.configs import load_config
from pdae_jax.cli.sweeps import launchers, points
from pdae_jax.cli.sweeps.points import Point, Result, save_result, train_point
from pdae_jax.runs.folder import Lock
from tests.experiments.scripts import CONFIG, call

pytestmark = pytest.mark.slow


def tiny(folder):
    (folder / "tiny.py").write_text(CONFIG)
    return folder / "tiny.py"


def test_a_point_that_fails_is_recorded_and_the_others_go_on(tmp_path):
    text = CONFIG.replace('"fit.latent_dim": 1}', '"fit.learning_rate": float("inf")}')
    text = text.replace("def get_space", '    yield {"fit.beta": 2.5}\n\ndef get_space')
    (tmp_path / "failing.py").write_text(text)
    arguments = [f"--config={tmp_path / 'failing.py'}", f"--workdir={tmp_path / 'runs'}", "--nowinner"]
    for launcher in ("inline", "population"):  # what failed is tried again, whatever it left
        call("sweep.py", *arguments, f"--launcher={launcher}")
        table = pd.read_csv(tmp_path / "runs" / "sweep.csv")
        assert table["state"].tolist() == ["finished", "failed", "failed"]
        assert sum("learning_rate" in text for text in table["error"][1:]) == 1
        assert sum("beta=2.5" in text for text in table["error"][1:]) == 1
    seen = call("watch.py", f"--workdir={tmp_path / 'runs'}", "--once")  # one of them failed before it had a folder
    assert seen.startswith("1 finished, 2 failed\n") and "beta=2.5" in seen


def test_a_point_that_another_process_trains_is_waited_for(tmp_path, monkeypatch):
    config = load_config(tiny(tmp_path)).get_config()
    point = Point({}, tmp_path / "000", "run")
    point.folder.mkdir()
    other, waited = Lock(point.folder), []

    def ends(seconds):
        waited.append(seconds)
        save_result(point, Result(0.5, 1.0, 2, "finished"))
        other.release()

    monkeypatch.setattr(points.time, "sleep", ends)
    assert train_point(config, point, "tiny.py").score == 0.5 and len(waited) == 1
    assert list(launchers.population([point], config, "tiny.py")) == [(point, Result(0.5, 1.0, 2, "finished"))]


def test_a_damaged_point_is_recorded(tmp_path):
    config, point = load_config(tiny(tmp_path)).get_config(), Point({}, tmp_path / "000", "run")
    point.folder.mkdir()
    (point.folder / "metrics.jsonl").write_text("half a li\n{}\n")
    found = train_point(config, point, "tiny.py")
    assert found.state == "failed" and "metrics.jsonl is damaged" in found.error


def test_a_second_sweep_in_a_folder_is_refused(tmp_path):
    lock = Lock(tmp_path)
    printed = call("sweep.py", f"--config={tiny(tmp_path)}", f"--workdir={tmp_path}", status=1)
    assert "Another process works in the folder" in printed
    lock.release()


def test_a_search_of_a_space_goes_on_where_it_was_broken_off(tmp_path):
    pytest.importorskip("optuna")
    arguments = [f"--config={tiny(tmp_path)}", f"--workdir={tmp_path}", "--nowinner", "--search=optuna"]
    call("sweep.py", *arguments, "--points=1")
    first = pd.read_csv(tmp_path / "sweep.csv")
    # points are single fits, and the winner is an ensemble
    arguments = [each for each in arguments if each != "--nowinner"] + ["--config.replicas=2"]
    call("sweep.py", *arguments, "--points=3", "--launcher=population")
    assert len(pdae_jax.load_ensemble(tmp_path / "winner").replicas) == 2
    assert (tmp_path / "winner" / "report.md").exists()
    table = pd.read_csv(tmp_path / "sweep.csv")
    assert len(first) == 1 and len(table) == 3 and set(first["folder"]) < set(table["folder"])
    assert table["fit.learning_rate"].between(1e-3, 1e-1).all() and table["fit.latent_dim"].isin([1, 2]).all()
    assert table["fit.learning_rate"].nunique() == 3
    report = (tmp_path / "sweep.md").read_text()
    assert "What mattered" in report and (tmp_path / "figures" / "parallel.png").stat().st_size > 5000


def test_jobs_of_slurm_are_written_and_run(tmp_path):
    pytest.importorskip("submitit")
    arguments = [f"--config={tiny(tmp_path)}", "--nowinner", "--launcher=slurm", "--config.fit.num_steps=4"]
    printed = call("sweep.py", *arguments, f"--workdir={tmp_path / 'dry'}", "--slurm_partition=gpu", "--dry_run")
    script = (tmp_path / "dry" / "slurm" / "sweep.sbatch").read_text()
    assert "--array=1-2" in script and "--partition=gpu" in script and "sbatch" in printed
    # a job of the array, as Slurm runs it: the line of the file of commands with its number
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "2", "JAX_PLATFORMS": "cpu"}
    subprocess.run(["bash", tmp_path / "dry" / "slurm" / "sweep.sbatch"], check=True, env=environment)
    call("sweep.py", *arguments, f"--workdir={tmp_path / 'local'}", "--slurm_cluster=local")
    table = pd.read_csv(tmp_path / "local" / "sweep.csv")
    assert table["state"].tolist() == ["finished"] * 2
    own = json.loads((tmp_path / "dry" / "fit.latent_dim=2" / "sweep_point.json").read_text())
    assert own["score"] == pytest.approx(float(table.loc[table["fit.latent_dim"] == 2, "validation_share"].iloc[0]))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    def init(**_):
        raise ConnectionError("Failed to connect")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init, is_initialized=lambda: False))
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ConnectionError, match=r"at RAY_ADDRESS=head:6379\..*`ray status`.*RAY_AUTH_MODE"):
        launchers.start_ray()


def test_a_killed_run_ends_as_the_unbroken_one(tmp_path):
    """A short form of ``make test-faults``: one run is killed as soon as it is in set-up, and again as it trains."""
    (tmp_path / "tiny.py").write_text(faults.CONFIG_TEXT)
    at_once = types.SimpleNamespace(random=lambda: 0.0)
    arguments = [f"--config={tmp_path / 'tiny.py'}", f"--workdir={tmp_path / 'killed'}"]
    command = [sys.executable, "experiments/run.py", *arguments]
    for moment in ("set-up", "steps"):
        assert faults.kill_at(command, dict(os.environ), tmp_path / "killed", faults.MOMENTS[moment], at_once), moment
    call("run.py", *arguments)
    call("run.py", arguments[0], f"--workdir={tmp_path / 'whole'}")
    assert faults.same_bits(tmp_path / "whole", tmp_path / "killed", "run")
