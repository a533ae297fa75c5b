"""Whatever happens to a process or to its disk, a run folder stays good, and goes on as if nothing had happened."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.runs import folder
from pdae_jax.runs.files import append_line, read_arrays, write_arrays, write_text
from pdae_jax.runs.folder import RunFolder
from pdae_jax.runs.track import read_metrics
from pdae_jax.training.resume import STOPPED, told_to_stop

KEY = jax.random.key(0)
SMALL = {
    "latent_dim": 2,
    "num_steps": 40,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint_every": 20,
    "hidden": (8,),
    "cells_per_source": 8,
    "cells_per_target": 8,
}


@pytest.fixture(scope="module")
def train():
    labels = ["p0", "p1", "p0+p1"]
    return pdae_jax.simulate(
        KEY, latent_dim=2, observed_dim=3, num_perturbations=2, labels=labels, cells_per_condition=60
    ).data


def run_folder(path, identity):
    x = np.arange(8.0).reshape(4, 2)
    data = pdae_jax.from_arrays(x, conditions=["control", "control", "p0", "p0"], control="control")
    return RunFolder(path, identity, {}, data, None)


def test_two_runs_cannot_work_in_one_folder(tmp_path):
    first = run_folder(tmp_path / "run", {"a": 1})
    with pytest.raises(RuntimeError, match="Another process works in"):
        run_folder(tmp_path / "run", {"a": 1})
    code = f"""
        import pathlib
        from pdae_jax.runs.folder import Lock
        try:
            Lock(pathlib.Path({str(tmp_path / "run")!r}))
        except RuntimeError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "Another process works in" in done.stdout
    first.close()
    first.close()
    run_folder(tmp_path / "run", {"a": 1}).close()


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path):
    code = f"""
        import pathlib, time
        from pdae_jax.runs.folder import Lock
        held = Lock(pathlib.Path({str(tmp_path)!r}))
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError):
            folder.Lock(tmp_path)
        process.kill()
    folder.Lock(tmp_path).release()


def test_a_refused_run_leaves_the_folder_free(tmp_path):
    run_folder(tmp_path / "run", {"a": 1}).close()
    with pytest.raises(ValueError, match="holds another run"):
        run_folder(tmp_path / "run", {"a": 2})
    run_folder(tmp_path / "run", {"a": 1}).close()


@pytest.mark.parametrize(("version", "age"), [(folder.FORMAT + 1, "a newer"), (0, "an older")])
def test_a_folder_of_another_version_is_refused_and_stays(tmp_path, version, age):
    run_folder(tmp_path / "run", {"a": 1}).close()
    file = tmp_path / "run" / folder.CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": version}))
    before = file.read_bytes()
    for read in (lambda: run_folder(tmp_path / "run", {"a": 1}), lambda: pdae_jax.load_run(tmp_path / "run")):
        with pytest.raises(ValueError, match=rf"{age} version of pdae_jax \(format {version}"):
            read()
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=r"run' cannot be written to: Permission denied. Pass another"):
        run_folder(tmp_path / "run", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file/run' cannot be written to"):
        run_folder(tmp_path / "file" / "run", {})


def test_a_file_that_cannot_be_written_stays_as_it_is(tmp_path):
    """The system refuses more than a thousand bytes, as it does where a disk or a quota is full."""
    file, arrays, lines = (tmp_path / name for name in ("config.json", "train.npz", "metrics.jsonl"))
    write_text(file, "before")
    write_arrays(arrays, {"x": np.zeros(3)})
    append_line(lines, "{}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        for write, path in (
            (lambda: write_text(file, "a" * 2000), file),
            (lambda: write_arrays(arrays, {"x": np.zeros(500)}), arrays),
            (lambda: append_line(lines, "a" * 2000), lines),
        ):
            with pytest.raises(OSError, match=rf"{path.name} could not be written: File too large\. Make room"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.iterdir()) == sorted([file, arrays, lines])
    assert file.read_text() == "before" and len(read_arrays(arrays)["x"]) == 3
    assert read_metrics(lines) == [{}]  # what was cut off is left out


def test_reading_a_run_leaves_its_folder_as_it_is(train, tmp_path):
    run_folder(tmp_path / "run", {"key": [0, 0], "recipe": {}}).close()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        folder.Checkpoints(tmp_path / "run" / folder.CHECKPOINT_FOLDER, read_only=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_full_disk_loses_no_checkpoint(train, tmp_path, monkeypatch):
    whole = pdae_jax.fit(train, key=KEY, **SMALL)
    real, saved = folder.Checkpoints.save, []

    def full(self, step, state):
        if step > 20:
            monkeypatch.setattr(self._manager, "save", _raises)
        saved.append(step)
        real(self, step, state)

    def _raises(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder.Checkpoints, "save", full)
        with pytest.raises(OSError, match=r"step 40 could not be.*No space left.*That of step 20 is kept.*Make room"):
            pdae_jax.fit(train, key=KEY, workdir=tmp_path / "run", **SMALL)
    resumed = pdae_jax.fit(train, key=KEY, workdir=tmp_path / "run", **SMALL)
    assert saved == [20, 40]
    for left, right in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.usefixtures("plain_signals")
def test_ctrl_c_and_sigterm_are_heard_and_a_second_ctrl_c_ends_at_once():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with told_to_stop(saves=True) as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"saved step 20 in runs/a\. The same call goes on from there"):
        stop.end("step 20 in runs/a")
    with told_to_stop(saves=True) as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        stop.end("step 20 in runs/a")
    assert ended.value.code == STOPPED
    with told_to_stop(saves=False) as stop, pytest.raises(KeyboardInterrupt):  # nothing is kept: why wait
        signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_handler_of_somebody_else_stays():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with told_to_stop(saves=True) as stop:
            signal.raise_signal(signal.SIGINT)
        assert heard == [1] and not stop.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


class Sends:
    """A signal, to a fit in its second chunk."""

    def __init__(self, number):
        self.number = number

    def update(self, step, num_steps, loss):
        if step == 10:
            signal.raise_signal(self.number)

    def close(self):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("plain_signals")
@pytest.mark.parametrize(
    ("population", "number"), [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGINT)]
)
def test_a_signal_saves_and_ends_with_its_status(train, tmp_path, population, number):
    def run(**options):
        if population:
            return pdae_jax.fit_population(train, [{}, {"learning_rate": 1e-3}], key=KEY, **SMALL, **options).members
        return [pdae_jax.fit(train, key=KEY, **SMALL, **options)]

    whole, before = run(), signal.getsignal(number)
    ending, said = (SystemExit, "143") if number == signal.SIGTERM else (KeyboardInterrupt, "saved step 20 in .*/run")
    with pytest.raises(ending, match=said):
        run(workdir=tmp_path / "run", progress=Sends(number))
    assert STOPPED == 143 and signal.getsignal(number) == before
    first = tmp_path / "run" / "000" if population else tmp_path / "run"
    assert max(int(p.name) for p in (first / "checkpoints").iterdir() if p.name.isdigit()) in (10, 20)
    for left, right in zip(whole, run(workdir=tmp_path / "run"), strict=True):
        for a, b in zip(jax.tree.leaves(left.params), jax.tree.leaves(right.params), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_script_that_is_told_to_stop_says_so_by_its_status(tmp_path):
    command = [sys.executable, "experiments/run.py", "--config=experiments/configs/simulated.py:smoke"]
    options = ["--config.fit.num_steps=100000", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / folder.METRICS_FILE
    while not metrics.exists() and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == STOPPED
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()) == steps[-1]
