"""A file that is damaged, cut short, empty or of another kind is named, whatever its reader says."""

import gzip
import re

import anndata
import numpy as np
import pandas as pd
import pytest

from pdae_jax.cells import MANIFEST_FILE, read_manifest
from pdae_jax.data.own_data import own_data

NAMES = np.repeat(["control", "A", "B"], 20)
FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["m0", "m1", "m2"])
TABLE = FRAME.assign(condition=NAMES)


def write_h5ad(path):
    obs = pd.DataFrame({"condition": NAMES}, index=[f"cell{i}" for i in range(60)])
    anndata.AnnData(FRAME.to_numpy(np.float32), obs=obs, var=pd.DataFrame(index=list(FRAME))).write_h5ad(path)


def write_parquet(path):
    pytest.importorskip("pyarrow")
    TABLE.to_parquet(path)


def write_fcs(path):
    flowio = pytest.importorskip("flowio")
    with path.open("wb") as file:
        flowio.create_fcs(file, FRAME.to_numpy(np.float32).ravel().tolist(), list(FRAME))


WRITERS = {
    "a.h5ad": write_h5ad,
    "a.csv": lambda path: TABLE.to_csv(path, index=False),
    "a.csv.gz": lambda path: TABLE.to_csv(path, index=False),
    "a.parquet": write_parquet,
    "a.fcs": write_fcs,
}
DAMAGE = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "other": lambda whole: b"\x00\xff<!DOCTYPE html>\xfe" * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_named(name, damage, tmp_path):
    if (name, damage) == ("a.csv", "cut"):
        pytest.skip("half a table is a table")
    file = tmp_path / name
    WRITERS[name](file)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{re.escape(name)} cannot be read .*Copy it again"):
        own_data(path=file, condition="file" if name == "a.fcs" else "condition")


def test_damage_inside_of_an_h5ad_file_is_named(tmp_path):
    """The file opens, and its cells do not: as a copy does that was broken off."""
    obs = pd.DataFrame({"condition": np.repeat(NAMES, 40)}, index=[f"cell{i}" for i in range(2400)])
    x = np.random.default_rng(0).normal(size=(2400, 3)).astype(np.float32)
    anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=list(FRAME))).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    content = bytearray((tmp_path / "a.h5ad").read_bytes())
    start = content.find(b"\x78\x5e", len(content) // 4)  # of a compressed chunk
    content[start : start + 8000] = bytes(8000)
    (tmp_path / "a.h5ad").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5ad cannot be read"):
        own_data(path=tmp_path / "a.h5ad")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1}'])
def test_a_damaged_manifest_is_named(text, tmp_path):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(ValueError, match=re.escape(MANIFEST_FILE) + " cannot be read"):
        read_manifest(tmp_path)


def test_a_missing_file_and_a_package_are_not_called_damage(tmp_path):
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("condition,m0\n")
    with pytest.raises(FileNotFoundError, match=r"nearest are 'b\.csv\.gz'"):
        own_data(path=tmp_path / "a.csv.gz")
