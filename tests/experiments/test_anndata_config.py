"""Users' own files through a config: what is read, held out, printed and refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from experiments.configs import anndata as own
from pdae_jax import build, check_guarantee, describe, from_arrays
from pdae_jax.data.own_data import choose_held_out, own_data
from tests.experiments.scripts import call

REPOSITORY = Path(__file__).parents[2]
COLUMN, DOSE = "Target gene (final)", "dose [µM]"
CONDITIONS = ("non-targeting", "KLF1", "SET", "BAK1", "KLF1 & SET", "KLF1 & BAK1", "BAK1 & SET", "CEBPA & SET", "rare")
COUNTS = (30, 30, 30, 30, 30, 30, 30, 30, 1)
STEPS = ("num_steps=2", "log_every=2", "eval_every=2", "checkpoint_every=2", "hidden=(8,)")


def screen():
    """Cells of `CONDITIONS` as a frame of three markers, and the condition of each."""
    names = np.repeat(CONDITIONS, COUNTS)
    x = np.random.default_rng(0).lognormal(size=(len(names), 3)).astype(np.float32)
    return pd.DataFrame(x, columns=["CD3", "CD 8", "pS6"]), names


@pytest.fixture
def h5ad(tmp_path):
    """Odd names; the values are in a layer, X is of no use, and one marker is the same in all cells."""
    frame, names = screen()
    obs = pd.DataFrame({COLUMN: names, DOSE: 2.0}, index=[f"cell{i}" for i in range(len(names))])
    values = frame.assign(empty=np.float32(0))
    adata = anndata.AnnData(np.zeros(values.shape, np.float32), obs=obs, var=pd.DataFrame(index=list(values.columns)))
    adata.layers["log norm"] = values.to_numpy()
    adata.write_h5ad(tmp_path / "my screen.h5ad")
    return tmp_path / "my screen.h5ad"


def settings(path, **changes):
    return {
        "path": path if path is None else str(path),
        "condition": COLUMN,
        "control": "non-targeting",
        "separator": " & ",
        "dose": DOSE,
        "layer": "log norm",
        **changes,
    }


def config_of(file, **changes):
    config = own.get_config()
    config.data.update(**{**settings(file), **changes})
    return config


def arguments(path, workdir, *flags, **changes):
    fields = [f"--config.data.{name}={value}" for name, value in settings(path, **changes).items()]
    return ["--config=experiments/configs/anndata.py", *fields, *flags, f"--workdir={workdir}"]


def run(*asked, **changes):
    return subprocess.run(
        [sys.executable, "experiments/run.py", *arguments(*asked, **changes)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_a_file_with_odd_names_is_trained_evaluated_and_reported(h5ad, tmp_path):
    workdir = tmp_path / "run"
    named = ("--config.split.test=('KLF1:2 & SET:2',)", "--config.evaluation.num_samples=50")
    done = run(h5ad, workdir, *named, *(f"--config.fit.{step}" for step in STEPS))
    assert done.returncode == 0, done.stderr
    assert "Dropped 1 conditions with fewer than 2 cells, 1 cells in all: 'rare:2'" in done.stderr
    assert "same in all cells: 'empty'" in done.stderr
    table = pd.read_csv(workdir / "evaluation.csv")
    assert set(table.loc[table["split"] == "test", "condition"]) == {"KLF1:2 & SET:2"}
    assert {"pdae", "ridge", "additive"} <= set(table["method"])
    assert (workdir / "report.md").exists()
    predicted = anndata.read_h5ad(workdir / "predictions.h5ad")
    assert list(predicted.var_names) == ["CD3", "CD 8", "pS6"]


def test_a_dry_run_prints_what_was_read_and_writes_nothing(h5ad, tmp_path):
    printed = call("run.py", *arguments(h5ad, tmp_path / "run", "--dry_run"))
    assert printed == build.dry_run(config_of(h5ad)) + "\n"
    assert "- Dropped 1 conditions with fewer than 2 cells" in printed
    assert [path.name for path in tmp_path.iterdir()] == [h5ad.name]


def test_the_description_names_cells_doses_and_what_is_identified(h5ad):
    found = build.experiment(config_of(h5ad))
    lines = found.describe().splitlines()
    assert lines == describe(found.train, found.validation, found.test).splitlines()
    words = [line.split() for line in lines]
    assert lines[0] == "240 cells, 3 features, 8 conditions" and lines[1] == "control 'non-targeting': 30 cells"
    assert ["KLF1", "2", "yes"] in words and ["CEBPA", "2", "no"] in words
    assert ["SET:2", "&", "CEBPA:2", "30", "train", "no"] in words  # CEBPA was never alone
    parts = [line[4:] for line in words if line[3:4] == ["30"] and "CEBPA:2" not in line]
    assert sorted(parts) == [["test", "yes", "yes"], ["train", "yes"], ["validation", "yes", "yes"]]
    assert lines[-1] == "4 combinations, 3 identified by the singles; conditions: 6 train, 1 validation, 1 test"


def test_cells_in_files_are_described_as_those_in_memory(h5ad, tmp_path):
    stored = config_of(h5ad, store=str(tmp_path / "cells"))
    assert build.experiment(stored).describe() == build.experiment(config_of(h5ad)).describe()


def test_a_missing_value_is_named_and_its_feature_not_taken_for_constant(tmp_path):
    frame, names = screen()
    frame["pS6"] = np.float32(0)
    frame.loc[7, "pS6"] = np.nan
    obs = pd.DataFrame({"condition": names}, index=pd.Index([f"cell{i}" for i in range(len(names))]))
    anndata.AnnData(frame.to_numpy(), obs=obs, var=pd.DataFrame(index=list(frame))).write_h5ad(tmp_path / "a.h5ad")
    for store in (None, str(tmp_path / "cells")):
        with pytest.raises(ValueError, match="Feature 'pS6' has 1 values that are NaN"):
            own_data(path=tmp_path / "a.h5ad", control="non-targeting", store=store)


def test_raw_counts_are_remarked_on(tmp_path):
    frame, names = screen()
    frame.round().assign(condition=names).to_csv(tmp_path / "counts.csv", index=False)
    config = config_of(tmp_path / "counts.csv", condition="condition", dose=None, layer=None)
    assert "raw counts" in build.experiment(config).describe()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"condition": "target gene"}, KeyError, f"No 'target gene' in obs; nearest are '{COLUMN}'"),
        ({"dose": "dose"}, KeyError, f"No 'dose' in obs; nearest are '{DOSE}'"),
        (
            {"control": "nontargeting"},
            ValueError,
            "No control cells: no condition is 'nontargeting' (zero label); nearest are 'non-targeting:2'",
        ),
        ({"layer": "lognorm"}, KeyError, "No layer 'lognorm'; nearest are 'log norm'"),
        ({"layer": None}, ValueError, "Constant features"),
        ({"features": ("CD8",)}, KeyError, "No 'CD8' in var_names; nearest are 'CD 8'"),
        ({"path": None}, ValueError, "Pass config.data.path=<a file that ends in one of .h5ad"),
        ({"min_cells": 1}, ValueError, "min_cells is 1. Pass at least 2"),
        ({"arcsinh": 0.0}, ValueError, "arcsinh is 0.0. Pass a cofactor above 0"),
    ],
)
def test_what_is_misspelt_gets_the_nearest_name(h5ad, change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build.experiment(config_of(h5ad, **change))


def test_a_missing_file_gets_the_nearest_one(h5ad):
    with pytest.raises(FileNotFoundError, match=r"nearest are 'my screen.h5ad'"):
        own_data(path=h5ad.with_name("my_screen.h5ad"))
    (h5ad.parent / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"'notes.txt' is of no known kind"):
        own_data(path=h5ad.parent / "notes.txt")
    with pytest.raises(ValueError, match=r"is no \.h5ad or \.zarr file"):
        own_data(path=h5ad.rename(h5ad.with_suffix(".csv")), layer="log")


def write_csv(frame, names, folder):
    frame.assign(**{"1": names}).to_csv(folder / "t.csv")  # with the names of the rows, as pandas and R write them
    return {"path": folder / "t.csv", "condition": "1"}


def write_tsv(frame, names, folder):
    frame.assign(**{"1": names}).to_csv(folder / "t.tsv", sep="\t", index=False)
    return {"path": folder / "t.tsv", "condition": "1"}


def write_parquet(frame, names, folder):
    pytest.importorskip("pyarrow")
    frame.assign(**{"1": names}).to_parquet(folder / "t.parquet")
    return {"path": folder / "t.parquet", "condition": "1"}


def write_fcs(frame, names, folder):
    """One file a condition, named after it."""
    flowio = pytest.importorskip("flowio")
    for name in dict.fromkeys(names):
        with (folder / f"{name}.fcs").open("wb") as file:
            events = frame[names == name].to_numpy().ravel()
            flowio.create_fcs(file, events, channel_names=["Er168", "Nd144", "Yb172"], opt_channel_names=[*frame])
    return {"path": folder, "condition": "file"}


@pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet, write_fcs])
def test_tables_and_cytometry_files_are_the_same_data(write, tmp_path):
    """Names that look like missing values or numbers are names."""
    frame, names = screen()
    frame, names = frame[names != "rare"], names[names != "rare"]
    for old, new in {"non-targeting": "NA", "KLF1": "1e5", "SET": "7"}.items():
        names = np.array([name.replace(old, new) for name in names])
    expected = from_arrays(np.arcsinh(frame / 5), names, control="NA", separator=" & ")
    found = own_data(**{**write(frame, names, tmp_path), "control": "NA", "separator": " & ", "arcsinh": 5.0})
    assert set(found.conditions) == set(expected.conditions) and found.features == expected.features
    for name in expected.conditions:
        np.testing.assert_allclose(found.cells(name), expected.cells(name), rtol=1e-5)


def test_a_reader_that_is_missing_is_named_with_the_fix(tmp_path, monkeypatch):
    for package, file in {"pyarrow": "cells.parquet", "flowio": "cells.fcs"}.items():
        (tmp_path / file).touch()
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"'{file}' needs {package}.*make .venv/files.stamp"):
            own_data(path=tmp_path / file)


def test_held_out_are_combinations_whose_parts_were_measured_alone():
    pairs = [f"p{i}+p{j}" for i in range(6) for j in range(i)]
    names = np.repeat(["control", *(f"p{i}" for i in range(5)), *pairs], 3)  # p5 was measured in pairs only
    x = np.random.default_rng(0).normal(size=(len(names), 2))
    data = from_arrays(x, names)
    chosen = choose_held_out(data, 0.3, seed=0)
    assert len(chosen) == 3 and len(set(chosen)) == 3 and not any("p5" in name for name in chosen)
    rest = data.select([name for name in data.conditions if name not in chosen])
    assert all(check_guarantee(rest, name).identified for name in chosen)
    assert set(chosen) == set(choose_held_out(from_arrays(x, names[::-1]), 0.3, seed=0))  # whatever the order
    assert len({choose_held_out(data, 0.3, seed=seed) for seed in range(5)}) > 1
    assert choose_held_out(data.select(["control", "p0", "p5+p1"]), 0.3, seed=0) == ()
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_held_out(data, 1.0, seed=0)


def test_nothing_to_hold_out_is_said_before_training(tmp_path):
    frame, names = screen()
    keep = np.isin(names, ("non-targeting", "KLF1", "CEBPA & SET"))
    frame[keep].assign(condition=names[keep]).to_csv(tmp_path / "few.csv", index=False)
    config = config_of(tmp_path / "few.csv", condition="condition", dose=None, layer=None)
    with pytest.raises(ValueError, match=r"Name some in config.split.test; there are 'KLF1', 'CEBPA & SET'"):
        build.experiment(config)


def test_a_stratum_of_a_file_is_held_out_and_starts_from_its_own_cells(tmp_path):
    drugs, types = np.repeat(["none", "A", "B", "A+B"], 30), np.tile(np.repeat(["cd4+", "nk", "cd8+"], 10), 4)
    x = np.random.default_rng(0).normal(size=(120, 3))
    frame = pd.DataFrame(x, columns=["m0", "m1", "m2"]).assign(drug=drugs, kind=types)
    frame.to_csv(tmp_path / "cells.csv", index=False)
    config = own.get_config()
    config.data.update(path=str(tmp_path / "cells.csv"), condition="drug", control="none")
    config.data.update(stratum="kind", reference="cd4+")
    config.split.update(protocol="stratum", strata=("nk", "cd8+"))
    found = build.experiment(config)
    held_out = [found.test.index(name) for name in ("A+nk", "B+nk", "A+B+nk")]  # in whatever order they are written
    assert sorted(held_out) == list(range(found.test.num_conditions))
    assert {"none", "nk", "cd8+", "A", "B", "A+B"} <= set(found.train.conditions)
    assert found.train.counts[found.train.index("nk")] == 10
    assert {found.evaluation["source"][name] for name in found.test.conditions} == {"nk"}
    assert found.validation is not None
    assert set(found.source.values()) == {"cd8+"}
    np.testing.assert_allclose(found.test.cells("A+nk"), x[(drugs == "A") & (types == "nk")], rtol=1e-6)
    for reference in (None, "cd4"):
        config.data.reference = reference
        with pytest.raises(ValueError, match=r"'kind' and its reference go together.*values, .*'cd4\+'"):
            build.experiment(config)
    config.data.update(stratum=None, reference="cd4+")
    with pytest.raises(ValueError, match="go together"):
        build.experiment(config)


@pytest.mark.filterwarnings("ignore:Element")  # anndata says that it is old
def test_a_file_older_than_anndata_08_is_read(h5ad, tmp_path):
    """Categories of such a file are beside its columns, `__categories`, and columns refer to them."""
    new = anndata.read_h5ad(h5ad)
    names, text = new.obs[COLUMN].astype("category"), h5py.string_dtype()
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"] = new.layers["log norm"]
        for group, index in {"obs": new.obs_names, "var": new.var_names}.items():
            frame = file.create_group(group)
            frame.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
            frame.attrs["column-order"] = np.array([COLUMN] if group == "obs" else [], dtype=text)
            frame.create_dataset("_index", data=np.array(index, dtype=object), dtype=text)
        obs = file["obs"]
        obs[COLUMN] = names.cat.codes.to_numpy()
        categories = np.array(names.cat.categories, dtype=object)
        obs.create_dataset(f"__categories/{COLUMN}", data=categories, dtype=text)
        obs[COLUMN].attrs["categories"] = obs[f"__categories/{COLUMN}"].ref
    old, now = (
        own_data(**settings(path, dose=None, layer=layer))
        for path, layer in ((tmp_path / "old.h5ad", None), (h5ad, "log norm"))
    )
    assert (old.conditions, old.features) == (now.conditions, now.features)
    np.testing.assert_array_equal(old.x, now.x)
    with pytest.raises(ValueError, match=r"before anndata 0\.8"):
        own_data(**settings(tmp_path / "old.h5ad", dose=None, layer=None), store=tmp_path / "store")
