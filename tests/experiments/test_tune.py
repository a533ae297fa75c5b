"""Sweeps by Ray, on one cluster for all tests, and which folders members of a population have."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from ml_collections import ConfigDict

import pdae_jax
from pdae_jax.cli.configs import load_config
from pdae_jax.cli.sweeps import searches, tune
from pdae_jax.cli.sweeps.points import configure, earlier_result, train_point
from pdae_jax.runs.folder import read_config
from tests.experiments.scripts import CONFIG, call, call_process

CLUSTER = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
SPACE = {"fit.learning_rate": ("log", 1e-4, 1e-1), "fit.warmup_steps": ("int", 1, 9), "fit.contrast": [0.5, 1.0]}


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two cores that all sweeps join: to start one takes longer than a sweep.

    Tune cannot send functions to it that pytest has wrapped to check annotations, so its sweeps are processes too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # read when Ray is imported
        ray = pytest.importorskip("ray")
        command = [sys.executable, "-c", CLUSTER]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stdin
            patch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
            yield
            ray.shutdown()
            process.stdin.close()


@pytest.fixture
def population(tmp_path):
    """Makes the population of a sweep, anew as another process would."""
    fit = {"eval_every": 2, "checkpoint_every": 2, "learning_rate": None, "warmup_steps": 1, "contrast": None}
    return lambda: tune.PopulationSearch(tmp_path, SPACE, 2, 0, ConfigDict({"fit": fit}), "tiny.py", "sweep.py")


def write_run(point, saved=True, **provenance):
    """What a fit leaves of a point."""
    fit = {name.removeprefix("fit."): value for name, value in point.settings.items()}
    (point.folder / "checkpoints" / ("8" if saved else "8.tmp")).mkdir(parents=True)
    (point.folder / "config.json").write_text(json.dumps({"config": {"fit": fit, **provenance}}))


def test_a_member_that_goes_on_from_another_begins_a_run(population):
    first, second = population().ask(9)
    assert (first.folder.name, second.folder.name) == ("000-00", "001-00") and first.settings != second.settings
    write_run(first)
    write_run(second)
    sweep = population()
    assert sweep.next_run(first.folder, None) == sweep.next_run(first.folder, first.folder) == (first.folder, None)
    folder, parent = sweep.next_run(first.folder, second.folder)
    assert (folder.name, parent) == ("000-01", second.folder)
    assert earlier_result(first).error == "the member went on from 001-00"

    write_run(sweep.point(folder, second.settings), saved=False)  # killed before it saved what it began with
    again = population()
    assert again.ask(9) == [first, second] and earlier_result(first) is None
    (folder / "checkpoints" / "8").mkdir()
    write_run(sweep.point(folder.with_name("000-10"), second.settings), start_from=str(second.folder))
    last = population().ask(9)[0]
    assert last.folder.name == "000-10" and last.settings == second.settings
    assert population().next_run(last.folder, None) == (last.folder, second.folder)


def test_settings_stay_in_their_ranges():
    settings = {"fit.learning_rate": 0.12, "fit.warmup_steps": 0, "fit.contrast": 0.5}
    assert tune.inside(settings, SPACE) == {"fit.learning_rate": 0.1, "fit.warmup_steps": 1, "fit.contrast": 0.5}


@pytest.mark.parametrize(
    ("name", "values"), [("fit.latent_dim", [2, 4]), ("fit.num_steps", ("int", 10, 20)), ("fit.contrast", [0, 1.0])]
)
def test_what_cannot_change_while_a_fit_trains_is_named(name, values):
    searches.check_values(SPACE)
    with pytest.raises(ValueError, match=rf"get_space\(\) has '{name}'.* in the config"):
        searches.check_values({**SPACE, name: values})


def test_errors_of_a_run_are_read_back(tmp_path):
    lines = [
        {"step": 1},
        {"step": 2, "validation_energy_distance": 0.5},
        {"step": 4, "validation_energy_distance": 0.4},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tune.errors_of(tmp_path, 2) == [(1, 0.5), (2, 0.4)] and tune.errors_of(tmp_path / "none", 2) == []


@pytest.mark.parametrize(("stop_step", "last"), [(None, 10), (6, 6)])
def test_the_last_step_of_a_run_is_known(tmp_path, stop_step, last):
    recipe = {"num_steps": 10, "stop_step": stop_step}
    (tmp_path / "config.json").write_text(json.dumps({"identity": {"recipe": recipe}}))
    assert next(step for step in (2, 6, 10) if tune.is_last(tmp_path, step)) == last


def rates(folder):
    """A config whose space has the learning rate alone."""
    start = CONFIG.index("    return {")
    (folder / "rates.py").write_text(CONFIG[:start] + '    return {"fit.learning_rate": ("log", 1e-4, 1.0)}\n')
    return folder / "rates.py"


@pytest.mark.slow
def test_a_member_goes_on_from_the_state_of_another(tmp_path):
    """What Tune has a poor member do, without Tune, which decides by which process is where at what time."""
    path = rates(tmp_path)
    module = load_config(path)
    config = configure(module.get_config(), {"fit.num_steps": 16})
    sweep = tune.PopulationSearch(tmp_path / "runs", module.get_space(), 2, 0, config, str(path), "sweep.py")
    poor, good = sweep.ask(2)
    for point in (poor, good):
        assert train_point(sweep.config, point, str(path), lambda error, step: step == 8).state == "stopped"
    folder, parent = sweep.next_run(poor.folder, good.folder)
    assert (folder.name, parent) == ("000-01", good.folder)
    point = sweep.point(folder, {"fit.learning_rate": 0.002})
    assert train_point(sweep.config, point, str(path), start_from=parent).state == "finished"
    identity = read_config(folder)["identity"]
    assert identity["start"] == {"hash": read_config(good.folder)["hash"], "step": 8}
    assert identity["recipe"]["learning_rate"] == 0.002 and earlier_result(poor).error.endswith("went on from 001-00")
    fitted = pdae_jax.load_run(folder)
    assert [entry["step"] for entry in fitted.history] == list(range(10, 17, 2))


@pytest.mark.slow
def test_points_run_as_tasks_of_ray(tmp_path, cluster):
    arguments = [f"--config={rates(tmp_path)}", f"--workdir={tmp_path}", "--nowinner"]
    call("sweep.py", *arguments, "--launcher=ray", "--search=optuna", "--points=2", "--at_once=2")
    assert pd.read_csv(tmp_path / "sweep.csv")["state"].tolist() == ["finished"] * 2


@pytest.mark.slow
def test_asha_stops_poor_points_and_remembers_good_ones(tmp_path, cluster):
    arguments = [f"--config={rates(tmp_path)}", f"--workdir={tmp_path / 'runs'}", "--nowinner", "--search=asha"]
    assert "Pass --launcher=ray" in call("sweep.py", *arguments, status=1)
    arguments += ["--launcher=ray", "--config.fit.num_steps=10", "--search_seed=1", "--at_once=1"]
    # rates of 0.01, 0.6, 0.0004 and 0.6
    call_process("sweep.py", *arguments, "--points=1")
    before = (tmp_path / "runs" / "000" / "metrics.jsonl").stat().st_mtime_ns
    call_process("sweep.py", *arguments, "--points=2")
    table = pd.read_csv(tmp_path / "runs" / "sweep.csv", dtype={"folder": str}).set_index("folder")
    assert table["state"].to_dict() == {"000": "finished", "001": "stopped"}
    assert table["error"]["001"] == "stopped after 4 evaluations"
    assert (tmp_path / "runs" / "000" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_population_trains_and_its_best_run_is_the_winner(tmp_path, cluster):
    arguments = ["--launcher=ray", "--search=pbt", "--points=2"]
    arguments += ["--config.fit.num_steps=24", "--config.fit.log_every=3", "--config.fit.eval_every=3"]
    printed = call_process("sweep.py", f"--config={rates(tmp_path)}", f"--workdir={tmp_path / 'runs'}", *arguments)
    table = pd.read_csv(tmp_path / "runs" / "sweep.csv")
    assert table["state"].tolist() == ["finished"] * 2 and table["validation_share"].is_monotonic_increasing
    started = [
        record["identity"]["start"]
        for path in sorted((tmp_path / "runs").glob("*/config.json"))
        if "start" in (record := json.loads(path.read_text()))["identity"]
    ]
    # whether a member goes on from the other depends on which process starts first: then it has a further folder
    further = [path for path in (tmp_path / "runs").glob("00?-*") if not path.name.endswith("-00")]
    assert len(started) == len(further) and all(start["step"] % 12 == 0 for start in started)
    winner = tmp_path / "runs" / table["folder"][0]
    assert f"The winner, {winner.name}, as it is" in printed and (winner / "report.md").exists()
    assert "as it is" in (tmp_path / "runs" / "sweep.md").read_text()
