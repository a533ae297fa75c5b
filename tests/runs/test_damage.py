"""Damaged run folders: the previous good checkpoint where there is one, else the file is named."""

import json
import shutil

import jax
import numpy as np
import pytest

import pdae_jax

KEY = jax.random.key(0)
OPTIONS = {"latent_dim": 2, "hidden": (4,), "num_steps": 40, "log_every": 10, "eval_every": 10, "checkpoint_every": 20}


@pytest.fixture(scope="module")
def data():
    return pdae_jax.simulate(
        jax.random.key(1), latent_dim=2, observed_dim=3, num_perturbations=2, labels=["p0", "p1"],
        cells_per_condition=60, mixing="linear",
    ).data  # fmt: skip


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return pdae_jax.fit(data, key=KEY, workdir=path, progress=False, **OPTIONS), path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path / "run")


def cut(path):
    """Half of a file is lost."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def damage_checkpoint(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        cut(path)


@pytest.mark.parametrize("name", ["data/train.npz", "config.json"])
def test_the_damaged_file_is_named(run, name):
    cut(run / name)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        pdae_jax.load_run(run)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 2}', "\0"])
def test_a_config_with_other_content_is_named(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        pdae_jax.load_run(run)


def test_data_without_a_part_are_named(run):
    np.savez(run / "data" / "train.npz", x=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"train.npz is damaged"):
        pdae_jax.load_run(run)


def test_a_damaged_line_of_the_metrics_is_named(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0][:10], *lines[1:]]))
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged"):
        pdae_jax.load_run(run)


def test_without_metrics_the_model_is_there(run, finished):
    (run / "metrics.jsonl").unlink()
    loaded = pdae_jax.load_run(run)
    np.testing.assert_array_equal(loaded.shift_matrix, finished[0].shift_matrix)


@pytest.mark.slow
def test_the_previous_checkpoint_is_used_and_a_resumed_run_ends_the_same(run, finished, data):
    fitted = finished[0]
    damage_checkpoint(run / "checkpoints" / "40")
    loaded = pdae_jax.load_run(run)
    assert loaded.history[-1]["step"] == 20
    assert (run / "checkpoints" / "40").exists()  # the folder was only read
    resumed = pdae_jax.fit(data, key=KEY, workdir=run, progress=False, **OPTIONS)
    for here, there in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(fitted.params), strict=True):
        np.testing.assert_array_equal(here, there)
    assert list((run / "damaged" / "40.0").rglob("*"))  # put aside, not lost
    again = pdae_jax.load_run(run)
    assert again.history[-1]["step"] == 40
    np.testing.assert_array_equal(again.shift_matrix, fitted.shift_matrix)


def test_no_good_checkpoint_is_an_error_with_the_folder(run):
    for step in ("20", "40"):
        damage_checkpoint(run / "checkpoints" / step)
    with pytest.raises(ValueError, match=r"No checkpoint in .*checkpoints can be read"):
        pdae_jax.load_run(run)
    assert json.loads((run / "config.json").read_text())
