"""Many files read as one: folders of tables, and sample sheets."""

import re

import pytest

from pdae_jax import build, from_frame
from tests.experiments.own_files import MARKERS, assert_same, cells, config_with


def write_csv(frame, file):
    frame.to_csv(file.with_suffix(".csv"), index=False)
    return file.with_suffix(".csv")


def write_tsv(frame, file):
    frame.to_csv(file.with_suffix(".tsv"), index=False, sep="\t")
    return file.with_suffix(".tsv")


def write_parquet(frame, file):
    pytest.importorskip("pyarrow")
    frame.to_parquet(file.with_suffix(".parquet"))
    return file.with_suffix(".parquet")


def write_fcs(frame, file):
    flowio = pytest.importorskip("flowio")
    with file.with_suffix(".FCS").open("wb") as written:
        flowio.create_fcs(written, frame.to_numpy().ravel(), channel_names=list(frame))
    return file.with_suffix(".FCS")


WELLS = {"A1": "DMSO", "A2": "drug", "B1": "DMSO", "B2": "drug"}


def plate(folder, write):
    """Four files of three cells, and all cells with the well of each."""
    folder.mkdir()
    frame = cells(*WELLS, each=3).rename(columns={"condition": "well"}).astype({"m0": "float32", "m1": "float32"})
    names = [write(frame.loc[frame["well"] == well, MARKERS], folder / well).name for well in WELLS]
    return frame.assign(condition=frame["well"].map(WELLS)), names


@pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet, write_fcs])
def test_a_folder_is_read_file_by_file(tmp_path, write):
    frame, _ = plate(tmp_path / "plate", write)
    (tmp_path / "plate" / ".hidden.csv").touch()
    config = config_with(path=str(tmp_path / "plate"), condition="file", control="A1")
    found = build.experiment(config).train
    assert_same(found, from_frame(frame, condition="well", features=MARKERS, control="A1"))


SHEET = """file,condition,dose,line,batch,notes
{0},DMSO,,K562,1,
{1},drug,0.5,K562,1,late
{2},DMSO,,RPE1,2,

{3},drug,2,RPE1,2,"a, b"
"""


@pytest.mark.parametrize("write", [write_csv, write_fcs])
def test_a_sheet_says_what_each_file_is(tmp_path, write, caplog):
    frame, names = plate(tmp_path / "plate", write)
    (tmp_path / "sheet.csv").write_text(SHEET.format(*(f"plate/{name}" for name in names)))
    config = config_with(sheet=str(tmp_path / "sheet.csv"), control="DMSO", stratum="line", reference="K562")
    found = build.experiment(config).train
    lines = frame["well"].map({"A1": "K562", "A2": "K562", "B1": "RPE1", "B2": "RPE1"})
    told = frame.assign(line=lines, dose=frame["well"].map({"A2": 0.5, "B2": 2.0}))
    expected = {"condition": ["condition", "line"], "strata": "line", "dose": "dose", "control": ["DMSO", "K562"]}
    assert_same(found, from_frame(told, features=MARKERS, **expected))
    assert "sheet.csv that no setting uses: 'notes'" in caplog.text
    # Excel writes semicolons where numbers have commas, and marks the beginning; paths are from a folder that is given
    text = SHEET.format(*names).replace('"a, b"', "a").replace(",", ";")
    (tmp_path / "sheet.tsv").write_text(text, encoding="utf-8-sig")
    config.data.update(sheet=str(tmp_path / "sheet.tsv"), path=str(tmp_path / "plate"))
    assert_same(build.experiment(config).train, found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("A1.csv", "A9.csv"), FileNotFoundError, "Line 2 of 'sheet.csv': no file 'A9.csv'; nearest are"),
        (("A1.csv", "a1.csv"), FileNotFoundError, "no file 'a1.csv'; nearest are 'A1.csv', "),
        (("A1.csv", "C1.csv"), FileNotFoundError, "no file 'C1.csv', but there is one in "),
        (("A2.csv", "A1.csv"), ValueError, "Lines 2 and 3 of 'sheet.csv' have the same file, 'A1.csv'"),
        (("B2.csv,drug", "B2.csv,"), ValueError, "Line 6 of 'sheet.csv' has no 'condition'. Fill it in."),
        (
            ("drug,0.5", "drug,"),
            ValueError,
            "Line 3 of 'sheet.csv' has no 'dose'. Fill it in; only controls have none.",
        ),
        (("RPE1,2,\n", "RPE1,,\n"), ValueError, "Line 4 of 'sheet.csv' has no 'batch'"),
        (("B2.csv", ""), ValueError, "Line 6 of 'sheet.csv' has no file"),
        (("0.5,K562", "0,5,K562"), ValueError, "Line 3 of 'sheet.csv' has 7 values, but there are 6 columns"),
        (("file,", "path,"), KeyError, "No column 'file' in the sheet 'sheet.csv'"),
        (("notes", "batch"), ValueError, "The header of 'sheet.csv' has 'batch' twice"),
        (("notes", "m0"), ValueError, "'A1.csv' has a column 'm0', and so has the sheet"),
        (("A1.csv", "sheet.h5ad"), ValueError, "'sheet.h5ad' ends in none of .csv"),
    ],
)
def test_what_is_wrong_in_a_sheet_is_named_with_its_line(tmp_path, change, error, message):
    _, names = plate(tmp_path / "plate", write_csv)
    (tmp_path / "plate" / "sheet.h5ad").touch()
    (tmp_path / "plate" / "below").mkdir()
    (tmp_path / "plate" / "below" / "C1.csv").touch()
    (tmp_path / "plate" / "sheet.csv").write_text(SHEET.format(*names).replace(*change))
    config = config_with(sheet=str(tmp_path / "plate" / "sheet.csv"), control="DMSO")
    with pytest.raises(error, match=re.escape(message)):
        build.experiment(config)


def test_a_sheet_that_is_passed_as_the_table_is_known(tmp_path):
    _, names = plate(tmp_path / "plate", write_csv)
    (tmp_path / "sheet.csv").write_text(SHEET.format(*names))
    with pytest.raises(ValueError, match=r"sample sheet. Pass it as config.data.sheet"):
        build.experiment(config_with(path=str(tmp_path / "sheet.csv"), control="DMSO"))


def test_files_that_a_sheet_does_not_name_are_said(tmp_path, caplog):
    _, names = plate(tmp_path / "plate", write_csv)
    text = "\n".join(f"{name},{condition}" for name, condition in zip(names[:3], WELLS.values(), strict=False))
    (tmp_path / "plate" / "sheet.csv").write_text(f"file,condition\n{text}\n")
    config = config_with(sheet=str(tmp_path / "plate" / "sheet.csv"), control="DMSO")
    assert build.experiment(config).train.num_cells == 9
    assert "Not read, since sheet.csv does not name them: 'B2.csv'" in caplog.text


def test_a_folder_of_several_kinds_is_refused(tmp_path):
    frame, _ = plate(tmp_path / "plate", write_csv)
    write_tsv(frame, tmp_path / "plate" / "C1")
    for folder, message in {
        tmp_path / "plate": "has .csv and .tsv files",
        tmp_path: "has no file that ends in",
    }.items():
        config = config_with(path=str(folder), condition="file", control="A1")
        with pytest.raises(ValueError, match=message):
            build.experiment(config)
