import re

import pandas as pd
import pytest

from pdae_jax.prediction.verdict import Verdict
from pdae_jax.reporting.published import format_published
from pdae_jax.reporting.report import VERDICTS, render_report, write_report

DISTANCES = {
    "pdae": [0.1, 0.5],
    "control": [4.0, 5.0],
    "additive": [0.4, 0.9],
    "linear_regression": [0.8, 0.3],
    "oracle_half": [0.002, -0.001],
}


def make_table(verdicts=("trusted", "unsupported")):
    return pd.DataFrame(
        [
            {
                "condition": name, "split": split, "method": method, "metric": "energy_distance", "value": value,
                "n_true": 10, "n_pred": 10, "seed": 7, "verdict": verdict, "outside": 0.125,
            }
            for split, names in (("test", ["A+B", "A|C"]), ("validation", ["D+E", "D+F"]))
            for method, values in DISTANCES.items()
            for name, value, verdict in zip(names, values, verdicts, strict=True)
        ]
    )  # fmt: skip


CONTENTS = {
    "title": "A run",
    "table": make_table(),
    "command": "make run WORKDIR=here",
    "config": "some/config.py",
    "environment": {"python": "3.12.1", "device": "cpu x", "packages": {"jax": "0.1.2", "numpy": None}},
    "figures": {"Loss": "figures/loss.png"},
}


def test_the_report_says_what_the_table_says():
    text = render_report(**CONTENTS, data="16 cells")
    assert text.startswith("# A run\n") and "\n\n## Data\n\n```text\n16 cells\n```\n\n" in text
    for fact in ("`some/config.py`", "evaluation: 7", "cpu x", "Python 3.12.1, jax 0.1.2", "make run WORKDIR=here"):
        assert fact in text
    assert "![Loss](figures/loss.png)" in text
    test, validation = text.split("## Validation conditions")
    # mean 0.3 of pdae, 0.55 of linear_regression; worse where 0.5 > 0.3
    assert "**0.3**, 0.545 of that of the best baseline, linear_regression" in test
    assert "worse than the best baseline in 1 of 2 conditions" in test
    assert "| A+B | 0.100 | 0.400 (additive) | 4.00 | 0.00200 | trusted | 12% |" in test
    assert r"| A\|C | 0.500 | 0.300 (linear_regression) |" in test
    assert "| D+E |" in validation
    assert "| D+E |" not in test


def test_the_step_that_was_kept_and_what_must_be_known_of_the_numbers_stand_first():
    table = CONTENTS["table"].assign(kept_step=0.0, noise=0.001, out_of_range=0.0, farthest=1.0)
    far = (table["method"] == "pdae") & (table["condition"] == "A|C")
    table.loc[far, ["out_of_range", "farthest"]] = 0.002, 5e3
    text = render_report(**CONTENTS | {"table": table})
    assert "- Step that was kept: 0, the linear start" in text
    head = text.split("```")[0]
    assert "fewer than 20 cells (10 at fewest): too few to judge a distribution" in head
    assert r"values outside the measured range widened by half its width, most of them A\|C (0.20" in head
    assert "| beyond |" in text and "| 0.2% |" in text
    baseline = {"value": 0.0005}
    exact = table.assign(**baseline).where(table["method"].isin(["additive", "pdae"]), table)
    text = render_report(**CONTENTS | {"table": exact})
    assert "**0.0005**, equal to measuring again but for chance; the best baseline, additive (0.0005), is equal" in text
    assert "worse than the best baseline in 0 of 2" in text


def test_every_level_of_a_verdict_is_explained():
    documented = re.findall("``([a-z ]+)``", Verdict.level.__doc__ or "")
    assert sorted(documented) == sorted(VERDICTS)


def test_little_is_enough(tmp_path):
    table = make_table()
    table = table[table["method"].isin(["pdae", "control"])].drop(columns=["verdict", "outside"])
    path = write_report(tmp_path, title="Bare", table=table[table["split"] == "test"], command="make run")
    text = path.read_text()
    assert path.name == "report.md"
    assert "| A+B | 0.100 | - | 4.00 | - | - | - |" in text
    assert "Figures" not in text
    assert "nan" not in text


def test_published_figures_of_others_are_shown_as_such_where_there_are_some():
    text = format_published("norman", "doubles")
    assert text is not None and "| GEARS |" in text and "Nothing of it was computed here" in text
    assert text in render_report(**CONTENTS, published=text)
    assert format_published("simulated", "doubles") is None


def test_a_report_of_many_conditions_has_the_worst_and_the_best():
    values = [i / 1000 for i in range(100)]
    table = pd.concat(
        make_table().query("split == 'test' and condition == 'A+B' and method == 'control'").assign(
            condition=f"c{i}", method=method, value=value
        )
        for i, pdae in enumerate(values)
        for method, value in {"pdae": pdae, "control": 4.0}.items()
    )  # fmt: skip
    text = render_report(**CONTENTS | {"table": table})
    shown = re.findall(r"^\| (c\d+) \|", text, re.MULTILINE)
    assert shown == [f"c{i}" for i in [*range(99, 79, -1), *range(19, -1, -1)]]
    assert "all 100 are in `evaluation.csv`" in text


HOSTILE = (
    "a|b", "*a* **b**", "_a_", "`a` ```", "<b>a</b>", "<!-- a", "[a](http://b.c)", "![a](b)", "<http://a.b>", "&lt;a",
    "a\\|b", "~~a~~", "\\", "# a #", "> a", "[a]: b", "http://a.b", "www.a.b", "$a$ + $b$", "CD4+ T_cell (2)", "1. a",
)  # fmt: skip


def parsed(text):
    """Kinds of all parts of a page, and the words of each line, by a parser of Markdown."""
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(text)
    lines = [t.children for t in tokens if t.type == "inline"]
    kinds = [t.type for t in tokens] + [
        c.type for line in lines for c in line if c.type not in ("text", "softbreak", "text_special")
    ]
    return kinds, ["".join(c.content for c in line if c.type.startswith("text")) for line in lines]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_whatever_it_holds(name):
    """It makes no heading, link, markup or cell: a page with other names has the same parts."""

    def page(name):
        laws = {"energy_distance": 1.0, "spread": 1.0, "p_adjusted": 0.5}
        reach = {f"{who}_{q}": 1.0 for who in ("predicted", "measured") for q in ("1%", "99%", "max")}
        table = make_table().replace({"A+B": name, "additive": name})
        return render_report(
            **CONTENTS | {"table": table, "title": name, "command": f"run {name}", "figures": {name: "figures/a.png"}},
            extremes=pd.DataFrame([{"condition": name, "feature": name, "reach": 1.1, **reach}]),
            residual_laws=pd.DataFrame([{"condition": name, **laws}]),
        )

    (kinds, words), (plain, _) = parsed(page(name)), parsed(page("plain"))
    assert kinds == plain
    assert words.count(name) >= 5  # title, three tables, the figure's caption
