import dataclasses
import types

import anndata
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pdae_jax.data.load import from_anndata, from_arrays, from_frame
from pdae_jax.prediction.export import to_anndata
from pdae_jax.runs.store import fingerprint, load_data, save_data

NAMES = ["A+B", "A+B", "ctrl", "B", "ctrl", "A", "B", "A", "A+B"]
X = np.random.default_rng(0).normal(size=(9, 3))


def assert_same(left, right, *, names=True):
    np.testing.assert_array_equal(left.x, right.x)
    np.testing.assert_array_equal(left.condition_index, right.condition_index)
    np.testing.assert_array_equal(left.labels, right.labels)
    assert (left.conditions, left.perturbations) == (right.conditions, right.perturbations)
    assert not names or left.features == right.features


def frame(**columns):
    table = pd.DataFrame(X, columns=["f", "g", "h"]).assign(condition=NAMES)
    return table.assign(**columns)


def annotated(matrix=X, **obs):
    table = pd.DataFrame({"condition": pd.Categorical(NAMES), **obs}, index=[f"cell{row}" for row in range(9)])
    return anndata.AnnData(matrix, obs=table, var=pd.DataFrame(index=["f", "g", "h"]))


def test_order_is_control_then_first_appearance():
    data = from_arrays(X, NAMES, control="ctrl")
    assert data.conditions == ("ctrl", "A+B", "B", "A")
    assert data.perturbations == ("A", "B")
    assert data.features == ("x0", "x1", "x2")
    np.testing.assert_array_equal(data.labels, [[0, 0], [1, 1], [0, 1], [1, 0]])
    assert [data.conditions[row] for row in data.condition_index] == NAMES
    assert data.x.dtype == data.labels.dtype == np.float32
    np.testing.assert_array_equal(data.cells("B"), X[[3, 6]].astype(np.float32))


def test_strings_dicts_and_a_matrix_say_the_same():
    strings = ["A:0.5+B:2", "A:0.5+B:2", "control", "B", "control", "A:0.1", "B", "A:0.1", "A:0.5+B:2"]
    dicts = [{"A": 0.5, "B": 2}, {"B": 2.0, "A": 0.5}, {}, {"B": 1}, {"A": 0}, {"A": 0.1}, {"A": 0.0, "B": 1}]
    dicts += [{"A": 0.1}, {"A": 0.5, "B": np.float64(2)}]
    matrix = np.array([[0.5, 2], [0.5, 2], [0, 0], [0, 1], [-0.0, 0], [0.1, 0], [0, 1], [0.1, 0], [0.5, 2]])
    expected = from_arrays(X, strings)
    assert expected.conditions == ("control", "A:0.5+B:2", "B", "A:0.1")
    np.testing.assert_array_equal(expected.labels, np.float32([[0, 0], [0.5, 2], [0, 1], [0.1, 0]]))
    assert_same(from_arrays(X, dicts), expected)
    assert_same(from_arrays(X, labels=matrix, perturbations=["A", "B"]), expected)
    assert_same(from_arrays(X, labels=pd.DataFrame(matrix, columns=["A", "B"])), expected)
    assert_same(from_arrays(X, labels=scipy.sparse.csr_matrix(matrix), perturbations=["A", "B"]), expected)
    assert from_arrays(X, labels=matrix).perturbations == ("p0", "p1")
    for name, row in zip(expected.conditions, expected.labels, strict=True):
        np.testing.assert_array_equal(expected.label(name), row)


def test_names_with_a_matrix_stay_names():
    names, labels = ["drug", "none", "both"] * 3, [[1, 0], [0, 0], [1, 2]] * 3
    data = from_arrays(X, names, labels=labels, perturbations=["A", "B"], control="none")
    assert data.conditions == ("none", "drug", "both")
    np.testing.assert_array_equal(data.labels, [[0, 0], [1, 0], [1, 2]])
    np.testing.assert_array_equal(data.label("both"), data.label("A+B:2"))
    table = pd.DataFrame(labels, columns=["A", "B"]).astype({"A": "boolean", "B": "Int64"})
    assert_same(from_arrays(X, names, labels=table, control="none"), data)


def test_control_as_part_of_a_name_and_a_colon_in_a_known_name():
    data = from_arrays(X, ["A+ctrl", "ctrl", "HLA:2+A"] * 3, perturbations=["HLA:2", "A"], control="ctrl")
    assert data.conditions == ("ctrl", "A", "HLA:2+A")
    np.testing.assert_array_equal(data.labels, [[0, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize(
    "convert",
    [
        scipy.sparse.csr_matrix,
        scipy.sparse.csc_array,
        scipy.sparse.coo_matrix,
        jnp.asarray,
        np.ndarray.tolist,
        lambda x: pd.DataFrame(x, columns=["x0", "x1", "x2"]),
    ],
)
def test_every_matrix_reads_alike(convert, monkeypatch):
    monkeypatch.setattr("pdae_jax.data.observations.BLOCK_ROWS", 4)  # nine rows: two whole blocks and a rest
    x = X.astype(np.float32) * (X > 0)
    assert_same(from_arrays(convert(x), NAMES, control="ctrl"), from_arrays(x, NAMES, control="ctrl"))


def test_input_is_copied_and_not_changed():
    x = X.astype(np.float32)
    data = from_arrays(x, NAMES, control="ctrl")
    x[:] = 0
    np.testing.assert_array_equal(data.x, X.astype(np.float32))


def test_arrays_are_read_only_and_those_of_the_user_are_left_as_they_are(tmp_path):
    data = from_arrays(X, NAMES, control="ctrl")
    mine = np.array(data.x)
    other = dataclasses.replace(data, x=mine)
    save_data(tmp_path / "data.npz", other)
    before = fingerprint(other)
    mine *= 2
    assert mine.flags.writeable and fingerprint(dataclasses.replace(other)) == before
    parts = [data, other, data.select(["A", "ctrl"]), data.take(np.arange(3)), load_data(tmp_path / "data.npz")]
    for part in parts:
        for array in (part.x, part.labels, part.condition_index, part.counts, part.rows[0]):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
    exported = to_anndata(data)
    exported.X[:] = 0
    np.testing.assert_array_equal(data.x, X.astype(np.float32))


def test_frame():
    expected = from_arrays(X, NAMES, features=["f", "g", "h"], control="ctrl")
    assert_same(from_frame(frame(), control="ctrl"), expected)
    data = from_frame(frame(well="a1", n=pd.array([1, 2, 3] * 3, dtype="Int64")), features=["h", "n"], control="ctrl")
    assert data.features == ("h", "n")
    np.testing.assert_array_equal(data.x, np.stack([X[:, 2], [1, 2, 3] * 3], axis=1).astype(np.float32))


def test_dose_columns():
    doses = ["1+0.5", "1+0.5", "nan", "2", "", "1.0", "2.0", "1", "1+0.5"]
    data = from_frame(frame(dose=doses), dose="dose", control="ctrl")
    assert data.conditions == ("ctrl", "A+B:0.5", "B:2", "A")
    np.testing.assert_array_equal(data.labels, [[0, 0], [1, 0.5], [0, 2], [1, 0]])
    number = from_frame(frame(dose=[3.0, 3, np.nan, 1, np.nan, 1, 1, 1, 3]), dose="dose", control="ctrl")
    np.testing.assert_array_equal(number.labels, [[0, 0], [3, 3], [0, 1], [1, 0]])
    with_control = frame(condition=["A+ctrl", "ctrl", "B+A"] * 3, dose=["0.5+1", "1+1", "2+1"] * 3)
    assert from_frame(with_control, dose="dose", control="ctrl").conditions == ("ctrl", "A:0.5", "A+B:2")


@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("store", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_anndata_in_memory_backed_and_on_disk(store, tmp_path, monkeypatch):
    monkeypatch.setattr("pdae_jax.data.observations.BLOCK_ROWS", 4)
    adata = annotated(store(X), dose=["1+2"] * 3 + ["1"] * 6, plate=pd.Categorical(list("aabbaabba")))
    adata.layers["twice"] = store(2 * X)
    adata.write_h5ad(tmp_path / "data.h5ad")
    adata.write_zarr(tmp_path / "data.zarr")
    expected = from_arrays(X, NAMES, features=["f", "g", "h"], control="ctrl")
    backed = anndata.read_h5ad(tmp_path / "data.h5ad", backed="r")
    for source in (
        adata,
        adata[:],
        tmp_path / "data.h5ad",
        str(tmp_path / "data.h5ad"),
        backed,
        tmp_path / "data.zarr",
    ):
        assert_same(data := from_anndata(source, control="ctrl"), expected)
        assert data.reading is not None and data.reading.others == {"dose": 2, "plate": 2}
        some = from_anndata(source, control="ctrl", layer="twice", features=["h", "f"])
        assert some.features == ("h", "f")
        np.testing.assert_array_equal(some.x, 2 * X[:, [2, 0]].astype(np.float32))
    backed.file.close()
    doses = annotated(store(X), dose=["1+2", "1+2", "", "1", "", "1", "1", "1", "1+2"])
    assert from_anndata(doses, dose="dose", control="ctrl").conditions == ("ctrl", "A+B:2", "B", "A")


def test_data_round_trip_through_h5ad(tmp_path):
    data = from_arrays(X, ["A:0.5", "ctrl", "B/C & A"] * 3, features=["f/1", "g", "h"], control="ctrl", separator=" & ")
    to_anndata(data).write_h5ad(tmp_path / "data.h5ad")
    assert_same(from_anndata(tmp_path / "data.h5ad", control="ctrl", separator=" & "), data)
    stored = anndata.read_h5ad(tmp_path / "data.h5ad").uns["perturbation_data"]
    assert stored["separator"] == " & "
    np.testing.assert_array_equal(stored["labels"], data.labels)


def test_predictions_round_trip_through_h5ad(tmp_path):
    def prediction(condition, rows, **verdict):
        fields = {"identified": True, "supported": None, "assumption_tested": False, "residual": 0.25, **verdict}
        return types.SimpleNamespace(
            samples=X[rows].astype(np.float32),
            features=("f", "g", "h"),
            condition=condition,
            label=np.float32([1, len(rows)]),
            source="control",
            verdict=types.SimpleNamespace(**fields, summary=lambda: f"{condition}: fine."),
        )

    both = [prediction("BCR/FcR & nk", range(4)), prediction("A", range(4, 6), identified=False, leverage=2)]
    to_anndata(both).write_h5ad(tmp_path / "predictions.h5ad")
    adata = anndata.read_h5ad(tmp_path / "predictions.h5ad")
    np.testing.assert_array_equal(adata.X, X[:6].astype(np.float32))
    assert list(adata.var_names) == ["f", "g", "h"]
    assert isinstance(adata.obs["condition"].dtype, pd.CategoricalDtype)
    assert adata.obs["condition"].tolist() == ["BCR/FcR & nk"] * 4 + ["A"] * 2
    assert set(adata.obs["source"]) == {"control"}
    table = pd.DataFrame(adata.uns["predictions"]).set_index("condition")
    assert table["identified"].tolist() == ["True", "False"]
    assert table["supported"].tolist() == ["unknown"] * 2
    assert table.loc["A", "summary"] == "A: fine."
    np.testing.assert_array_equal(table[["residual", "leverage"]], [[0.25, np.nan], [0.25, 2.0]])
    np.testing.assert_array_equal(adata.uns["labels"], [[1, 4], [1, 2]])
    assert to_anndata(both[0]).shape == (4, 3)
    both[1].features = ("f", "g", "other")
    with pytest.raises(ValueError, match=r"'other'.*one by one"):
        to_anndata(both)
    with pytest.raises(ValueError, match=r"list is empty.*predict"):
        to_anndata([])
    with pytest.raises(TypeError, match=r"ndarray.*predict"):
        to_anndata(X)


def with_value(row, column, value):
    x = X.copy()
    x[row, column] = value
    return x


GOOD = {"x": X, "conditions": NAMES, "control": "ctrl", "features": ["f", "g", "h"]}
MATRIX = np.array([[1.0, 1], [1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [0, 1], [1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("change", "error", "offender", "fix"),
    [
        # observations
        ({"x": with_value(4, 1, np.nan)}, ValueError, "'g' has 1 values that are NaN.*row 4: nan", "impute"),
        ({"x": with_value(slice(2, 5), 2, -np.inf)}, ValueError, "'h' has 3 values.*row 2: -inf", "Drop these"),
        ({"x": with_value(0, 0, 1e300)}, ValueError, "'f' has 1 values.*row 0: inf", "Drop these"),
        ({"x": scipy.sparse.csr_matrix(with_value(4, 1, np.nan))}, ValueError, "'g' has 1 values", "impute"),
        ({"x": with_value(slice(None), 1, 2.5)}, ValueError, "Constant features: 'g'.* 2.5 in all 9", "features="),
        ({"x": X.astype(str)}, TypeError, "dtype <U", "astype"),
        ({"x": X + 1j}, TypeError, "complex128", "real numbers"),
        ({"x": pd.DataFrame(X).assign(well="a1"), "features": None}, TypeError, "'well' is not numeric.*'a1'", "Pass"),
        ({"x": annotated()}, TypeError, "x is a AnnData", "from_anndata"),
        ({"x": X[:, 0]}, ValueError, r"shape \(9,\)", r"x\[:, None\]"),
        ({"x": X[:0], "conditions": []}, ValueError, "0 cells, 3 features", "Pass some cells"),
        ({"x": X[:, :0], "features": []}, ValueError, "9 cells, 0 features", "at least one feature"),
        ({"features": ["f", "g"]}, ValueError, "2 names.*3 columns", "one name per column"),
        ({"features": ["f", "g", "f"]}, ValueError, "'f' is there 2 times", "rename"),
        # conditions
        ({"conditions": NAMES[:-1]}, ValueError, "conditions has 8 entries.*9 rows", "one entry per row"),
        ({"conditions": None}, ValueError, "No conditions", "labels="),
        ({"conditions": "A+B"}, TypeError, "'A[+]B'", "one entry per cell"),
        ({"control": "Ctrl"}, ValueError, "no condition is 'Ctrl'.*nearest are 'ctrl'", "Pass control="),
        ({"conditions": ["a"] * 9}, ValueError, "No control cells.*known are 'a'", "add unperturbed cells"),
        ({"conditions": [*NAMES[:-1], "C"]}, ValueError, "one cell: 'C'", "merge"),
        ({"conditions": ["ctrl", "A+A", "A"] * 3}, ValueError, "'A[+]A' names 'A' twice", "'A:2'"),
        ({"conditions": ["ctrl", "A+", "A"] * 3}, ValueError, "'A[+]' has an empty name", "separator="),
        ({"conditions": ["ctrl", "A:inf", "A"] * 3}, ValueError, "'A:inf'.*dose of 'A' is inf", "real numbers"),
        ({"conditions": [*NAMES[:-1], None]}, ValueError, "None.*row 8", "drop these"),
        ({"conditions": [*NAMES[:-1], np.nan]}, ValueError, "nan.*1 cells.*row 8", "drop these"),
        ({"conditions": np.arange(9) % 3 / 2}, TypeError, r"0.0 \(float\) in 3 cells", "Pass strings"),
        ({"conditions": [*NAMES[:-1], {"A": 1}]}, TypeError, r"conditions\[8\] is {'A': 1}", "a string for every cell"),
        ({"conditions": [{}] * 8 + ["A"]}, TypeError, r"conditions\[8\] is 'A'", "{} for the control"),
        ({"conditions": [{}] * 8 + [{"A": "high"}]}, TypeError, r"conditions\[8\].*'high'", "number"),
        ({"conditions": [{}, {"A": np.inf}, {}] * 3}, ValueError, "'A': inf.*not finite", "real numbers"),
        ({"conditions": [{"A": 1}, {"B": 1}, {}] * 3, "perturbations": ["A"]}, KeyError, "'B'", "add it to"),
        ({"perturbations": ["A", "Bb"]}, KeyError, "names 'B'.*nearest are 'Bb'", "add it to perturbations"),
        ({"perturbations": ["A", "B", "A"]}, ValueError, "'A' is given 2 times", "rename"),
        ({"perturbations": ["A", "B", "ctrl"]}, ValueError, "'ctrl' has the name of the control", "rename"),
        ({"perturbations": ["A", "B", "A+B"]}, ValueError, r"'A\+B' also reads as 'A' and 'B'", "separator that"),
        ({"perturbations": ["A", "B", "A:2"]}, ValueError, "'A:2' also reads as 'A'", "Rename it"),
        ({"separator": ""}, ValueError, "separator is empty", "'[+]'"),
        # label matrices
        ({"labels": MATRIX[:-1]}, ValueError, "labels has 8 entries.*9 rows", "one entry per row"),
        ({"labels": MATRIX[:, 0]}, ValueError, r"shape \(9,\)", "cells, perturbations"),
        ({"labels": MATRIX, "perturbations": ["A"]}, ValueError, "2 columns.*1 names", "one name per column"),
        ({"labels": MATRIX * [1, np.nan], "perturbations": ["A", "B"]}, ValueError, "row 0.*'B', nan", "0 for absent"),
        ({"labels": MATRIX, "conditions": ["ctrl"] * 9}, ValueError, "'ctrl' has two labels.*row 0.*row 2", "its own"),
        ({"labels": MATRIX, "conditions": [*NAMES[:-1], "x"]}, ValueError, "'A[+]B' and 'x' have the same", "one name"),
        ({"labels": MATRIX, "control": "A"}, ValueError, "control 'A' has the label {'p0': 1.0}", "control="),
        ({"labels": MATRIX, "control": "none"}, ValueError, "'ctrl' has the zero label", "control='ctrl'"),
        ({"labels": MATRIX + 1, "conditions": None}, ValueError, "No control cells", "control="),
        (
            {"labels": 0.5 * MATRIX * (1 + 1e-6 * (np.arange(9) > 5)[:, None]), "conditions": None},
            ValueError,
            "Two labels print as 'p",
            "Round the doses",
        ),
    ],
)
def test_bad_arrays(change, error, offender, fix):
    arguments = GOOD | change
    with pytest.raises(error, match=f"(?s){offender}.*{fix}"):
        from_arrays(arguments.pop("x"), arguments.pop("conditions"), **arguments)


@pytest.mark.parametrize(
    ("call", "error", "offender", "fix"),
    [
        (
            lambda: from_frame(frame(), condition="conditon"),
            KeyError,
            "'conditon'.*nearest are 'condition'",
            "Pass a name",
        ),
        (lambda: from_frame(frame(), features=["f", "gg"]), KeyError, "'gg'", "Pass a name"),
        (lambda: from_frame(annotated()), TypeError, "frame is a AnnData", "from_anndata"),
        (lambda: from_frame(frame(), dose="doses"), KeyError, "'doses'", "Pass a name"),
        (lambda: from_frame(frame(well="a1"), control="ctrl"), TypeError, "'well' is not numeric", "features="),
        (
            lambda: from_frame(frame(well="a1", dose_nM="1", plate="p1"), control="ctrl"),
            TypeError,
            "'well' is not numeric.*Nor are 'dose_nM', 'plate'",
            r"exclude=\['well', 'dose_nM', 'plate'\].*pass dose='dose_nM' instead",
        ),
        (lambda: from_frame(frame(condition=[*NAMES[:-1], None])), ValueError, "'condition'.*1 cells.*row 8", "drop"),
        (lambda: from_frame(frame(dose="x"), dose="dose"), ValueError, r"'A\+B'.*dose 'x'", "2 joined by"),
        (lambda: from_frame(frame(dose="1+2+3"), dose="dose"), ValueError, "dose '1[+]2[+]3'", "2 joined by"),
        (lambda: from_frame(frame(dose=np.nan), dose="dose"), ValueError, "dose nan", "finite"),
        (lambda: from_anndata(annotated(), condition="cond"), KeyError, "'cond' in obs.*'condition'", "Pass a name"),
        (lambda: from_anndata(annotated(), features=["f", "H"]), KeyError, "'H' in var_names", "Pass a name"),
        (lambda: from_anndata(annotated(), layer="counts"), KeyError, "'counts'; there are no layers", "layer=None"),
        (lambda: from_anndata(annotated(None)), ValueError, "no X", "layer="),
        (lambda: from_anndata("nowhere.h5ad"), FileNotFoundError, "'nowhere.h5ad'", "Pass the path"),
        (lambda: from_anndata(frame()), TypeError, "DataFrame", "Pass an AnnData"),
        (lambda: from_anndata(annotated(), control="none"), ValueError, "No control cells.*'none'", "control="),
    ],
)
def test_bad_tables(call, error, offender, fix):
    with pytest.raises(error, match=f"(?s){offender}.*{fix}"):
        call()


@pytest.mark.parametrize(("column", "layer", "offender"), [("cond", None, "condition"), ("condition", "raw", "counts")])
def test_bad_names_for_a_file(tmp_path, column, layer, offender):
    adata = annotated()
    adata.layers["counts"] = X
    adata.write_h5ad(tmp_path / "data.h5ad")
    with pytest.raises(KeyError, match=offender):
        from_anndata(tmp_path / "data.h5ad", condition=column, layer=layer)
