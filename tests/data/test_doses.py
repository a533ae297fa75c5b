"""Doses and names that would be taken for something else: refused with the fix, unless they are asked for."""

import itertools

import jax
import numpy as np
import pandas as pd
import pytest

from pdae_jax import build
from pdae_jax.data.load import from_anndata, from_arrays, from_frame
from pdae_jax.data.own_data import own_data
from pdae_jax.recipe import Recipe

RANDOM = np.random.default_rng(0)
BOTH = ("zero", "negative")


def frame_of(**columns):
    """Two cells of each row, with two features."""
    frame = pd.concat([pd.DataFrame(columns)] * 2, ignore_index=True)
    return frame.assign(**{name: RANDOM.normal(size=len(frame)) for name in ("f", "g")})


def by_frame(names, doses, **options):
    frame = frame_of(condition=names, dose=doses)
    return from_frame(frame, dose="dose", features=["f", "g"], **options)


def by_anndata(names, doses, **options):
    import anndata

    frame = frame_of(condition=names, dose=doses)
    obs = frame[["condition", "dose"]].set_axis(frame.index.astype(str))
    return from_anndata(anndata.AnnData(frame[["f", "g"]].to_numpy(np.float32), obs=obs), dose="dose", **options)


def by_name(names, doses, **options):
    texts = [name if pd.isna(dose) else f"{name}:{dose}" for name, dose in zip(names, doses, strict=True)]
    return from_arrays(RANDOM.normal(size=(2 * len(texts), 2)), texts * 2, dose_in_name=True, **options)


@pytest.mark.parametrize(("name", "warned"), [
    ("log10_dose", True), ("logDose", True), ("ln(conc)", True), ("dose.log", True), ("logical", False),
    ("log1p_dose", False), ("log10(dose+1)", False), ("catalog", False), ("dose", False),
])  # fmt: skip
def test_columns_named_as_logarithms_are_warned_of(log, name, warned):
    """10 nM to 10 uM are 1 to 4 then: nothing in the numbers tells."""
    frame = frame_of(condition=["DMSO", "A", "A"], **{name: [np.nan, 1.0, 4.0]})
    from_frame(frame, dose=name, features=["f", "g"], control="DMSO")
    assert ("logarithms by its name" in log.text) == warned


@pytest.mark.parametrize("read", [by_frame, by_anndata, by_name])
def test_logarithms_of_doses_are_refused_unless_they_are_meant(read):
    """1 uM would become the control, and less than that the opposite of the drug."""
    names, doses = ["DMSO", "A", "A", "B"], np.array([np.nan, 1, 10, 100])
    with pytest.raises(ValueError, match=r"2 cells have the dose 0.*'A.*0.*' \(2 cells\).*log1p.*allow_doses=\('zero'"):
        read(names, np.log10(doses), control="DMSO")
    with pytest.raises(ValueError, match=r"2 cells have a dose below 0.*'A.*-1.*' \(2 cells\).*log1p"):
        read(names, np.log10(doses / [1, 10, 1, 1]), control="DMSO")
    meant = read(names, np.log10(doses / [1, 10, 1, 1]), control="DMSO", allow_doses="negative")
    assert meant.label("A:-1").tolist() == [-1, 0]
    meant = read(names, np.log10(doses), control="DMSO", allow_doses=BOTH)
    np.testing.assert_array_equal(meant.counts, [4, 2, 2])
    assert read(names, doses, control="DMSO").num_conditions == 4
    assert read(["A", "A", "B"], [0, 1, 2], control="vehicle").counts[0] == 2  # nothing else is the control
    with pytest.raises(ValueError, match=r"the dose 0.*'DMSO' is named"):  # a file of its own: training data name it
        read(["A", "A"], [0, 10], like=read(names, doses, control="DMSO"))
    with pytest.raises(ValueError, match="allow_doses names 'zeros'"):
        read(names, doses, control="DMSO", allow_doses="zeros")


@pytest.mark.parametrize("dose", [-np.inf, np.inf, "-Inf", "inf"])
def test_an_infinite_dose_is_refused_in_the_control_too(dose):
    for read in (by_frame, by_name):
        with pytest.raises(ValueError, match=r"(?i)'DMSO.*inf.*log1p"):
            read(["DMSO", "A", "B"], [dose, 1, 2], control="DMSO", allow_doses=BOTH)
        with pytest.raises(ValueError, match=r"(?i)inf"):
            read(["DMSO", "A", "B"], [np.nan, dose, 2], control="DMSO", allow_doses=BOTH)
    for usual in (np.nan, None, "", "NA", "vehicle", 0, 0.1):
        assert by_frame(["DMSO", "A"], pd.Series([usual, 1], dtype=object), control="DMSO").num_conditions == 2


@pytest.mark.parametrize(("dose", "held"), [(5e-46, "0"), (1e39, "inf"), (2e-45, "1.4013e-45")])
def test_a_dose_that_float32_cannot_hold_is_refused_by_every_door(dose, held):
    x = RANDOM.normal(size=(6, 2))
    for read in (
        lambda: by_frame(["control", "A", "A"], [0, dose, 1]),
        lambda: by_name(["control", "A", "A"], [np.nan, dose, 1]),
        lambda: from_arrays(x, [{}, {"A": dose}, {"A": 1}] * 2),
        lambda: from_arrays(x, labels=np.array([[0], [dose], [1]] * 2)),
        lambda: from_arrays(x, ["control", "A", "B"] * 2, perturbations=["A", "B"]).label({"A": dose}),
    ):
        with pytest.raises(ValueError, match=f"which float32 holds as {held}. Choose another unit"):
            read()


def test_explicit_vectors_may_be_negative_or_zero():
    x = RANDOM.normal(size=(6, 2))
    assert from_arrays(x, labels=np.array([[0], [-1], [1]] * 2)).label([-1.0]) == -1
    assert from_arrays(x, [{}, {"A": -1}, {"A": 0}] * 2).counts.tolist() == [4, 2]
    data = by_frame(["DMSO", "A+B", "A", "B"], ["", "1+0", "1", "1"], control="DMSO")
    assert data.counts.tolist() == [2, 4, 2] and data.reading is not None
    assert data.reading.absent == {"A+B at 1+0": "A"}
    experiment = build.Experiment(jax.random.key(0), data, None, None, {}, Recipe(), {}, None)
    assert "A dose of 0 was read as absent: A+B at 1+0 is A" in experiment.describe()


@pytest.mark.parametrize(
    ("names", "dose", "words"),
    [
        ("A", "0,05", "decimal comma as a point"),
        ("A+B", "0,5+1", "decimal comma as a point"),
        ("A", "1.000,5", "Pass one number"),
        ("A", "1_000", "Pass one number"),
        ("A", "10 uM", "Take off the unit 'uM'"),
    ],
)
def test_numbers_that_are_written_otherwise_are_refused(names, dose, words):
    with pytest.raises(ValueError, match=words) as caught:
        by_frame(["control", names], ["", dose])
    assert "Take off the unit ','" not in str(caught.value)
    assert by_frame(["control", "A+B", "A"], ["", "1e+03", " 1E+3"]).label("A:1e+3+B:1000").tolist() == [1000, 1000]


@pytest.mark.parametrize(
    ("separator", "name"),
    [(".", "A:0.5"), ("-", "A:-1"), ("-", "A:1e-3-B"), ("e", "A:1e3"), ("0", "A:10"), (":", "A:0.5")],
)
def test_separators_that_cut_doses_are_refused(separator, name):
    names = ["control", "A", "B", "5", "3", "1", name]
    with pytest.raises(ValueError, match=r"would cut off the number.*separator="):
        from_arrays(RANDOM.normal(size=(14, 2)), names * 2, separator=separator)
    dose = float(name.removesuffix("-B")[2:])
    if separator in f"{dose:g}":  # as names have it
        with pytest.raises(ValueError, match="would cut off the number"):
            by_frame(["control", "A"], [0, dose], separator=separator, allow_doses=BOTH)
        with pytest.raises(ValueError, match="would cut off the number"):
            from_arrays(np.eye(4), labels=np.array([[0], [dose]] * 2), perturbations=["A"], separator=separator)
    data = from_arrays(RANDOM.normal(size=(12, 2)), names[:-1] * 2, separator=separator)
    with pytest.raises(ValueError, match="would cut off the number"):
        data.label(name)


@pytest.mark.parametrize("name", ["A:0,5", "A:\u22121", "B+A:-1,5"])
def test_numbers_of_other_languages_are_refused_in_names(name):
    with pytest.raises(ValueError, match="decimal comma, or a dash"):
        from_arrays(np.eye(6), ["control", name, "A"] * 2)
    assert from_arrays(np.eye(4), ["control", name] * 2, perturbations=[name]).perturbations == (name,)


def test_a_number_with_a_plus_is_one_number():
    """R and pandas write 100000 so."""
    data = from_arrays(RANDOM.normal(size=(8, 2)), ["control", "A:1e+05", "A:+0.5+B", "B"] * 2)
    assert data.perturbations == ("A", "B")
    assert data.label("A:1e+05").tolist() == [1e5, 0] and data.index("B+A:+0.5") == 2
    with pytest.raises(ValueError, match=r"dose '1\.5': one number, or 2 joined by '\.'"):
        by_frame(["control", "A.B", "A", "B"], ["", "1.5", "1", "1"], separator=".")


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_name_is_split_only_where_all_its_parts_stand_alone(log):
    drugs, kinds = ["none", "A", "B", "A+B"], ["Mono", "CD16+ Mono", "CD16+CD8+", "B cell"]
    rows = list(itertools.product(drugs, kinds))
    frame = frame_of(drug=[drug for drug, _ in rows], kind=[kind for _, kind in rows])
    options = {"condition": ["drug", "kind"], "control": ["none", "B cell"], "features": ["f", "g"]}
    for more in ({}, {"strata": "kind"}):
        data = from_frame(frame, **options, **more)
        assert data.perturbations == ("Mono", "CD16+ Mono", "CD16+CD8+", "A", "B") or not more
        assert set(data.perturbations) == {"Mono", "CD16+ Mono", "CD16+CD8+", "A", "B"}
        assert data.label("A+B+CD16+ Mono").sum() == 3 and data.has("B+CD16+ Mono+A")
        assert set(data.strata) == ({"Mono", "CD16+ Mono", "CD16+CD8+"} if more else set())
    assert "Read as one name each, because a part does not stand alone: 'CD16+ Mono' ('CD16')" in log.text
    with pytest.raises(KeyError, match="No 'kinds' in condition"):
        from_frame(frame, **options, strata="kinds")


def test_a_cell_type_is_no_combination_with_that_of_the_control(log):
    kinds = ["Mono", "CD16+ Mono", "CD4", "CD8", "CD14+ Mono"]
    rows = list(itertools.product(["none", "A+none", "B+none", "A+B"], kinds))
    frame = frame_of(drug=[drug for drug, _ in rows], kind=[kind for _, kind in rows])
    data = from_frame(frame, condition=["drug", "kind"], control=["none", "Mono"], features=["f", "g"])
    assert set(data.perturbations) == {"A", "B", "CD16+ Mono", "CD4", "CD8", "CD14+ Mono"}
    assert data.label("A+B+CD16+ Mono").sum() == 3 and "'CD16+ Mono' ('CD16')" in log.text
    log.clear()
    from_frame(frame[frame.kind == "Mono"], condition="drug", control="none", features=["f", "g"])
    assert "Read as one name" not in log.text  # of one column they are split, wherever the separator is


def test_a_stratum_is_never_split_and_has_no_dose():
    frame = frame_of(
        drug=["none", "A", "B", "A+B", "A+B", "none", "none"],
        kind=["T", "T", "T", "T", "T+NK", "B", "T+NK"],
        uM=[np.nan, 2, 3, 2, 2, np.nan, 0],
    )
    options = {"condition": ["drug", "kind"], "control": ["none", "T"], "features": ["f", "g"], "strata": ["kind"]}
    with pytest.raises(ValueError, match="'B' is a stratum and a perturbation"):
        from_frame(frame, dose="uM", **options)
    frame["kind"] = frame["kind"].str.replace("B", "pDC")
    for dose in ("uM", ["uM"], ["uM", None]):
        data = from_frame(frame, dose=dose, **options)
        assert data.strata == ("T+NK", "pDC")
        assert data.label("T+NK+A:2+B:2").tolist() == data.labels[data.index("T+NK+B:2+A:2")].tolist()
        assert dict(zip(data.perturbations, data.label("T+NK").tolist(), strict=True))["T+NK"] == 1
    with pytest.raises(ValueError, match="strata have none"):
        from_frame(frame.assign(mM=1.0), dose=["uM", "mM"], **options)
    named = from_arrays(np.eye(8), ["c", "A", "nk", "A+nk"] * 2, control="c", strata="nk")
    assert named.strata == named.select(["c", "A"]).strata == ("nk",)
    assert from_arrays(np.eye(8)[:4], ["A", "A+nk"] * 2, like=named).strata == ("nk",)
    with pytest.raises(KeyError, match="No 'NK' in perturbations"):
        from_arrays(np.eye(8), ["c", "A", "nk", "A+nk"] * 2, control="c", strata="NK")


def test_a_file_knows_its_strata_and_odd_doses(tmp_path):
    frame = frame_of(
        drug=["none", "A", "A", "none", "A"], kind=["T", "T", "T", "CD16+ T", "CD16+ T"], uM=["", 1, -1, "", 1]
    )
    frame.to_csv(tmp_path / "cells.csv", index=False)
    options = {"path": tmp_path / "cells.csv", "condition": "drug", "control": "none", "dose": "uM"}
    options |= {"stratum": "kind", "reference": "T"}
    with pytest.raises(ValueError, match="2 cells have a dose below 0"):
        own_data(**options)
    data = own_data(**options, allow_doses=("negative",))
    assert data.strata == ("CD16+ T",) and data.num_conditions == 5


@pytest.mark.parametrize("word", ["all", "nearest", "control"])
def test_no_condition_has_a_word_of_source(word):
    names = ["DMSO", word, "B"] * 2
    with pytest.raises(ValueError, match=f"condition is named '{word}', but source='{word}'"):
        from_arrays(np.eye(6), names, control="DMSO")
    assert from_arrays(np.eye(6), names, control=["DMSO", word]).conditions == ("DMSO", "B")


def test_letters_are_the_same_however_they_are_typed(log):
    """Letters with accents in one piece or two; text as bytes, as HDF5 gives it; names that only look the same."""
    composed, pieces = "caf\u00e9", "cafe\u0301"
    data = from_arrays(np.eye(8), [b"control", composed, pieces, "B"] * 2)
    assert data.conditions == ("control", composed, "B") and data.counts.tolist() == [2, 4, 2]
    assert data.index(pieces) == data.index(f"{pieces}+control") == 1 and data.label({pieces: 1}).tolist() == [1, 0]
    from_arrays(np.eye(8), ["control", "tgfb", "TGFb", "\u00b5"] * 2)
    assert "Read as two names: 'tgfb' and 'TGFb'" in log.text
    assert from_arrays(np.eye(6), ["A\u200b", "A", "c"] * 2, control=b"c").num_perturbations == 2
    from_arrays(np.eye(6), ["Ctrl", "A", "ctrl"] * 2, control="ctrl")
    assert "Read as two names: 'ctrl' and 'Ctrl'" in log.text
    with pytest.raises(ValueError, match="nearest are 'CTRL'"):
        from_arrays(np.eye(4), ["CTRL", "A"] * 2, control="ctrl")
    assert "'A'" in log.text and r"A\u200b" in log.text


def test_a_number_beside_a_name_is_no_perturbation():
    names = ["Vehicle", "A_10.0", "A_100.0", "B_10.0"] * 2
    with pytest.raises(ValueError, match=r"'A_10.0' has the part '10.0'.*write 'A:10.0'"):
        from_arrays(np.eye(8), names, control="Vehicle", separator="_")
    listed = from_arrays(np.eye(8), names, control="Vehicle", separator="_", perturbations=["A", "B", "10.0", "100.0"])
    assert listed.num_perturbations == 4
    assert from_arrays(np.eye(8), ["0", "101", "7", "101+7"] * 2, control=0).perturbations == ("101", "7")


@pytest.mark.parametrize("joined", ["A_B", "A|B", "B; A", "A_ctrl"])
def test_combinations_that_are_joined_otherwise_are_remarked_on(joined, log):
    names = ["ctrl", "A", "B", joined, "C-1", "T_cell"]
    assert joined in from_arrays(np.eye(12), names * 2, control="ctrl").perturbations
    assert (
        f"{joined!r}. If {joined.strip('ABctrl ')!r} joins names" in log.text and "'C-1'" not in log.text.split("If")[0]
    )


def test_lists_of_names_are_refused_with_the_fix():
    for names in (
        [["A", "B"], ["A"], ["c"]],
        [("A", "B"), ("A",), ("c",)],
        np.array([["A", "B"], ["A", "c"], ["c", "c"]]),
    ):
        with pytest.raises(TypeError, match=r"\['A', 'B'\].*'A\+B'|\('A', 'B'\).*'A\+B'"):
            from_arrays(np.eye(6), [*names, *names], control="c")
    with pytest.raises(ValueError, match=r"'KLF1\+KLF1' names 'KLF1' twice. Write it once"):
        from_arrays(np.eye(4), ["c", "KLF1+KLF1"] * 2, control="c")
