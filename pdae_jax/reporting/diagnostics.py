"""Extremes, laws of residuals and counts, as markdown."""

from typing import Any

from pdae_jax.evaluation.counts import QUANTITIES
from pdae_jax.prediction.samples import MAX_REACH
from pdae_jax.spelling import markdown_table
from pdae_jax.types import Table

SHOWN = 20  # conditions of a table


def format_extremes(table: Table) -> str:
    """The rows of ``extremes.csv`` as markdown, with a warning where a prediction reaches too far."""
    worst = float(table["reach"].max())
    shown = table.sort_values("reach", ascending=False, kind="stable").head(SHOWN)
    fewer = f" The {SHOWN} farthest of {len(table)} conditions." if len(table) > SHOWN else ""
    lines = [
        "Per held-out condition the feature where predictions reach farthest beyond the measured training cells, by "
        "`reach`: the distance from the middle of the measured range in halves of the range; 1 is not beyond." + fewer,
        markdown_table(
            ["condition", "feature", "reach", "predicted 1 %, 99 %, max", "measured 1 %, 99 %, max"],
            [
                [
                    row["condition"],
                    row["feature"],
                    f"{row['reach']:.2f}",
                    _three(row, "predicted"),
                    _three(row, "measured"),
                ]
                for _, row in shown.iterrows()
            ],
        ),
    ]
    if worst > MAX_REACH:
        lines.insert(
            0, f"**Warning: predictions reach {worst:.2f} times the measured range; usual is up to {MAX_REACH}.**"
        )
    return "\n\n".join(lines)


def _three(row: Any, name: str) -> str:
    return ", ".join(f"{row[f'{name}_{which}']:.3g}" for which in ("1%", "99%", "max"))


def format_residual_laws(table: Table, level: float = 0.05) -> str:
    """``residual_laws.csv`` in a few lines of markdown: how many conditions differ, and the ten that differ most."""
    differ = table[table["p_adjusted"] <= level]
    most = table.sort_values("energy_distance", ascending=False).head(10)
    return "\n\n".join(
        [
            "The model carries what the latents do not explain of a cell, its noise, from label to label. That assumes "
            f"the same law of the noise under every label. It differs from the control's in {len(differ)} of "
            f"{len(table)} training conditions that were tested (permutation tests, false discovery rate {level:.0%}). "
            "The ten largest:",
            markdown_table(
                ["condition", "energy distance of residuals", "spread over the control's", "adjusted p"],
                [
                    [
                        row["condition"],
                        f"{row['energy_distance']:.3g}",
                        f"{row['spread']:.2f}",
                        f"{row['p_adjusted']:.3g}",
                    ]
                    for _, row in most.iterrows()
                ],
            ),
        ]
    )


def format_count_diagnostics(table: Table) -> str:
    """``counts.csv`` as markdown: means over held-out conditions, by method."""
    means = table.groupby("method", sort=False)[list(QUANTITIES)].mean()
    header = ["", "zeros", "error of zeros per feature", "slope of log variance on log mean"]
    header += ["variance over the measured", "error of correlations"]
    return "\n\n".join(
        [
            "Predicted cells as whole numbers of counts, against one half of the measured cells of each held-out "
            f"condition ({table['condition'].nunique()} conditions, {table['cells'].median():.0f} cells each in the "
            "median). `oracle_half`, the other half, is what an exact prediction would have; `control` are control "
            "cells as they are.",
            markdown_table(
                header,
                [
                    [name, *(f"{value:.3f}" for value in row)]
                    for name, row in zip(means.index, means.to_numpy(), strict=True)
                ],
            ),
        ]
    )
