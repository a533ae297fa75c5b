"""Sections of the report about identification, extremes, laws of residuals and counts: tables as markdown."""

from typing import Any

import numpy as np

from pdae_jax.evaluation.counts import QUANTITIES
from pdae_jax.evaluation.identification import MAP_CLASSES
from pdae_jax.prediction.samples import MAX_REACH
from pdae_jax.spelling import markdown_table
from pdae_jax.types import Table

SHOWN = 20  # conditions or perturbations of a table
_MAP_TITLES = {"affine": "affine", "whitened": "orthogonal, after whitening", "orthogonal": "orthogonal"}


def format_extremes(table: Table) -> str:
    """Write the rows of ``extremes.csv`` as markdown, with a warning where a prediction reaches too far."""
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
    """Write ``residual_laws.csv`` in a few lines of markdown: how many conditions differ, and the ten that do most."""
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
    """Write ``counts.csv`` as markdown: means over held-out conditions, by method."""
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


def format_identification(table: Table) -> str:
    """Write the table as markdown: one line per class of maps, one per perturbation.

    Args:
        table: of `identification_table`, or ``identification.csv`` read back.
    """
    rows: Any = table.itertuples()
    values = {(row.quantity, str(row.perturbation_or_latent)): row.value for row in rows}
    quantities = ("r2", "residual", "r2_unseen", "residual_unseen", "shift_matrix_error", "gram_error")
    latents = [
        [_MAP_TITLES[name], *(_number(values.get((f"{name}_{quantity}", "all"))) for quantity in quantities)]
        for name in MAP_CLASSES
    ]
    errors = {name: value for (quantity, name), value in values.items() if quantity == "orthogonal_shift_error"}
    worst = sorted(errors, key=lambda name: -errors[name])
    perturbations = list(errors) if len(errors) <= 2 * SHOWN else worst[:SHOWN]
    shifts = [
        [name]
        + [_number(values[f"orthogonal_shift_{quantity}", name]) for quantity in ("cosine", "length_error", "error")]
        for name in perturbations
    ]
    spread = ", ".join(_number(value) for (quantity, _), value in values.items() if quantity == "base_sd")
    parts = [
        f"True latents: {values['latent_dim', 'all']:.0f}, learned: {values['learned_latent_dim', 'all']:.0f}. "
        f"Principal standard deviations of the learned base latents: {spread} (1 are the units of the theory).",
        markdown_table(
            ["learned to true latents", "R2", "residual", "R2, unseen", "residual, unseen", "error of W", "of W W^T"],
            latents,
        ),
        "Maps are fitted on half of the cells of the training conditions and judged on the other half, and on the "
        "conditions not trained on (unseen). Residuals are in standard deviations of the base latents; errors of `W` "
        "are relative Frobenius norms under the same maps. Theory: orthogonal where the base latents are standard "
        "Gaussian in truth and model, else affine.",
        markdown_table(["perturbation, orthogonal map", "cosine", "length error", "error"], shifts),
    ]
    if len(perturbations) < len(errors):
        parts.append(
            f"The {SHOWN} of {len(errors)} perturbations with the largest error; all are in `identification.csv`."
        )
    return "\n\n".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:z.3f}"  # no minus before zero
