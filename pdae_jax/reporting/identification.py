"""How far the latents of a simulated world were identified, as markdown."""

from typing import Any

import numpy as np

from pdae_jax.evaluation.identification import MAP_CLASSES
from pdae_jax.spelling import markdown_table
from pdae_jax.types import Table

SHOWN = 20  # perturbations, where there are many


def format_identification(table: Table) -> str:
    """The table as markdown, for reports: one line per class of maps, one per perturbation.

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


_MAP_TITLES = {"affine": "affine", "whitened": "orthogonal, after whitening", "orthogonal": "orthogonal"}


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:z.3f}"  # no minus before zero
