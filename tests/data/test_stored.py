"""Cells in files: they read as an array does, training on them gives the same numbers, and nothing is overwritten."""

import json
import os
import pickle
import shutil
import warnings

import anndata
import h5py
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import pdae_jax
from pdae_jax import cells, from_anndata
from pdae_jax.cells import StoredCells
from pdae_jax.data.own_data import own_data
from pdae_jax.data.stored import content_of
from pdae_jax.evaluation.compositional import fit_compositional

CELLS, GENES = 600, 12
NAMES = np.array(["ctrl", "A", "B", "C", "A+B", "B+C"])


def counts_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts with few expressed genes, and the condition of each cell."""
    random = np.random.default_rng(seed)
    conditions = NAMES[random.integers(len(NAMES), size=CELLS)]
    rate = np.exp(random.normal(size=GENES) - 2) * (1 + np.char.count(conditions, "A")[:, None] * np.arange(GENES) / 4)
    counts = random.poisson(rate * random.lognormal(size=(CELLS, 1)) * 3).astype(np.float32)
    counts[:, 0] += 1  # no empty cell
    return counts, conditions


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same counts as .h5ad, compressed, as .zarr, and dense."""
    counts, conditions = counts_of()
    obs = pd.DataFrame({"condition": conditions}, index=pd.Index([f"c{i}" for i in range(CELLS)]))
    var = pd.DataFrame(index=pd.Index([f"g{i}" for i in range(GENES)]))
    folder = tmp_path_factory.mktemp("files")
    sparse = anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs, var=var)
    sparse.write_h5ad(folder / "sparse.h5ad", compression="gzip")
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of the format that anndata will write later
        sparse.write_zarr(folder / "sparse.zarr")
    anndata.AnnData(counts + 0.5, obs=obs, var=var).write_h5ad(folder / "dense.h5ad")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several parts and blocks of so few cells."""
    for module in (cells, pdae_jax.data.stored):
        monkeypatch.setattr(module, "PART_ROWS", 256)
        monkeypatch.setattr(module, "BLOCK_ROWS", 64)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("sparse.h5ad", {"normalize": True}),
        ("sparse.zarr", {"normalize": True, "features": ["g3", "g0", "g7"]}),
        ("sparse.h5ad", {"min_cells": 95}),
        ("dense.h5ad", {}),
    ],
)
def test_stored_cells_are_those_in_memory(written, tmp_path, file, options):
    inside = from_anndata(written / file, control="ctrl", **options)
    stored = from_anndata(written / file, control="ctrl", store=tmp_path / "cells", **options)
    assert isinstance(stored.x, StoredCells)
    assert (stored.conditions, stored.features) == (inside.conditions, inside.features)
    np.testing.assert_array_equal(stored.x[:], inside.x)
    if inside.size_factors is not None:
        np.testing.assert_array_equal(stored.size_factors, inside.size_factors)
    some = np.random.default_rng(0).integers(inside.num_cells, size=300)  # any order, some twice
    np.testing.assert_array_equal(stored.x[some], inside.x[some])
    np.testing.assert_array_equal(stored.cells("B+A"), inside.cells("A+B"))
    np.testing.assert_array_equal(np.concatenate(list(stored.blocks())), inside.x)
    rest, held = pdae_jax.hold_out(stored, ["A+B"])
    np.testing.assert_array_equal(held.x[:], inside.cells("A+B"))
    np.testing.assert_array_equal(rest.cells("C"), inside.cells("C"))


def test_the_same_folder_serves_again_and_no_other_cells(written, tmp_path):
    options = {"control": "ctrl", "store": tmp_path / "cells", "normalize": True}
    from_anndata(written / "sparse.h5ad", **options)
    made = (tmp_path / "cells" / cells.MANIFEST_FILE).stat().st_mtime_ns
    from_anndata(written / "sparse.h5ad", **options)
    assert (tmp_path / "cells" / cells.MANIFEST_FILE).stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="holds other cells: normalize is True there"):
        from_anndata(written / "sparse.h5ad", **options | {"normalize": False})
    with pytest.raises(ValueError, match="holds other cells: features"):
        from_anndata(written / "sparse.h5ad", **options, features=["g1"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match="something else than cells"):
        from_anndata(written / "sparse.h5ad", **options | {"store": tmp_path / "mine"})
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["cells", "mine"]


def test_bad_values_are_named_and_leave_no_folder(tmp_path):
    counts, conditions = counts_of()
    obs = pd.DataFrame({"condition": conditions}, index=pd.Index([f"c{i}" for i in range(CELLS)]))
    for change, message in (
        (lambda x: x.__setitem__((500, 3), np.nan), "'3' has 1 values that are NaN.*row 500"),
        (lambda x: x.__setitem__((slice(None), 5), 0), "Constant features: '5'"),
        (lambda x: x.__setitem__((400, 2), 0.5), "cells 384 to 447 are no raw counts"),
        (lambda x: x.__setitem__(300, 0), "1 cells have no count at all, the first in row 300"),
    ):
        x = counts.copy()
        change(x)
        anndata.AnnData(scipy.sparse.csr_matrix(x), obs=obs).write_h5ad(tmp_path / "bad.h5ad")
        with pytest.raises(ValueError, match=message):
            from_anndata(tmp_path / "bad.h5ad", control="ctrl", store=tmp_path / "cells", normalize=True)
        assert not (tmp_path / "cells").exists()


def test_the_whole_matrix_is_not_made_by_accident(written, tmp_path):
    stored = from_anndata(written / "sparse.h5ad", control="ctrl", store=tmp_path / "cells", normalize=True)
    with pytest.raises(TypeError, match=r"Take rows, as in data.x\[:1000\]"):
        np.asarray(stored.x)


RECIPE = {
    "num_steps": 40,
    "log_every": 20,
    "eval_every": 20,
    "checkpoint_every": 20,
    "hidden": (8,),
    "latent_dim": 2,
    "num_sources": 3,
    "cells_per_source": 8,
    "num_targets": 3,
    "cells_per_target": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_training_from_files_gives_the_numbers_of_training_in_memory(written, tmp_path, monkeypatch, replicas):
    # room for the cells of few steps: several pieces between two entries of the history
    monkeypatch.setattr(pdae_jax.view.stream, "MAX_BYTES", 4 * GENES * 48 * 5 * replicas)
    options = {"control": "ctrl", "normalize": True}
    found = []
    for name, store in (("memory", None), ("files", tmp_path / "cells")):
        data = from_anndata(written / "sparse.h5ad", store=store, **options)
        train, test = pdae_jax.hold_out(data, ["A+B"])
        run = {"key": jax.random.key(1), "validation": test, "workdir": tmp_path / name, **RECIPE}
        if replicas == 1:
            fitted = pdae_jax.fit(train, **run)
            again = pdae_jax.load_run(tmp_path / name)
        else:
            fitted = pdae_jax.fit_ensemble(train, num_replicas=replicas, bootstrap=True, **run)
            again = pdae_jax.load_ensemble(tmp_path / name)
        assert type(again.train.x) is type(train.x)
        losses = [entry["total"] for entry in fitted.members[0].history]
        prediction = pdae_jax.predict(again, "B+C", key=jax.random.key(2)).samples
        few = {"metrics": ["energy_distance", "mean_l2"], "baselines": ["additive"]}
        table = pdae_jax.evaluate(again, test, progress=False, **few)
        found.append((losses, prediction, table["value"].to_numpy()))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][2], found[1][2], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_resumes_from_files_bit_for_bit_and_refuses_other_cells(written, tmp_path):
    store = tmp_path / "cells"
    train = from_anndata(written / "sparse.h5ad", control="ctrl", normalize=True, store=store)
    whole = pdae_jax.fit(train, key=jax.random.key(1), stop_step=40, workdir=tmp_path / "whole", **RECIPE)

    class Broken(Exception):
        pass

    class Killed:
        def update(self, step, num_steps, loss):
            if step == 20:
                raise Broken

        def close(self):
            pass

    run = {"key": jax.random.key(1), "stop_step": 40, "workdir": tmp_path / "broken", **RECIPE}
    with pytest.raises(Broken):
        pdae_jax.fit(train, progress=Killed(), **run)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["20"]
    resumed = pdae_jax.fit(train, **run)
    for ours, theirs in zip(jax.tree.leaves(resumed.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    manifest = store / cells.MANIFEST_FILE
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"identity": {"source": "another file"}}))
    with pytest.raises(ValueError, match="holds other cells than those that were used"):
        pdae_jax.load_run(tmp_path / "broken")


@pytest.mark.slow
def test_comparators_train_on_the_cells_that_they_draw(written, tmp_path, monkeypatch):
    monkeypatch.setattr(pdae_jax.view.stream, "MAX_BYTES", 4 * GENES * 600)
    losses = []
    for store in (None, tmp_path / "cells"):
        train = from_anndata(written / "sparse.h5ad", control="ctrl", normalize=True, store=store)
        fitted = fit_compositional(train, key=jax.random.key(1), disentangle="adversarial", **RECIPE)
        losses.append([entry["total"] for entry in fitted.history])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_counts_do_not_join_normalised_data(written, tmp_path):
    train = from_anndata(written / "sparse.h5ad", control="ctrl", normalize=True)
    with pytest.raises(ValueError, match="These are raw counts, and the data they join log-normalised"):
        from_anndata(written / "sparse.h5ad", like=train, store=tmp_path / "cells")
    assert not (tmp_path / "cells").exists()


def test_features_that_do_not_vary_are_dropped_where_that_is_asked_for(tmp_path, caplog):
    counts, conditions = counts_of()
    counts[:, 5] = 0
    obs = pd.DataFrame({"condition": conditions}, index=pd.Index([f"c{i}" for i in range(CELLS)]))
    anndata.AnnData(scipy.sparse.csr_matrix(counts), obs=obs).write_h5ad(tmp_path / "a.h5ad")
    options = {"path": tmp_path / "a.h5ad", "control": "ctrl", "normalize": True}
    inside, stored = own_data(**options), own_data(**options, store=str(tmp_path / "cells"))
    assert inside.features == stored.features == tuple(str(i) for i in range(GENES) if i != 5)
    np.testing.assert_array_equal(stored.x[:], inside.x)
    assert "dropped features that are the same in all cells: '5'" in caplog.text


def test_a_selection_shares_what_is_open_and_travels_without_it(written, tmp_path):
    stored = from_anndata(written / "sparse.h5ad", control="ctrl", store=tmp_path / "cells", normalize=True)
    some = stored.x.take(np.arange(5))
    some[:]
    assert stored.x._parts.keys() == {0}
    again = pickle.loads(pickle.dumps(some))
    assert not again._parts
    np.testing.assert_array_equal(again[:], stored.x[:5])
    np.testing.assert_array_equal(stored.x[3], stored.x[:5][3])
    assert (tmp_path / "cells").stat().st_mode & 0o077 == tmp_path.stat().st_mode & 0o077


@pytest.mark.slow
def test_a_population_trains_on_cells_in_files(written, tmp_path):
    data = from_anndata(written / "sparse.h5ad", store=tmp_path / "cells", control="ctrl", normalize=True)
    train, test = pdae_jax.hold_out(data, ["A+B"])
    settings, options = [{"learning_rate": rate} for rate in (1e-3, 3e-3)], {"key": jax.random.key(1), **RECIPE}
    found = pdae_jax.fit_population(train, settings, validation=test, at_once=2, **options)
    for setting, member in zip(settings, found.members, strict=True):
        fitted = pdae_jax.fit(train, validation=test, **options, **setting)
        for left, right in zip(jax.tree.leaves(member.params), jax.tree.leaves(fitted.params), strict=True):
            np.testing.assert_allclose(left, right, atol=2e-3)


def test_a_store_goes_by_the_content_of_its_file(written, tmp_path):
    """Neither the path nor the time says what a file holds."""
    file = tmp_path / "mine.h5ad"
    options = {"control": "ctrl", "store": tmp_path / "cells"}
    shutil.copy(written / "dense.h5ad", file)
    first = from_anndata(file, **options)
    with h5py.File(file, "r+") as opened:  # one value, in place
        opened["X"][7, 3] += 1
    os.utime(file, ns=(file.stat().st_atime_ns, (written / "dense.h5ad").stat().st_mtime_ns))
    assert file.stat().st_size == (written / "dense.h5ad").stat().st_size
    with pytest.raises(ValueError, match=r"holds other cells: they were not read from what .* holds now"):
        from_anndata(file, **options)
    shutil.copy(written / "dense.h5ad", tmp_path / "moved.h5ad")
    again = from_anndata(tmp_path / "moved.h5ad", **options)
    np.testing.assert_array_equal(again.x[:], first.x[:])
    # a folder that an older version has made
    manifest = tmp_path / "cells" / cells.MANIFEST_FILE
    found = json.loads(manifest.read_text())
    source = content_of(tmp_path / "moved.h5ad", None).of_older_versions()
    manifest.write_text(json.dumps({**found, "identity": found["identity"] | {"source": source}, "mark": None}))
    from_anndata(tmp_path / "moved.h5ad", **options)


def test_a_store_of_transformed_values_and_of_given_totals(tmp_path):
    counts, conditions = counts_of()
    obs = pd.DataFrame({"condition": conditions, "n": 100 + np.arange(CELLS)}, index=pd.Index(map(str, range(CELLS))))
    anndata.AnnData(counts, obs=obs).write_h5ad(tmp_path / "a.h5ad")
    for number, options in enumerate(({"arcsinh": 5.0}, {"totals": "n", "normalize": True})):
        inside = from_anndata(tmp_path / "a.h5ad", control="ctrl", **options)
        stored = from_anndata(tmp_path / "a.h5ad", control="ctrl", store=tmp_path / f"cells{number}", **options)
        np.testing.assert_array_equal(stored.x[:], inside.x)
        assert stored.reading == inside.reading and (stored.size_factors is None) == (number == 0)
