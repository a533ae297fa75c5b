"""The page people read after a run: what was run, what came out, what it is worth, how to get it again."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pdae_jax.evaluation.summary import COMPARED, format_scaled, format_table, summary_table
from pdae_jax.prediction.verdict import LEVELS
from pdae_jax.reporting.sections import (
    format_count_diagnostics,
    format_extremes,
    format_identification,
    format_residual_laws,
)
from pdae_jax.runs.files import write_text
from pdae_jax.spelling import as_markdown, markdown_block, markdown_code, markdown_table
from pdae_jax.types import Table

REPORT_FILE = "report.md"
NOTHING_HELD_OUT = (
    "**Nothing was held out for the test.** The numbers below are of conditions that chose the step or were trained "
    "on, and say little about a prediction of something new. Predictions can be made all the same (`predict`), and "
    "their verdicts say what is identified."
)
SHOWN = 20  # conditions at each end of a long table
VERDICTS = {level: f"{words.meaning} {words.advice}" for level, words in LEVELS.items()}


def write_report(folder: pathlib.Path, **contents: Any) -> pathlib.Path:
    """Write ``report.md`` into a run folder; `contents` are the arguments of `render_report`."""
    path = pathlib.Path(folder) / REPORT_FILE
    write_text(path, render_report(**contents))
    return path


def render_report(
    *,
    title: str,
    table: Table,
    command: str,
    config: str = "",
    environment: Mapping[str, Any] | None = None,
    figures: Mapping[str, str] | None = None,
    identification: Table | None = None,
    extremes: Table | None = None,
    residual_laws: Table | None = None,
    counts: Table | None = None,
    published: str | None = None,
    data: str = "",
) -> str:
    """Write the report as markdown.

    Args:
        title: of the page.
        table: DataFrame of `evaluate`.
        command: what to type to get the same numbers.
        config: name or path of the config.
        environment: contents of ``environment.json``.
        figures: caption -> path relative to the report.
        identification: DataFrame of `identification_table`, for simulated worlds.
        extremes: rows of ``extremes.csv``.
        residual_laws: rows of ``residual_laws.csv``.
        counts: rows of ``counts.csv``, for counts.
        published: figures of others for this data set and split, as markdown.
        data: what was read, `overview.describe_data`.
    """
    seeds = ", ".join(str(seed) for seed in sorted(set(table["seed"])))
    facts = {"Config": markdown_code(config) if config else "", "Seed of the evaluation": seeds}
    facts |= {"Step that was kept": _kept_step(table), **_machine(environment or {})}
    splits = [split for split in ("test", "validation", "train") if split in set(table["split"])]
    parts = [
        f"# {as_markdown(title)}",
        "\n".join(f"- {name}: {value}" for name, value in facts.items() if value),
        *(["## Data", markdown_block(data, "text")] if data else []),
        *([] if "test" in splits else [NOTHING_HELD_OUT]),
        *(part for split in splits for part in _split_section(table, split)),
        *(["## Published figures of others", published] if published else []),
        "## What the verdicts mean",
        "A verdict is about the model's prediction, from training data and held-out combinations only; the true cells "
        "of the condition play no part in it.",
        "\n".join(f"- **{level}**: {meaning}" for level, meaning in _verdicts_in(table).items()),
        *(["## Identification", format_identification(identification)] if identification is not None else []),
        *(["## Predicted and measured extremes", format_extremes(extremes)] if extremes is not None else []),
        *(["## Predicted and measured counts", format_count_diagnostics(counts)] if counts is not None else []),
        *(["## The noise of cells", format_residual_laws(residual_laws)] if residual_laws is not None else []),
        *(["## Figures"] if figures else []),
        *(_figure(as_markdown(caption), path) for caption, path in (figures or {}).items()),
        "## How to get this again",
        markdown_block(command),
    ]
    return "\n\n".join(parts) + "\n"


def _verdicts_in(table: Any) -> dict[str, str]:
    """Explain the verdicts of a table; all of them where it has none."""
    found = set(table.get("verdict", ()))
    return {level: meaning for level, meaning in VERDICTS.items() if level in found} or VERDICTS


def _figure(caption: str, path: str) -> str:
    return f"![{caption}]({path})\n\n*{caption}*"


def _kept_step(table: Any) -> str:
    """Find the step of the parameters that the table is of, where it is known."""
    found = set(table["kept_step"].dropna()) if "kept_step" in table else set()
    if len(found) != 1:
        return ""
    step = int(found.pop())
    return str(step) if step else "0, the linear start: no later one was better on conditions that were left out"


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    packages = {"Python": environment.get("python"), **(environment.get("packages") or {})}
    shown = [name for name in ("Python", "pdae_jax", "jax", "flax", "optax", "numpy") if packages.get(name)]
    return {
        "Device": as_markdown(environment.get("device", "")),
        "Versions": as_markdown(", ".join(f"{name} {packages[name]}" for name in shown)),
    }


def _split_section(table: Table, split: str) -> list[str]:
    headings = {
        "test": "Held-out conditions",
        "validation": "Validation conditions (never trained on; they chose the step)",
        "train": "Training conditions (in-sample)",
    }
    summary = summary_table(table, split=split)
    sections = [f"## {headings[split]}", markdown_block(format_table(summary), "text")]
    if "energy_distance" in summary and "pdae" in summary.index:
        sections[1:1] = [_headline(summary)]
        sections.append(_condition_table(table[table["split"] == split]))
    if split == "test" and "scaled" in table:
        scaled = format_scaled(table, split=split)
        sections += ["### On the scale of a reviewer", scaled] if scaled else []
    return sections


def _headline(summary: Any) -> str:
    """Say the mean energy distance of the predictions, what it is compared with, then what must be known of it."""
    model, best = summary.loc["pdae"], summary.attrs["best_baseline"]
    text = f"Mean energy distance of the predictions: **{_number(model['energy_distance'], '.3g')}**"
    if "pdae" in summary.attrs["equal"]:
        text += ", equal to measuring again but for chance"
    if best and np.isfinite(model["ratio"]):
        text += f", {model['ratio']:.3g} of that of the best baseline, {as_markdown(best)}"
    if best and np.isfinite(model["ratio_low"]):
        text += f" (95 % interval over conditions {model['ratio_low']:.3g} to {model['ratio_high']:.3g})"
    if best and best in summary.attrs["equal"]:
        distance = _number(summary.loc[best, "energy_distance"], ".3g")
        text += f"; the best baseline, {as_markdown(best)} ({distance}), is equal to measuring again but for chance"
    if best:
        text += (
            f"; worse than the best baseline in {model['num_worse']:.0f} of {model['num_conditions']:.0f} conditions"
        )
    if "oracle_half" in summary.index and np.isfinite(summary.loc["oracle_half", "energy_distance"]):
        text += f". Half of the true cells against the other half: {summary.loc['oracle_half', 'energy_distance']:.2g}"
    return "\n\n".join([f"{text}.", *(f"**{as_markdown(warning)}**" for warning in summary.attrs["warnings"])])


def _condition_table(rows: Any) -> str:
    """List energy distances and the verdict, one line per condition."""
    distances = rows[rows["metric"] == "energy_distance"].pivot_table(
        index="condition", columns="method", values="value", aggfunc="mean", sort=False, dropna=False
    )
    about = rows[rows["method"] == "pdae"].drop_duplicates("condition").set_index("condition")
    compared = [name for name in COMPARED if name in distances]
    shown = []
    for condition, row in _worst_and_best(distances).iterrows():
        best = row[compared].astype(float).idxmin() if row[compared].notna().any() else None
        cells = [
            condition,
            _number(row["pdae"]),
            f"{_number(row[best])} ({best})" if best else "-",
            _number(row.get("control", np.nan)),
            _number(row.get("oracle_half", np.nan)),
            str(about.loc[condition].get("verdict", "-")),
            f"{about.loc[condition].get('outside', np.nan):.0%}".replace("nan%", "-"),
        ]
        if "out_of_range" in about:
            cells.append(f"{100 * about.loc[condition, 'out_of_range']:.2g}%")
        shown.append(cells)
    note = (
        "Energy distances (U form); *outside*: share of translated latents outside the training latents, 5 % is usual."
    )
    if len(distances) > 2 * SHOWN:
        note += (
            f" The {SHOWN} conditions with the largest distance of the model over the control's, the worst first, and "
            f"the {SHOWN} with the smallest; all {len(distances)} are in `evaluation.csv`."
        )
    headings = ["condition", "pdae", "best baseline", "control", "oracle half", "verdict", "outside"]
    if "out_of_range" in about:
        headings.append("beyond")
        note += (
            " *beyond*: share of predicted cells with a value outside of the measured range widened by half its width."
        )
    return markdown_table(headings, shown) + f"\n\n{note}"


def _worst_and_best(distances: Any) -> Any:
    """Choose all rows, or of many the `SHOWN` worst and the `SHOWN` best."""
    if len(distances) <= 2 * SHOWN:
        return distances
    relative = distances["pdae"]
    if "control" in distances:  # of effects at the noise there is no share
        relative = relative / np.maximum(distances["control"], distances["control"].abs().median() / 100)
    order = relative.sort_values(ascending=False, kind="stable").index
    return distances.loc[[*order[:SHOWN], *order[-SHOWN:]]]


def _number(value: float, form: str = "#.3g") -> str:
    return "-" if np.isnan(value) else f"{value:{form}}"
