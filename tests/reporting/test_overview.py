"""What is said of data before anything is trained."""

import itertools

import numpy as np
import pandas as pd

from pdae_jax import from_frame, hold_out
from pdae_jax.reporting.overview import SHOWN, WIDTH, describe, describe_data


def frame_of(*conditions, each=4, **columns):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(len(conditions) * each, 3)), columns=["CD3", "CD8", "pS6"])
    return frame.assign(condition=np.repeat(conditions, each), **{k: np.repeat(v, each) for k, v in columns.items()})


def lines_of(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_all_that_was_read_is_said():
    frame = frame_of("NT-1", "A", "NT-2", "A+B", "B", plate=list("xyxyx")).assign(row=range(20), empty=0.0)
    data = from_frame(frame, control="NT-*", exclude=["plate"])
    text = describe(data, warnings=["one", "two", "one"])
    assert text.startswith("20 cells, 3 features, 4 conditions\ncontrol 'NT-1': 8 cells\n")
    assert "  one control of 2 names, with cells: 'NT-1' (4), 'NT-2' (4)" in text
    assert "features from 'CD3' to 'pS6'\n  'CD3', 'CD8', 'pS6'\n" in text
    assert "\nleft out, a counter of rows" in text and "\nleft out, the same in all cells, 0: 'empty'" in text
    assert "Columns that are not used: 'plate' (2 values). Batches among them" in text
    assert "Warnings while reading\n- one\n- two\n\n" in text
    assert "Nothing is held out for the test" in text
    assert "decades" not in text and "stratum" not in text  # where there are none


def test_a_report_says_what_was_read():
    data = from_frame(frame_of("ctrl", "A", "B", "A+B"), control="ctrl", arcsinh=5.0)
    train, test = hold_out(data, ["A+B"])
    text = describe_data({"train": train, "test": test})
    assert text.startswith("16 cells, 3 features, 4 conditions\ncontrol 'ctrl': 4 cells\nscale found")
    for words in ("arcsinh(x / 5)", "features from 'CD3' to 'pS6'", "\n\ntest: 'A+B'"):
        assert words in text


def test_the_scale_and_what_was_made_of_it():
    counts = np.random.default_rng(0).poisson(2.0, (60, 30)).astype(float)
    frame = pd.DataFrame(counts, columns=[f"g{i}" for i in range(30)]).assign(
        condition=np.repeat(["ctrl", "A", "B"], 20)
    )
    text = describe(from_frame(frame, control="ctrl", normalize=True))
    assert "scale found: raw counts; normalised to log(1 + counts per 10,000)" in text
    logged = frame.assign(**dict(zip(frame, np.log1p(counts / counts.sum(1, keepdims=True) * 1234).T, strict=False)))
    assert "scale found: log-normalised counts, 1234 a cell" in describe(from_frame(logged, control="ctrl"))
    text = describe(from_frame(frame_of("ctrl", "A"), control="ctrl", arcsinh=5.0))
    assert "; arcsinh(x / 5)" in text


def test_doses_over_decades_and_below_zero_are_pointed_at():
    frame = frame_of("DMSO", *"AAAAAAA", "B", "B", "C", dose=[0, 0.1, 1, 3, 10, 100, 1000, 3000, 1, 10, 2])
    text = describe(from_frame(frame, dose="dose", control="DMSO"))
    words = [line.split() for line in text.splitlines()]
    assert ["A", "0.1", "...", "3000", "(7", "doses)", "yes", "4.5"] in words and [
        "B",
        "1,",
        "10",
        "yes",
        "1.0",
    ] in words
    assert ["C", "2", "yes"] in words
    assert lines_of(text, "Doses of 'A' range over more than 2 decades")
    negative = from_frame(
        frame_of("DMSO", "A", "A", dose=[0, -1, 2]), dose="dose", control="DMSO", allow_doses=("negative",)
    )
    assert lines_of(describe(negative), "Doses of 'A' are below 0: if they are logarithms")


def test_what_each_held_out_condition_tests():
    names = ["DMSO", "A", "B", "A+B", "A+C", "D"]
    pairs = list(itertools.product([*names], ["x", "y"]))
    frame = frame_of(*(name for name, _ in pairs), line=[line for _, line in pairs])
    data = from_frame(
        frame, condition=["condition", "line"], strata="line", control=["DMSO", "x"], perturbations=list("ABCDy")
    )
    held = [c for c in data.conditions if "A" in c and ("B" in c or "C" in c)] + ["D+y"]
    train, test = hold_out(data, held)
    text = describe(train, None, test)
    assert "test, 2 of: a combination of 2, each measured alone; identified" in text
    assert "test, 2 of: a combination of 2; never alone: C; NOT identified by training" in text
    assert "test, 1 of: its effect in another stratum (1 trained); identified\n    'D+y'" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["y", "24", "4", "6"] in rows and ["that", "of", "the", "control", "24", "4", "6"] in rows
    dosed = from_frame(frame_of("DMSO", "A", "A", "A", dose=[0, 1, 4, 9]), dose="dose", control="DMSO")
    train, test = hold_out(dosed, ["A:4", "A:9"])
    assert "test, 2 of: a dose; beyond the measured doses; identified" in describe(train, None, test)


def test_of_hundreds_of_conditions_some_are_shown():
    pairs = [f"{a}+{b}" for a, b in itertools.combinations([f"GENE-WITH-A-NAME{i}" for i in range(31)], 2)]
    singles = sorted({name for pair in pairs for name in pair.split("+")})
    data = from_frame(frame_of("ctrl", *singles, *pairs, each=2), control="ctrl")
    train, test = hold_out(data, pairs[::9])
    text = describe(train, None, test)
    assert f"... and {train.num_conditions - SHOWN} more training conditions, {train.num_conditions} in all" in text
    assert "465 combinations, 465 identified by the singles; conditions: 445 train, 52 test" in text
    assert len(text.splitlines()) < 130 and max(map(len, text.splitlines())) <= WIDTH
