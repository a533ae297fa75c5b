"""Which columns of a table become features: no counter, label, batch or dose is taken for a measurement in silence."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from absl import logging

from pdae_jax import from_anndata, from_arrays, from_frame
from pdae_jax.build import Experiment
from pdae_jax.data.feature_columns import make_selection, matching, measured_columns
from pdae_jax.data.own_data import own_data
from pdae_jax.recipe import Recipe

CONDITIONS = np.tile(["control", "A", "B", "A+B"], 30)
CELLS = len(CONDITIONS)
RANDOM = np.random.default_rng(0)
MARKERS = ["CD3", "CD4", "pS6"]
BASE = pd.DataFrame(RANDOM.lognormal(size=(CELLS, 3)), columns=MARKERS).assign(condition=CONDITIONS)
GENES = ["KLF1", "COL1A1", "REP15", "ID1", "CD8A", "MT-CO1", "TOTAL1"]
COUNTS = pd.DataFrame(RANDOM.poisson(RANDOM.gamma(1, 1, 7), (CELLS, 7)) + np.eye(7, dtype=int)[0], columns=GENES)
COUNTS = COUNTS.assign(condition=CONDITIONS)


def counter(start=0, step=1):
    return start + step * np.arange(CELLS)


@pytest.mark.parametrize("base", [BASE, COUNTS], ids=["intensities", "counts"])
@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("Unnamed: 0", counter(), "without a name"),
        ("Unnamed: 0.1", RANDOM.permutation(CELLS), "without a name"),
        ("Unnamed: 3", [f"AAC{i}" for i in range(CELLS)], "without a name"),
        ("cell", counter(), "from 0 in steps of 1"),
        ("number", counter(1), "from 1 in steps of 1"),
        ("t", counter(0.5, 0.1), "in steps of 0.1"),
        ("cell of a file", np.arange(CELLS) % 40, "from the start again"),
        ("back", counter(900, -3), "in steps of -3"),
        ("shuffled", RANDOM.permutation(CELLS) + 1, "every number from 1 to 120 once"),
        ("volume", np.full(CELLS, 50), "the same in all cells, 50"),
        ("Time", np.sort(RANDOM.uniform(0, 1e5, CELLS)), "time of the event"),
        ("time", np.sort(RANDOM.uniform(0, 1e5, (4, CELLS // 4))).ravel(), "time of the event"),  # of several files
        (" ", RANDOM.normal(size=CELLS), "without a name"),
        ("Event_length", RANDOM.integers(10, 70, CELLS), "length of the event"),
        ("FSC-A", RANDOM.lognormal(10, 1, CELLS), "scatter"),
    ],
)
def test_what_cannot_be_a_measurement_is_left_out_with_a_word(base, name, values, reason, caplog):
    table = base.assign(**{name: values})
    with caplog.at_level("WARNING"):
        data = from_frame(table)
    assert data.features == tuple(column for column in base if column != "condition")
    assert reason in data.reading.left_out[name]
    if not isinstance(values, list):
        assert name in from_frame(table, features=["*"]).features if np.ptp(values) else True


@pytest.mark.parametrize("base", [BASE, COUNTS], ids=["intensities", "counts"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch", np.arange(CELLS) % 3),
        ("plate_no", np.arange(CELLS) // 30),
        ("replicate", RANDOM.integers(1, 4, CELLS)),
        ("dose_nM", RANDOM.choice([0.1, 10.0, 1000.0], CELLS)),
        ("n_counts", RANDOM.integers(500, 9000, CELLS)),
        ("nFeature_RNA", RANDOM.integers(200, 900, CELLS)),
        ("percent.mt", RANDOM.uniform(0, 9, CELLS)),
        ("Donor", RANDOM.integers(0, 5, CELLS)),
        ("is_A", np.char.count(CONDITIONS, "A")),
        ("is_B", np.char.count(CONDITIONS, "B") > 0),
        ("code", pd.factorize(CONDITIONS)[0] * 1.5),
        ("Time", RANDOM.uniform(size=CELLS)),  # of cells in another order
        ("MOI", RANDOM.choice([0.3, 0.5], CELLS)),
        ("viability", RANDOM.permutation(np.arange(CELLS) // 15) / 7 + 0.5),
        ("hpi", RANDOM.choice([6, 24, 72], CELLS)),
        ("cell_number", RANDOM.permutation(CELLS) * 7 + 1000),
        ("UMAP_1", RANDOM.normal(size=CELLS)),
        ("Location_Center_X", RANDOM.normal(size=CELLS)),
    ],
)
def test_what_may_be_none_is_asked_about_with_both_ways_out(base, name, values):
    table = base.assign(**{name: values})
    with pytest.raises(ValueError, match=rf"may be no measurements: '{name}'.*exclude=\['{name}'\].*features="):
        from_frame(table)
    kept = tuple(column for column in base if column != "condition")
    data = from_frame(table, exclude=name)
    assert data.features == kept and data.reading.left_out == {name: "excluded"}
    assert from_frame(table, features="*").features == (*kept, name)


def test_all_columns_that_are_none_are_named_at_once():
    table = BASE.assign(well="a1", plate_no=np.arange(CELLS) // 30, row="P")
    said = r"'well' is not numeric .*first value 'a1'.*Nor are 'row'.*may be no measurements: 'plate_no'"
    with pytest.raises(TypeError, match=said + r".*exclude=\['well', 'plate_no', 'row'\]"):
        from_frame(table)


def test_few_whole_numbers_among_fractions_are_asked_about_and_among_counts_are_counts():
    codes = RANDOM.integers(0, 4, CELLS)
    with pytest.raises(ValueError, match=r"'xyz' .4 values, all whole, where other columns have fractions"):
        from_frame(BASE.assign(xyz=codes))
    assert "xyz" in from_frame(COUNTS.assign(xyz=codes)).features
    spots = RANDOM.poisson(400, CELLS)  # many values: a measurement that is whole
    assert "spots" in from_frame(BASE.assign(spots=spots)).features


def test_measurements_that_look_like_settings_or_places_are_kept():
    wells = pd.DataFrame(RANDOM.normal(size=(CELLS, 3)), columns=["x", "y", "PC_1"]).assign(condition=CONDITIONS)
    assert from_frame(wells).features == ("x", "y", "PC_1")  # places are what is measured
    rare = np.where(RANDOM.random(CELLS) < 0.9, 0, RANDOM.lognormal(size=CELLS))
    logs = np.log1p(COUNTS[GENES]).assign(condition=CONDITIONS, rare=np.log1p(RANDOM.integers(0, 3, CELLS)))
    assert from_frame(logs).features == (*GENES, "rare")
    named = BASE.assign(rare=rare, RUNX1=rare[::-1], PLATE1=rare * 2, cell_area=RANDOM.permutation(CELLS) * 7 + 1000)
    assert from_frame(named).features == (*MARKERS, "rare", "RUNX1", "PLATE1", "cell_area")
    with pytest.raises(TypeError, match=r"'phase' is not numeric .*Nor are 'donor'.*exclude=\['phase', 'donor'\]"):
        from_frame(BASE.assign(phase=1j * BASE["CD3"], donor="d1"))


def test_patterns_choose_and_a_name_wins_over_a_pattern():
    table = BASE.assign(**{"CD*": BASE["CD3"] + 1, "n": 3})
    assert from_frame(table, features=["CD?"]).features == ("CD3", "CD4", "CD*")
    assert from_frame(table, features=["pS6", "CD*"]).features == ("pS6", "CD*")
    assert from_frame(table, features="CD?", exclude=["*3"]).features == ("CD4", "CD*")
    with pytest.raises(KeyError, match=r"No 'cd\?' in the frame; known are 'CD3'"):
        from_frame(table, features=["cd?"])
    with pytest.raises(KeyError, match="No 'CD5'"):
        from_frame(table, exclude=["CD5"])
    with pytest.raises(ValueError, match="leaves no feature"):
        from_frame(table, features=["CD3"], exclude=["CD3"])
    assert matching("*", ["a", "b"], "x") == ["a", "b"]


def test_the_same_holds_for_anndata_and_files(tmp_path):
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(
        COUNTS[GENES].to_numpy(np.float32), obs=COUNTS[["condition"]].set_index(COUNTS.index.map(str))
    )
    adata.var_names = GENES
    data = from_anndata(adata, features=["*1"], exclude="MT-*")
    assert data.features == ("KLF1", "COL1A1", "ID1", "TOTAL1")
    assert data.reading.left_out == {"MT-CO1": "excluded"}
    BASE.to_csv(tmp_path / "once.csv")
    pd.read_csv(tmp_path / "once.csv").assign(cell=counter(), empty=0.0).to_csv(tmp_path / "twice.csv")
    data = own_data(path=tmp_path / "twice.csv")
    assert data.features == tuple(MARKERS)
    assert set(data.reading.left_out) == {"Unnamed: 0", "Unnamed: 0.1", "cell", "empty"}
    train = dataclasses.replace(data, features=("a", "b", "c"))
    experiment = Experiment(jax.random.key(0), train, None, None, {}, Recipe(), {}, None)
    shown = experiment.describe().splitlines()
    assert "features from 'a' to 'c'" in shown
    assert "scale found: raw values; taken as they are" in shown
    assert any(line.startswith("left out, a column without a name") and "'Unnamed: 0.1'" in line for line in shown)
    assert "left out, the same in all cells, 0: 'empty'" in shown
    assert own_data(path=tmp_path / "twice.csv", features="('CD*',)", exclude=("CD3",)).features == ("CD4",)


def test_names_of_no_measurements_in_a_matrix_are_remarked_on(caplog, monkeypatch):
    anndata = pytest.importorskip("anndata")
    monkeypatch.setattr(logging.get_absl_logger(), "propagate", True)
    names = ["Time", "FSC-A", "DNA1", "CD3"]
    x = RANDOM.lognormal(size=(CELLS, 4)).astype(np.float32)
    for own in (names, ["TIMELESS", "DNA2", "REP15", "KLF1"]):
        caplog.clear()
        assert from_arrays(pd.DataFrame(x, columns=own), CONDITIONS).features == tuple(own)
        adata = anndata.AnnData(x, BASE[["condition"]].set_index(BASE.index.map(str)), pd.DataFrame(index=own))
        assert from_anndata(adata).features == tuple(own)
        assert caplog.text.count("no measurements by their names: 'Time', 'FSC-A', 'DNA1'.") == 2 * (own == names)


@pytest.mark.parametrize(
    ("change", "message"),
    [(("CD4", "CD3"), "'a.csv' has 2 columns 'CD3'"), ((",", ";"), "one column, 'CD3;CD4;.*joined by ';'")],
)
def test_a_header_that_is_none_is_refused(change, message, tmp_path):
    (tmp_path / "a.csv").write_text(BASE.to_csv(index=False).replace(*change))
    with pytest.raises(ValueError, match=message):
        own_data(path=tmp_path / "a.csv")


def test_channels_of_cytometry_that_are_no_markers_are_left_out(tmp_path):
    flowio = pytest.importorskip("flowio")
    channels = dict.fromkeys(("Time", "Event_length", "FSC-A", "SSC-H", "Residual"), "")
    channels |= {"Ir191Di": "191Ir_DNA1", "Pt195Di": "cisplatin", "Ce140Di": "140Ce_Bead"}
    channels |= {"Pd102Di": "BC102", "Pd104Di": "BCKG104", "Xe131Di": "Xe131", "Pt198Di": "198Pt_Live", "HDR-T": ""}
    channels |= {"Er168Di": "pS6", "Nd144Di": "CD3", "Yb172Di": "-", "In113Di": "113In_BCL6"}
    for name in ("control", "A"):
        events = RANDOM.lognormal(2, 1, (50, len(channels)))
        with (tmp_path / f"{name}.fcs").open("wb") as file:
            markers = [*channels.values()]
            flowio.create_fcs(file, events.ravel(), channel_names=[*channels], opt_channel_names=markers)
    data = own_data(path=tmp_path, condition="file", arcsinh=5.0)
    assert data.features == ("pS6", "CD3", "Yb172Di", "113In_BCL6")  # a marker without a name is its channel
    assert len(data.reading.left_out) == 13
    table = pd.DataFrame(RANDOM.lognormal(size=(40, 3)), columns=["141Pr_CD3", "191Ir_DNA", "Viability"])
    table.assign(condition=["control", "A"] * 20).to_csv(tmp_path / "events.csv", index=False)
    assert own_data(path=tmp_path / "events.csv").features == ("141Pr_CD3",)  # the same names in a table
    assert own_data(path=tmp_path, condition="file", features=["191Ir*", "pS6"]).features == ("191Ir_DNA1", "pS6")


def test_totals_are_those_of_all_measured_columns():
    table = COUNTS.assign(batch=1 + np.arange(CELLS) % 2, n_counts=5000, cell=counter())
    total = COUNTS[GENES].to_numpy().sum(axis=1)
    found = measured_columns(
        table.drop(columns="condition"), np.zeros(CELLS, int), make_selection(["KLF1"]), counts=True
    )
    assert found.features == ["KLF1"] and found.counted == GENES
    data = from_frame(table, features=["KLF1", "ID1"], normalize=True)
    np.testing.assert_allclose(data.size_factors, total / 1e4, rtol=1e-6)
    np.testing.assert_allclose(data.x, np.log1p(COUNTS[["KLF1", "ID1"]] / total[:, None] * 1e4), rtol=1e-5)
