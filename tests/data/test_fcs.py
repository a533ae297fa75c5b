"""Cytometry files: spillover, amplification, gain and time as the standard has them, and endings in capitals."""

import re

import numpy as np
import pytest

from pdae_jax.data.fcs import read_events, spillover_of
from pdae_jax.data.own_data import own_data

flowio = pytest.importorskip("flowio")

CHANNELS = ["FSC-A", "FITC-A", "PE-A", "APC-A", "Time"]
SPILL = np.array([[1.0, 0.12, 0.0], [0.03, 1.0, 0.2], [0.0, 0.07, 1.0]])
KEYWORD = "3,FITC-A,PE-A,APC-A," + ",".join(map(str, SPILL.ravel()))
RANDOM = np.random.default_rng(0)
TRUE = RANDOM.lognormal(4, 1, (80, 5))
MEASURED = TRUE.copy()
MEASURED[:, 1:4] = TRUE[:, 1:4] @ SPILL  # what FCS 3.1 says of $SPILLOVER: rows spill into columns


def write(path, events=MEASURED, channels=CHANNELS, **keywords):
    with path.open("wb") as file:
        flowio.create_fcs(file, events.ravel(), channel_names=channels, metadata_dict=keywords)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("control", "A"):
        write(tmp_path / f"{name}.FCS", spillover=KEYWORD, timestep="0.01")
    return tmp_path


def test_spillover_is_taken_off_where_that_is_asked_for_and_else_remarked_on(folder, caplog):
    data = own_data(path=folder, condition="file", compensate=True)
    assert data.features == ("FITC-A", "PE-A", "APC-A") and data.conditions == ("control", "A")
    np.testing.assert_allclose(data.cells("A"), TRUE[:, 1:4], rtol=1e-4)
    assert not [record for record in caplog.records if "spillover" in record.getMessage()]
    with caplog.at_level("WARNING"):
        left = own_data(path=folder, condition="file")
    np.testing.assert_allclose(left.cells("A"), MEASURED[:, 1:4], rtol=1e-5)
    # a test file is read as the data were that it joins
    again = own_data(path=folder / "A.FCS", condition="file", like=data)
    np.testing.assert_array_equal(again.x, data.cells("A"))


def test_the_warning_names_the_files(folder, monkeypatch):
    said = []
    monkeypatch.setattr("pdae_jax.data.table_files.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    own_data(path=folder, condition="file", compensate=False)
    assert not [words for words in said if "spillover" in words]
    own_data(path=folder, condition="file")
    (found,) = [words for words in said if "spillover" in words]
    assert "'A.FCS', 'control.FCS'. Pass compensate=True" in found


def test_raw_intensities_channels_without_a_marker_and_some_files_with_spillover_are_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("absl.logging.warning", lambda *words: said.append(words[0] % words[1:]))
    for name, spillover in {"control": {}, "A": {"spillover": KEYWORD}}.items():
        with (tmp_path / f"{name}.fcs").open("wb") as file:
            markers = ["", " ", "pS6", "CD4", "Time"]
            flowio.create_fcs(file, MEASURED.ravel(), CHANNELS, opt_channel_names=markers, metadata_dict=spillover)
    data = own_data(path=tmp_path, condition="file")
    assert data.features == ("FITC-A", "pS6", "CD4") and data.reading.left_out["Time"] == "time of the event"
    for words in (
        "'A.fcs'. The other 1 files name none",
        "$PnS, as other channels have it: 'FITC-A'",
        "Pass arcsinh=5",
    ):
        assert [words in line for line in said].count(True) == 1
    said.clear()
    own_data(path=tmp_path, condition="file", compensate=False, arcsinh=150.0, exclude="FITC-A")
    assert not [line for line in said if "Left out" not in line]


def test_what_is_no_spillover_is_none():
    assert spillover_of({}, CHANNELS, "a.fcs") is None
    assert spillover_of({"spill": " "}, CHANNELS, "a.fcs") is None
    assert spillover_of({"spillover": "1,PE-A,1"}, CHANNELS, "a.fcs") is None
    compensated = [f"Comp-{name}" if name[:1] in "FPA" else name for name in CHANNELS[1:]]
    assert spillover_of({"spill": KEYWORD}, compensated, "a.fcs") is None
    with pytest.raises(ValueError, match=r"'spill' of 'a.fcs' is no spillover: '3,FITC-A'"):
        spillover_of({"spill": "3,FITC-A"}, CHANNELS, "a.fcs")
    with pytest.raises(ValueError, match=r"channels that are not there: 'PE-H'; nearest are 'PE-A'"):
        spillover_of({"spill": "2,FITC-A,PE-H,1,0.1,0,1"}, CHANNELS, "a.fcs")


def test_compensation_needs_a_spillover(tmp_path):
    with pytest.raises(ValueError, match=r"'a.fcs' has no spillover"):
        own_data(path=write(tmp_path / "a.fcs"), condition="file", compensate=True)
    (tmp_path / "a.csv").write_text("condition,x\ncontrol,1\n")
    with pytest.raises(ValueError, match=r"compensate=True is for .fcs files, and 'a.csv' is none"):
        own_data(path=tmp_path / "a.csv", compensate=True)


def test_values_are_on_the_linear_scale_of_the_instrument(tmp_path):
    """10^(decades x / range) of logarithmic amplification, x / gain, and seconds, FCS 3.1, 3.2.20."""
    stored = RANDOM.integers(1, 1000, (50, 3)).astype(float)
    keys = {"p1r": "1024", "p2g": "8", "timestep": "0.01"}
    path = write(tmp_path / "a.fcs", stored, ["FL1", "FL2", "Time"], **keys)
    path.write_bytes(re.sub(rb"(?i)(P1E.)0,0", rb"\g<1>4,1", path.read_bytes()))  # FlowIO writes linear values only
    frame = read_events(path, [])
    np.testing.assert_allclose(frame["FL1"], 10 ** (4 * stored[:, 0] / 1024), rtol=1e-5)
    np.testing.assert_allclose(frame["FL2"], stored[:, 1] / 8)
    np.testing.assert_allclose(frame["Time"], stored[:, 2] * 0.01, rtol=1e-6)
