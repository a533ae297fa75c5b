"""What Python reads, a config reads too: controls, columns, doses, strata and names of users' own files."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest

from pdae_jax import build, from_anndata, from_frame
from tests.experiments.own_files import MARKERS, assert_same, cells, config_of, config_with, read


@pytest.mark.parametrize("control", [("NT-1", "NT-2"), "('NT-1','NT-2')", "NT-*", "NT-?"])
def test_several_controls_are_one(tmp_path, control):
    frame = cells("NT-2", "NT-1", "A", "B+NT-2", "A+B")
    expected = from_frame(frame, features=MARKERS, control=["NT-1", "NT-2"])
    assert_same(read(frame, tmp_path, control=control), expected)
    assert expected.conditions == ("NT-1", "A", "B", "A+B")


def test_a_pattern_is_of_single_perturbations_and_finds_something(tmp_path):
    frame = cells("NT1_A", "NT1_NT1", "NT10_NT2", "A_B")
    found = read(frame, tmp_path, control="NT*", separator="_")
    assert found.conditions == ("NT1", "A", "A_B") and found.counts.tolist() == [8, 4, 4]
    assert read(cells("x[*]", "A", "xy"), tmp_path, control="x[*]").conditions == ("x[*]", "A", "xy")  # a name
    with pytest.raises(ValueError, match=r"No name matches control='NegCtrl\*'; .*'NT1'"):
        read(frame, tmp_path, control="NegCtrl*", separator="_")


def test_guides_written_twice_are_read_once(tmp_path):
    """As GSE133344 writes `guide_identity`, some with a number at the end."""
    pairs = ("NegCtrl10_NegCtrl0", "NegCtrl0_NegCtrl0", "KLF1_NegCtrl0", "NegCtrl0_MAP2K6", "KLF1_MAP2K6")
    frame = cells(*(f"{pair}__{pair}" for pair in pairs), "MAP2K6_KLF1__MAP2K6_KLF1_2")
    found = read(frame, tmp_path, control="NegCtrl*", separator="_")
    assert found.conditions == ("NegCtrl0", "KLF1", "MAP2K6", "KLF1_MAP2K6")
    assert found.counts.tolist() == [8, 4, 4, 8] and found.perturbations == ("KLF1", "MAP2K6")
    assert found.index("KLF1_MAP2K6__KLF1_MAP2K6") == 3


def test_counts_are_divided_by_a_column_where_the_file_has_only_some_genes(tmp_path):
    frame = cells("control", "A", "A+B", "B").assign(n_counts=20_000)
    frame[MARKERS] = np.arange(frame[MARKERS].size).reshape(-1, len(MARKERS)) % 11
    found = read(frame, tmp_path, normalize=True, totals="n_counts")
    assert found.features == tuple(MARKERS)
    np.testing.assert_allclose(found.x, np.log1p(frame[MARKERS] / 2), rtol=1e-6)


@pytest.mark.parametrize("columns", [("first", "second"), "('first', 'second')"])
def test_several_columns_of_names_and_doses(tmp_path, columns):
    frame = cells(*"wxyz", first=["none", "A", "none", "A"], second=["none", "none", "B", "B"])
    frame = frame.assign(d1=np.repeat([0, 2, 0, 2], 4), d2=np.repeat([0, 0, 3.5, 7], 4)).drop(columns="condition")
    given = {"condition": ["first", "second"], "control": "none"}
    found = read(frame.drop(columns=["d1", "d2"]), tmp_path, condition=columns, control="none")
    assert_same(found, from_frame(frame, features=MARKERS, **given))
    doses = ("d1", "d2") if isinstance(columns, tuple) else "('d1', 'd2')"
    found = read(frame, tmp_path, condition=columns, control="none", dose=doses)
    assert_same(found, from_frame(frame, features=MARKERS, dose=["d1", "d2"], **given))
    assert found.conditions == ("none", "A:2", "B:3.5", "A:2+B:7")


def test_names_are_found_whole_and_numbers_are_doses_where_it_is_said(tmp_path):
    frame = cells("control", "(+)-JQ1", "CD4+", "(+)-JQ1+CD4+")
    given = ["(+)-JQ1", "CD4+"]
    found = read(frame, tmp_path, perturbations=tuple(given))
    assert_same(found, from_frame(frame, features=MARKERS, perturbations=given))
    assert found.perturbations == tuple(given) and found.labels[-1].tolist() == [1, 1]
    frame = cells("control", "A:2", "B:3")
    for says, perturbations in {True: ("A", "B"), False: ("A:2", "B:3")}.items():
        assert read(frame, tmp_path, dose_in_name=says).perturbations == perturbations


def test_a_dose_beside_a_stratum_is_of_the_perturbation_alone(tmp_path):
    frame = cells("DMSO", "A", "B", "A+B", each=6, uM=["0", "2", "4", "2+5"]).assign(line=["K562", "RPE1"] * 12)
    given = {"control": "DMSO", "stratum": "line", "reference": "K562"}
    found = read(frame, tmp_path, dose="uM", **given)
    two = {"condition": ["condition", "line"], "strata": "line", "dose": "uM", "control": ["DMSO", "K562"]}
    assert_same(found, from_frame(frame, features=MARKERS, **two))
    assert found.num_conditions == 8 and set(found.perturbations) == {"A", "B", "RPE1"}
    labels = [{"A": 2, "RPE1": 1}, {"RPE1": 1}, {"A": 2, "B": 5}, {"B": 4}, {}]
    for name, label in zip(("A:2+RPE1", "RPE1", "A:2+B:5", "B:4", "DMSO"), labels, strict=True):
        assert found.index(name) == found.index(label)
    plain = read(frame.drop(columns="uM"), tmp_path, **given)
    assert sorted(map(plain.index, ("DMSO", "RPE1", "A", "B", "A+B", "A+B+RPE1"))) == [0, 1, 2, 4, 6, 7]


def test_a_screen_of_singles_trains_on_all(tmp_path):
    config = config_of(cells("control", "A", "B"), tmp_path)
    for fraction in (0.2, 0.0):
        config.split.update(test_fraction=fraction, validation_fraction=fraction / 2)
        found = build.experiment(config)
        assert found.test is None and found.validation is None and found.train.conditions == ("control", "A", "B")
        assert found.source == {}


@pytest.fixture
def annotated(tmp_path):
    """Other values in X, raw, a layer and obsm; symbols of genes, one of them twice and one missing."""
    frame = cells("control", "A", "B")
    x = frame[MARKERS].to_numpy(np.float32)
    adata = anndata.AnnData(
        np.concatenate([x, 2 * x], axis=1),
        obs=frame[["condition"]].assign(lane=["x", "y"] * 6).set_axis([f"c{i}" for i in range(12)]),
        var=pd.DataFrame({"symbol": ["CD3", "CD4", "CD3", None]}, index=["E1", "E2", "E3", "E4"]),
        layers={"log": np.tile(3 * x, 2)},
        obsm={"X_pca": 5 * x, "protein": pd.DataFrame(7 * x, columns=["p1", "p2"], index=[f"c{i}" for i in range(12)])},
    )
    adata.raw = anndata.AnnData(np.tile(11 * x, 3), var=pd.DataFrame({"symbol": list("abcdef")}, index=list("ABCDEF")))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return adata, tmp_path / "cells.h5ad", x


@pytest.mark.parametrize(
    ("place", "factor", "features"),
    [
        ({}, 1, ("E1", "E2", "E3", "E4")),
        ({"gene_symbols": "symbol"}, 1, ("CD3", "CD4", "CD3-1", "E4")),
        ({"layer": "log", "gene_symbols": "symbol"}, 3, ("CD3", "CD4", "CD3-1", "E4")),
        ({"layer": "raw"}, 11, tuple("ABCDEF")),
        ({"layer": "raw.X", "gene_symbols": "symbol"}, 11, tuple("abcdef")),
        ({"obsm": "X_pca"}, 5, ("X_pca0", "X_pca1")),
        ({"obsm": "protein"}, 7, ("p1", "p2")),
    ],
)
def test_values_are_taken_from_where_it_is_said(annotated, tmp_path, place, factor, features):
    adata, path, x = annotated
    config = config_with(path=str(path), **place)
    found = build.experiment(config).train
    assert found.features == features
    np.testing.assert_allclose(found.x[:, :2], factor * x, rtol=1e-6)
    assert_same(from_anndata(adata, **place), found)
    config.data.store = str(tmp_path / "store")
    stored = build.experiment(config).train
    assert stored.features == features
    np.testing.assert_array_equal(stored.x[:], found.x)


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ({"layer": "rawX"}, KeyError, "No layer 'rawX'; nearest are 'raw.X'"),
        ({"obsm": "pca"}, KeyError, "No 'pca' in obsm; nearest are 'X_pca'"),
        ({"obsm": "X_pca", "layer": "log"}, ValueError, "layer='log' is not of obsm['X_pca']. Leave one out."),
        ({"gene_symbols": "symbols"}, KeyError, "No 'symbols' in var; nearest are 'symbol'"),
    ],
)
def test_a_place_that_is_not_there_gets_the_nearest(annotated, place, error, message):
    adata, path, _ = annotated
    for source in (adata, path):
        with pytest.raises(error, match=re.escape(message)):
            from_anndata(source, **place)


def held_out(config):
    found = build.experiment(config)
    return [() if part is None else part.conditions for part in (found.train, found.validation, found.test)]


PARTS = {"control": "train", "A": "train", "B": "Training", "A+B": "test", "A+C": "ood", "B+C": "valid", "C": "val"}


def test_a_column_says_which_conditions_are_held_out(tmp_path, caplog):
    frame = cells(*PARTS, split=list(PARTS.values()))
    frame.loc[:1, "split"] = "test"  # of the control
    config = config_of(frame, tmp_path)
    config.split.column = "split"
    assert held_out(config) == [("control", "A", "B"), ("B+C", "C"), ("A+B", "A+C")]
    assert "2 unperturbed cells train, although 'split' says otherwise" in caplog.text
    adata = anndata.AnnData(
        frame[MARKERS].to_numpy(), obs=frame[["condition", "split"]].set_axis(map(str, frame.index))
    )
    adata.write_h5ad(tmp_path / "cells.h5ad")
    annotated = config_with(path=str(tmp_path / "cells.h5ad"))
    annotated.split.column = "split"
    assert held_out(annotated) == held_out(config)
    config = config_of(frame.assign(split="train"), tmp_path)
    config.split.column = "split"
    assert build.experiment(config).test is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": 4, "split": "test"}, "'split' has 3 cells in train and 1 cells in test of the condition 'A'"),
        ({"row": 5, "split": "fold1"}, "'split' has the value 'fold1' in row 5. Write one of train, training, val"),
        ({"test": ("A+B",)}, "config.split.test and config.split.column both say what is held out"),
    ],
)
def test_a_column_that_is_no_split_is_refused(tmp_path, change, message):
    frame = cells(*PARTS, split=list(PARTS.values()))
    if "row" in change:
        frame.loc[change["row"], "split"] = change["split"]
    config = config_of(frame, tmp_path)
    config.split.update(column="split", test=change.get("test", ()))
    with pytest.raises(ValueError, match=re.escape(message)):
        build.experiment(config)


def test_plain_strata_train_whatever_a_column_says(tmp_path):
    frame = cells(
        "DMSO", "A", "B", "DMSO", "A", "B", line=["x"] * 3 + ["y"] * 3, part=["test"] + ["train"] * 3 + ["test"] * 2
    )
    config = config_of(frame, tmp_path, control="DMSO", stratum="line", reference="x")
    config.split.column = "part"
    train, _, test = held_out(config)
    assert set(train) == {"DMSO", "A", "B", "y"} and len(test) == 2


def test_a_test_file_of_its_own_is_read_as_the_training_file(tmp_path, caplog):
    other = cells("NT3", "A+B", "B+A", "A", each=3).assign(further=1.0)
    other.iloc[:, ::-1].to_csv(tmp_path / "test.csv", index=False)
    config = config_of(cells("NT1", "A", "B", "NT2+B"), tmp_path, control="NT*", test_path=str(tmp_path / "test.csv"))
    found = build.experiment(config)
    assert found.train.conditions == ("NT1", "A", "B") and found.test.conditions == ("A+B",)
    assert found.test.features == found.train.features and found.test.perturbations == found.train.perturbations
    np.testing.assert_allclose(found.test.x, other[MARKERS].iloc[3:9], rtol=1e-6)
    assert "that are trained on are not judged: 'A'" in caplog.text
    cells("NT1", "A").to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(ValueError, match=r"is new: 'A' are trained on"):
        build.experiment(config)
    config.split.test = ("A+B",)
    with pytest.raises(ValueError, match=r"config.data.test_path and config.split.test both say"):
        build.experiment(config)
