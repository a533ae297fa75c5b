"""How conditions are written in real files: each way is read as it is meant, or refused by name with the fix."""

import anndata
import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from pdae_jax.data.load import from_anndata, from_arrays, from_frame
from pdae_jax.design.split import hold_out
from pdae_jax.labels import format_label, parse_label
from pdae_jax.prediction.export import to_anndata

RANDOM = np.random.default_rng(0)


def read(names, cells=2, **options):
    """Data with the same number of cells of each name, in the order of the names."""
    names = [name for name in names for _ in range(cells)]
    return from_arrays(RANDOM.normal(size=(len(names), 2)), names, **options)


def read_columns(columns, **options):
    frame = pd.DataFrame(columns)
    frame = pd.concat([frame, frame], ignore_index=True)
    return from_frame(frame.assign(f=RANDOM.normal(size=len(frame))), **options)


def labels_of(data):
    """Every condition's doses by name, without the zeros."""
    return {
        condition: {p: float(dose) for p, dose in zip(data.perturbations, label, strict=True) if dose}
        for condition, label in zip(data.conditions, data.labels, strict=True)
    }


# --- numbers after a colon ------------------------------------------------------------------------------------------


def test_an_identifier_is_one_name(log):
    names = ["CHEBI:41423", "EFO:0001702", "CHEBI:15365"]
    data = read(["control", *names, "EFO:0001702+CHEBI:41423"])
    assert data.perturbations == tuple(names)
    assert labels_of(data)["CHEBI:41423"] == {"CHEBI:41423": 1.0}
    assert labels_of(data)["EFO:0001702+CHEBI:41423"] == {"CHEBI:41423": 1.0, "EFO:0001702": 1.0}
    assert "Read as names, not as doses: 'CHEBI:41423'" in log.text and "dose_in_name=True" in log.text
    train, test = hold_out(data, "CHEBI:41423+EFO:0001702")
    assert test.conditions == ("EFO:0001702+CHEBI:41423",)
    np.testing.assert_array_equal(train.label("CHEBI:15365:0.5"), [0, 0, 0.5])


@pytest.mark.parametrize(
    ("names", "doses"),
    [
        (["MYC:-1"], {"MYC:-1": {"MYC": -1}}),
        (["A:0.5", "A:0.5+B", "A:2"], {"A:0.5+B": {"A": 0.5, "B": 1}, "A:2": {"A": 2}}),
        (["A", "A:2"], {"A": {"A": 1}, "A:2": {"A": 2}}),
        (["A+B", "A:2+B:3", "B"], {"A:2+B:3": {"A": 2, "B": 3}}),
        (["A:0", "A:1", "A:10"], {"control": {}, "A": {"A": 1}, "A:10": {"A": 10}}),
        (["A:2", "A:1e-3"], {"A:2": {"A": 2}, "A:1e-3": {"A": np.float32(1e-3)}}),
    ],
)
def test_a_number_is_a_dose_where_that_is_certain(names, doses):
    found = labels_of(read(["control", *names], allow_doses=("zero", "negative")))
    assert {name: found[name] for name in doses} == {n: {p: float(d) for p, d in e.items()} for n, e in doses.items()}


def test_the_caller_decides_whether_numbers_are_doses():
    assert labels_of(read(["control", "A:1", "A:10"]))["A:10"] == {"A:10": 1.0}
    assert labels_of(read(["control", "A:1", "A:10"], dose_in_name=True))["A:10"] == {"A": 10.0}
    assert labels_of(read(["control", "A:0.5", "B"], dose_in_name=False))["A:0.5"] == {"A:0.5": 1.0}
    assert labels_of(read(["control", "A:10"], perturbations=["A"]))["A:10"] == {"A": 10.0}
    assert labels_of(read(["control", "A:10"], perturbations=["A:10"]))["A:10"] == {"A:10": 1.0}


NAMES = st.lists(
    st.sampled_from(["A", "CHEBI:41423", "EFO:0001702", "(+)-JQ1", "2i (LIF+MEKi+GSK3i)", "cd4+", "x:y", "B & C", "β"]),
    unique=True,
    min_size=1,
)


@hypothesis.given(NAMES, st.data())
def test_labels_round_trip_whatever_the_names(names, data):
    doses = st.sampled_from([0.0, 1.0, 0.5, -1.0, 2.0, 1e-3, 41423.0])
    label = np.float32(data.draw(st.lists(doses, min_size=len(names), max_size=len(names))))
    text = format_label(label, names, control="ctrl")
    np.testing.assert_array_equal(parse_label(text, names, control="ctrl"), label)
    parts = data.draw(
        st.permutations([format_label(row, names, control="ctrl") for row in np.diag(label) if row.any()])
    )
    np.testing.assert_array_equal(parse_label(" + ".join([*parts, "ctrl"]), names, control="ctrl"), label)


# --- names that contain the separator -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["(+)-JQ1", "2i (LIF+MEKi+GSK3i)", "atenolol-(+|-)", "dex+[3+2]"])
def test_pieces_of_a_name_are_refused(name):
    with pytest.raises(ValueError, match=r"(?s)has the part .*brackets|has the part .*no name.*perturbations="):
        read(["control", name])


def test_listed_names_are_found_whole_the_longest_first():
    names = ["(+)-JQ1", "2i (LIF+MEKi+GSK3i)", "dex", "A", "A+"]
    data = read(
        ["PBS+", *names, "2i (LIF+MEKi+GSK3i)+dex", "dex+(+)-JQ1:0.5", "A++dex"], perturbations=names, control="PBS+"
    )
    found = labels_of(data)
    assert found["2i (LIF+MEKi+GSK3i)+dex"] == {"2i (LIF+MEKi+GSK3i)": 1.0, "dex": 1.0}
    assert found["dex+(+)-JQ1:0.5"] == {"dex": 1.0, "(+)-JQ1": 0.5}
    assert data.conditions[data.index("(+)-JQ1:0.5 + dex")] == "dex+(+)-JQ1:0.5"
    assert data.conditions[data.index("dex+A+")] == data.conditions[data.index("A++dex+PBS+")]


# --- spaces, order, the control as a part ---------------------------------------------------------------------------


def test_spaces_around_names_mean_nothing():
    data = read([" ctrl ", "CHRNB1+ctrl ", " CHRNB1", "A : 0.5", "A:0.5 + CHRNB1"], control=" ctrl")
    assert data.control == "ctrl" and data.perturbations == ("CHRNB1", "A")
    np.testing.assert_array_equal(data.counts, [2, 4, 2, 2])
    assert hold_out(data, " CHRNB1 +A: 0.5 ")[1].conditions == ("A:0.5+CHRNB1",)
    doses = read_columns(
        {"condition": [" ctrl", "A ", "A +B"], "dose": ["", " 2 ", "1 + 3 "]}, dose="dose", control="ctrl "
    )
    assert doses.conditions == ("ctrl", "A:2", "A+B:3")
    given = from_arrays(
        np.eye(6), [" c", "c", "A", "A ", "B", "B"], labels=[[0]] * 2 + [[1]] * 2 + [[2]] * 2, control="c"
    )
    assert given.conditions == ("c", "A", "B")


def test_one_condition_however_it_is_written(log):
    data = read(["ctrl", "KLF1+ctrl", "ctrl+KLF1", "KLF1", "A+B", "B+A", "ctrl+ctrl", "A:1"], control="ctrl")
    assert data.conditions == ("ctrl", "KLF1", "A+B", "A")
    np.testing.assert_array_equal(data.counts, [4, 6, 4, 2])
    np.testing.assert_array_equal(data.cells("B+A"), data.x[8:12])
    for ways in (["KLF1", "KLF1+ctrl", "ctrl + KLF1", {"KLF1": 1}], ["A+B", "B+A", "ctrl+B+A:1", {"B": 1, "A": 1}]):
        assert len({data.index(way) for way in ways}) == 1
        for way in ways:
            assert hold_out(data, [way])[1].conditions == data.select([way]).conditions == (ways[0],)
    assert data.select(["B+A", "A+B", "ctrl+A"]).conditions == ("A+B", "A")
    assert "Read as the control 'ctrl': 'ctrl+ctrl'" in log.text
    assert "KLF1 (as 'KLF1+ctrl', 'ctrl+KLF1', 'KLF1')" in log.text
    assert log.text.count("Read 16 cells, 2 features, 4 conditions with 4 cells of the control 'ctrl'") == 1


def test_the_order_in_a_file_does_not_matter():
    names = ["control", "A", "B", "A+B", "A:0.5+B"]
    turned = ["control", "control+A", "B+control", "B+A", "B+A:0.5"]
    left, right = read(names), read(turned)
    assert left.perturbations == right.perturbations
    for one, other in zip(names, turned, strict=True):
        assert left.index(one) == left.index(other) == right.index(one) == right.index(other)


@pytest.mark.parametrize("control", ["control", "control+control"])
def test_columns_joined_by_hand(control):
    data = read(["control+control", "A+control", "control+B", "A+B"], control=control)
    assert data.conditions == ("control", "A", "B", "A+B") and data.perturbations == ("A", "B")


def test_two_columns_of_one_drug_each():
    columns = {
        "Drug1": ["control", "A", "control", "(+)-JQ1", "A"],
        "Drug2": ["control", "control", "A", "A", " (+)-JQ1"],
        "dose1": [np.nan, 1.0, np.nan, 0.5, 1.0],
        "dose2": [np.nan, np.nan, 2.0, 0.0, 0.5],
    }
    both = ["Drug1", "Drug2"]
    data = read_columns({name: columns[name] for name in both}, condition=both)
    assert labels_of(data) == {"control": {}, "A": {"A": 1}, "A+(+)-JQ1": {"A": 1, "(+)-JQ1": 1}}
    np.testing.assert_array_equal(data.counts, [2, 4, 4])
    assert data.index("(+)-JQ1+A") == 2
    dosed = read_columns(columns, condition=both, dose=["dose1", "dose2"])
    assert dosed.conditions == ("control", "A", "A:2", "(+)-JQ1:0.5", "A+(+)-JQ1:0.5")
    obs = pd.DataFrame(columns).sample(20, replace=True, random_state=0).reset_index(drop=True)
    obs.index = obs.index.astype(str)
    adata = anndata.AnnData(RANDOM.normal(size=(20, 2)).astype(np.float32), obs=obs)
    assert set(from_anndata(adata, condition=both).conditions) <= set(data.conditions) | {"(+)-JQ1+A"}
    with pytest.raises(ValueError, match=r"2 condition columns and 3 dose columns.*one for each"):
        read_columns(columns, condition=both, dose=["dose1", "dose2", "dose1"])
    for absent in (None, ""):
        with pytest.raises(
            ValueError, match=r"'Drug2' is missing in 2 cells.*fill in the name of the control, 'control'"
        ):
            read_columns({"Drug1": ["control", "A"], "Drug2": [absent, "B"]}, condition=both)


def test_a_control_whose_parts_are_in_other_conditions():
    names = ["unstimulated & cd4+", "vanadate & cd4+", "unstimulated & nk", "vanadate & nk"]
    with pytest.raises(
        ValueError, match=r"'unstimulated & cd4\+' has the part.*Pass control=\['unstimulated', 'cd4\+'\]"
    ):
        read(names, control=names[0], separator=" & ")
    data = read(names, control=["unstimulated", "cd4+"], separator=" & ")
    assert labels_of(data)["vanadate & nk"] == {"vanadate": 1, "nk": 1} and data.counts[0] == 2
    assert labels_of(data)["nk"] == {"nk": 1}


def test_several_names_of_the_control(log):
    data = read(["NT-1", "NT-2", "A+NT-2", "NT-1+B", "A+B", "NT-2+NT-1"], control=["NT-1", "NT-2"])
    assert data.conditions == ("NT-1", "A", "B", "A+B") and data.control == "NT-1"
    np.testing.assert_array_equal(data.counts, [6, 2, 2, 2])
    assert "Read as the control 'NT-1': 'NT-2', 'NT-2+NT-1'" in log.text
    with pytest.raises(ValueError, match="empty list"):
        read(["NT-1", "A"], control=[])


# --- doses of zero, units, missing names, numbers as names, small conditions ----------------------------------------


def test_a_dose_of_zero_is_absent(log):
    names = ["IPTG+RBS1L+O1", "IPTG+RBS1L+O1", "IPTG", "IPTG", "RBS1L+O1"]
    data = read_columns({"condition": names, "dose": ["0.0+1+1", "2+1+1", "0", "5", "1"]}, dose="dose")
    assert labels_of(data) == {
        "control": {},
        "RBS1L+O1": {"RBS1L": 1, "O1": 1},
        "IPTG:2+RBS1L+O1": {"IPTG": 2, "RBS1L": 1, "O1": 1},
        "IPTG:5": {"IPTG": 5},
    }
    np.testing.assert_array_equal(data.counts, [2, 4, 2, 2])
    assert "Read as the control 'control': 'IPTG at 0'" in log.text
    assert "A dose of 0 is read as absent in 'IPTG+RBS1L+O1 at 0.0+1+1'" in log.text
    assert "doses: IPTG at 2, 5" in log.text
    text = read(["ctrl", "A:0", "A:0+B", "A:2", "A:-0.0+B"], control="ctrl", allow_doses="zero")
    assert text.conditions == ("ctrl", "B", "A:2")
    assert read([{"A": 0, "C": 0}, {"A": 1}]).perturbations == ("A",)


@pytest.mark.parametrize("name", ["A:10 uM", "A:10uM", "A 0.5 µM", "LPS (10 ng/ml)", "10 uM", "A_5%", "B+IR:2 Gy"])
def test_doses_with_units_are_refused_in_names(name):
    with pytest.raises(ValueError, match=r"(?s)is a dose with a unit.*'A:10'.*dose="):
        read(["control", name])
    assert read(["control", name], perturbations=[name]).perturbations == (name,)


@pytest.mark.parametrize("name", ["RPL3L", "p16_2g", "A:24h", "miR-10b", "5-FU", "17-AAG", "C10orf54", "BRD-K98:2a"])
def test_names_that_look_like_doses_stay_names(name):
    assert read(["control", name]).perturbations == (name,)


def test_doses_with_units_are_refused_in_columns():
    with pytest.raises(ValueError, match=r"'A' has the dose '10 uM'. Take off the unit 'uM'.*Pass one number"):
        read_columns({"condition": ["control", "A"], "dose": ["", "10 uM"]}, dose="dose")
    with pytest.raises(ValueError, match=r"'A:0.5' has a dose, and so has the dose column"):
        read_columns({"condition": ["control", "A:0.5"], "dose": [1, 2]}, dose="dose")


@pytest.mark.parametrize("text", ["nan", "NaN", "NA", "None", "none", "null", "<NA>", "n/a"])
def test_missing_values_as_text_are_refused_unless_asked_for(text):
    with pytest.raises(
        ValueError, match=f"condition is missing: '{text}' .str. in 2 cells, the first in row 2.*control="
    ):
        read(["control", text])
    with pytest.raises(ValueError, match=f"'A.{text}' has the part '{text}', which is the text of a missing value"):
        read(["control", "A", f"A+{text}"])
    with pytest.raises(ValueError, match="missing value"):
        read([{}, {text: 1}])
    assert read([text, "A", f"A+{text}"], control=text).conditions == (text, "A")
    assert read(["control", text], perturbations=[text]).perturbations == (text,)


@pytest.mark.parametrize("name", ["-", "?", "A+?", "()"])
def test_what_has_no_letter_or_digit_is_no_name(name):
    with pytest.raises(ValueError, match=r"no name.*perturbations="):
        read(["control", name])


@pytest.mark.parametrize(
    ("values", "control"), [([0, 3, 12], 0), ([0, 3, 12], "0"), ([False, True], False), ([False, True], "False")]
)
def test_integers_and_booleans_are_names(values, control):
    expected = (str(values[0]), *map(str, values[1:]))
    kinds = [list, np.array, pd.Series]
    found = [from_arrays(np.eye(3 * len(values)), kind(values * 3), control=control) for kind in kinds]
    table = pd.DataFrame({"f": np.arange(3.0 * len(values)), "condition": pd.Categorical(values * 3)})
    found.append(from_frame(table, control=control))
    for data in found:
        assert data.conditions == expected and data.perturbations == expected[1:]


def test_small_conditions_are_dropped_with_a_message(log):
    names = ["control"] * 4 + ["A"] * 3 + ["B"] * 2 + ["A+C"] + ["A"]
    x = RANDOM.normal(size=(len(names), 2)).astype(np.float32)
    data = from_arrays(x, names, min_cells=3)
    assert data.conditions == ("control", "A") and data.perturbations == ("A",)
    np.testing.assert_array_equal(data.x, x[[0, 1, 2, 3, 4, 5, 6, 10]])
    assert "Dropped 2 conditions with fewer than 3 cells, 3 cells in all: 'B', 'A+C'" in log.text
    assert from_arrays(x, names, min_cells=2).conditions == ("control", "A", "B")
    assert from_arrays(x, names, min_cells=3, perturbations=["C", "A", "B"]).perturbations == ("C", "A", "B")
    table = pd.DataFrame(x, columns=["f", "g"]).assign(condition=names)
    assert from_frame(table, min_cells=3).conditions == data.conditions
    adata = anndata.AnnData(x, obs=table[["condition"]].set_axis(table.index.astype(str)))
    np.testing.assert_array_equal(from_anndata(adata, min_cells=3).x, data.x)
    for min_cells, message in ((1, "Pass at least 2"), (5, "control 'control' has 4 cells.*smaller min_cells")):
        with pytest.raises(ValueError, match=message):
            from_arrays(x, names, min_cells=min_cells)
    with pytest.raises(ValueError, match=r"one cell: 'A\+C'.*min_cells=2"):
        from_arrays(x, names)


def test_names_survive_a_file(tmp_path):
    data = read(["control", "CHEBI:41423", "A:0.5", "CHEBI:41423+A:0.5", "MYC:-1"], allow_doses="negative")
    to_anndata(data).write_h5ad(tmp_path / "data.h5ad")
    again = from_anndata(tmp_path / "data.h5ad", allow_doses="negative")
    assert (again.conditions, again.perturbations) == (data.conditions, data.perturbations)
    np.testing.assert_array_equal(again.labels, data.labels)


def test_a_combination_in_one_of_several_columns_is_one_where_its_parts_stand_alone_there():
    drugs = ["none", "A", "B", "A+B", "A", "A+B", "B", "X+Y"]
    types = ["cd4+", "cd4+", "cd4+", "cd4+", "nk+", "nk+", "nk+", "nk+"]
    frame = pd.DataFrame({"drug": np.repeat(drugs, 2), "kind": np.repeat(types, 2), "y": np.arange(16.0)})
    data = from_frame(frame, condition=["drug", "kind"], control=["none", "cd4+"])
    assert data.perturbations == ("A", "B", "nk+", "X+Y")
    labels = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 1, 1, 0]]
    np.testing.assert_array_equal(data.labels, [*labels, [0, 0, 1, 1]])


def test_controls_and_doses_are_parts_in_several_columns_too():
    drugs = ["none", "A+none", "B:0.5+none", "A+C", "B:0.2+A", "C"]
    frame = pd.DataFrame({"drug": np.repeat(drugs, 2), "kind": "K562", "y": np.arange(12.0)})
    data = from_frame(frame, condition=["drug", "kind"], control=["none", "K562"])
    assert data.perturbations == ("A", "B", "C")
    np.testing.assert_allclose(data.labels, [[0, 0, 0], [1, 0, 0], [0, 0.5, 0], [1, 0, 1], [1, 0.2, 0], [0, 0, 1]])


# --- another separator than the one that is passed --------------------------------------------------------------------


def test_a_pattern_takes_no_perturbed_cells_for_controls_where_names_are_joined_otherwise(log):
    """`guide_identity` of GSE133344 without separator="_": GATA1 beside a control guide is not the control."""
    pairs = ("NegCtrl0_NegCtrl1", "NegCtrl0_GATA1", "GATA1_NegCtrl0", "KLF1_NegCtrl1", "KLF1_GATA1")
    for names in (pairs, [f"{pair}__{pair}" for pair in pairs], [pair.replace("_", " | ") for pair in pairs]):
        other = "|" if "|" in names[0] else "_"
        with pytest.raises(ValueError, match=rf"matches 'NegCtrl0.*GATA1.*has 'GATA1' in it.*separator='\{other}'"):
            read(names, control="NegCtrl*")
        assert read(names, control="NegCtrl*", separator=other).perturbations == ("GATA1", "KLF1")
    guides = ["NT_g1", "NT_g2", "A_g1", "A_g2", "B_g1"]  # "g1" is no perturbation: nothing begins with it
    assert read(guides, control="NT*").counts.tolist() == [4, 2, 2, 2] and "separator" not in log.text


def test_names_that_another_separator_joins_are_said(log):
    read(["control", "A", "B", "A_B", "B_C"])
    assert "No condition is a combination by separator='+', and 1 would be by '_': 'A_B'" in log.text
    log.clear()
    read(["control", "A", "B", "A_B", "A+B"])
    read(["control", "T_cell", "B_cell", "IL-2", "IL-2/15"])
    assert "would be by" not in log.text
