"""What lies in a run folder and is not of the run: parts of other runs are named, files of others stay as they are."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

import pdae_jax
from pdae_jax.evaluation.identification import truth_of
from pdae_jax.reporting import results
from pdae_jax.runs import folder
from pdae_jax.runs.files import append_line, write_arrays, write_text
from pdae_jax.runs.folder import RunFolder
from pdae_jax.training.load import load_model, read_record

KEY = jax.random.key(0)
OPTIONS = {"latent_dim": 2, "hidden": (4,), "components": 3, "stop_step": 0, "progress": False}


def world(seed):
    return pdae_jax.simulate(
        jax.random.key(seed), latent_dim=2, observed_dim=4, num_perturbations=2, labels=["p0", "p1", "p0+p1"],
        cells_per_condition=40, mixing="linear", noise="gaussian",
    )  # fmt: skip


def made(path, seed, **changes):
    """A run with all that may belong to it."""
    simulation = world(seed)
    train, test = pdae_jax.hold_out(simulation.data, ["p0+p1"])
    pdae_jax.fit_ensemble(train, key=KEY, num_replicas=2, workdir=path, **{**OPTIONS, **changes})
    results.save_test(path, test)
    results.save_truth(path, truth_of(simulation))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    return made(path / "one", 1), made(path / "other", 2)


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs[0], tmp_path / "run")


def read(run):
    """All doors to a run: the model, the held-out conditions, the truth."""
    fitted = load_model(run)
    results.load_test(run)
    results.write_identification(run, fitted.replicas[0])


def test_a_run_of_its_own_parts_is_read(run):
    read(run)


PARTS = (
    "data/train.npz",
    "data/test.npz",
    "data/truth.npz",
    "data/components.npz",
    "replicas/001/data/components.npz",
    "replicas/001/checkpoints",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_another_run_is_named(run, runs, part):
    if (run / part).is_dir():
        shutil.rmtree(run / part)
        shutil.copytree(runs[1] / part, run / part)
    else:
        (run / part).unlink()  # it may be a link of several runs
        shutil.copy(runs[1] / part, run / part)
    with pytest.raises(ValueError, match=rf"{part.split('/')[-1]}.* (another|does not belong).*workdir"):
        read(run)


def test_a_run_does_not_go_on_with_the_data_of_another(run, runs):
    path = run / "replicas" / "000"
    record = read_record(path)
    (path / "data" / "train.npz").unlink()
    shutil.copy(runs[1] / "data" / "train.npz", path / "data" / "train.npz")
    with pytest.raises(ValueError, match=r"train.npz does not belong to the run"):
        pdae_jax.fit(record.train, key=record.key, workdir=path, **OPTIONS)


@pytest.mark.parametrize("source", ["replicas/000", "other run"])
def test_a_replica_of_another_place_is_named(run, runs, source):
    shutil.rmtree(run / "replicas" / "001")
    shutil.copytree(run / source if source != "other run" else runs[1] / "replicas" / "001", run / "replicas" / "001")
    with pytest.raises(ValueError, match=r"replicas/001.*(does not hold replica 1.*its key differs|does not belong)"):
        read(run)


@pytest.mark.parametrize("name", ["latent_dim", "average_decay"])
def test_an_edited_recipe_is_named(run, name):
    file = run / "replicas" / "000" / folder.CONFIG_FILE
    record = json.loads(file.read_text())
    record["identity"]["recipe"][name] = 1
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"replicas/000/config.json was changed.*Put the file back"):
        read(run)
    with pytest.raises(ValueError, match="was changed"):
        pdae_jax.load_run(run / "replicas" / "000")


def test_folders_of_earlier_versions_have_no_checksums_of_parts(run):
    for file in (run / "config.json", *run.glob("replicas/*/config.json")):
        record = json.loads(file.read_text())
        record.pop("parts", None)
        file.write_text(json.dumps(record))
    read(run)


def run_folder(path, identity=None):
    x = np.arange(8.0).reshape(4, 2)
    data = pdae_jax.from_arrays(x, conditions=["control", "control", "p0", "p0"], control="control")
    return RunFolder(path, identity or {"a": 1}, {}, data, None)


@pytest.mark.parametrize("file", ["choice/thesis.txt", "choice/0/thesis.txt", "environment.json", "config.json"])
def test_a_folder_with_files_of_the_user_is_refused(tmp_path, file):
    path = tmp_path / "run" / file
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "conda"}')
    with pytest.raises(ValueError, match=r"(is not empty|was not written by pdae_jax).*workdir"):
        run_folder(tmp_path / "run")
    assert [p for p in (tmp_path / "run").rglob("*") if p.is_file()] == [path]
    assert path.read_text() == '{"name": "conda"}'


def test_what_chose_the_last_step_goes_and_nothing_else(tmp_path):
    fold, own = tmp_path / "run" / "choice" / "0", tmp_path / "run" / "choice" / "1"
    for path in (fold, own):
        run_folder(path).close()
        (path / "checkpoints" / "20").mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    (tmp_path / "run" / ".config.json.partial").write_text("of a process that was killed")
    (tmp_path / "run" / ".environment.json.0123abcd.partial").write_text("of another")
    run_folder(tmp_path / "run").close()
    left = sorted(str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*"))
    assert left == [
        *("choice", "choice/1", "choice/1/notes.txt", "config.json", "data", "data/train.npz", "environment.json")
    ]


def test_links_are_not_followed(tmp_path):
    """What somebody else's folder leads to is never written to."""
    target = tmp_path / "precious"
    target.write_text("mine")
    for name in ("config.json", "train.npz"):
        (tmp_path / f".{name}.partial").symlink_to(target)
        (tmp_path / name).symlink_to(target)
    write_text(tmp_path / "config.json", "{}")
    write_arrays(tmp_path / "train.npz", {"x": np.zeros(2)})
    assert not (tmp_path / "config.json").is_symlink() and (tmp_path / "config.json").read_text() == "{}"
    (tmp_path / "metrics.jsonl").symlink_to(target)
    with pytest.raises(OSError, match=r"metrics.jsonl is a link, which is not followed"):
        append_line(tmp_path / "metrics.jsonl", "{}")
    assert target.read_text() == "mine"
    assert os.stat(tmp_path / "config.json").st_mode & 0o777 == os.stat(target).st_mode & 0o777


@pytest.mark.parametrize("name", ["checkpoints", "data", "figures", "choice"])
def test_folders_that_are_links_are_refused(tmp_path, name):
    run_folder(tmp_path / "run").close()
    if (tmp_path / "run" / name).exists():
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name} is a link to .*elsewhere.*another workdir"):
        run_folder(tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_held_exception_keeps_no_lock(runs, tmp_path):
    """As in a notebook, which keeps the last one."""
    path = shutil.copytree(runs[0] / "replicas" / "000", tmp_path / "run")
    record, held = read_record(path), []
    (path / "metrics.jsonl").write_text("damaged\n{}\n")
    for change in ({}, {"latent_dim": 1}):
        with pytest.raises(ValueError, match=r"metrics.jsonl is damaged|holds another run") as error:
            pdae_jax.fit(record.train, key=record.key, workdir=path, **{**OPTIONS, **change})
        held.append(error)
    folder.Lock(path).release()


def test_results_of_the_user_are_not_replaced(run):
    (run / "report.md").write_text("# My report\n")
    with pytest.raises(FileExistsError, match=r"report.md was not written by pdae_jax.*Move it"):
        results.write_results(run)
    assert (run / "report.md").read_text() == "# My report\n"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A run whose cells stay in files, and its data."""
    import anndata

    path, data = tmp_path_factory.mktemp("stored"), world(1).data
    names = np.array(data.conditions)[data.condition_index]
    adata = anndata.AnnData(np.asarray(data.x), obs={"condition": names})
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(len(names))], list(data.features)
    adata.write_h5ad(path / "cells.h5ad")
    options = {"condition": "condition", "control": "control"}
    found = pdae_jax.from_anndata(path / "cells.h5ad", store=path / "store", **options)
    pdae_jax.fit(found, key=KEY, workdir=path / "run", **{**OPTIONS, "components": None})
    other = anndata.AnnData(np.asarray(data.x) + 1, obs=adata.obs, var=adata.var)
    other.write_h5ad(path / "other.h5ad")
    pdae_jax.from_anndata(path / "other.h5ad", store=path / "other", **options)
    return path


def test_a_run_is_read_where_its_cells_have_been_moved(stored, tmp_path):
    before = pdae_jax.load_run(stored / "run")
    (stored / "store").rename(tmp_path / "moved")
    try:
        with pytest.raises(FileNotFoundError, match=r"not in .*store.*pass store=<where it is now>"):
            pdae_jax.load_run(stored / "run")
        found = pdae_jax.load_run(stored / "run", store=tmp_path / "moved")
        np.testing.assert_array_equal(found.train.x[:10], before.train.x[:10])
        np.testing.assert_array_equal(found.shift_matrix, before.shift_matrix)
        assert str(found.train.x.folder) == str(tmp_path / "moved")
        with pytest.raises(ValueError, match="holds other cells"):
            pdae_jax.load_run(stored / "run", store=stored / "other")
    finally:
        (tmp_path / "moved").rename(stored / "store")


def test_a_place_for_cells_that_lie_in_the_run_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"store=.*in its own folder. Leave store out"):
        pdae_jax.load_ensemble(run, store=tmp_path)
