r"""Identification, measured: learned latents and shifts against those of a simulated world whose truth is known.

Let :math:`x = f(u + W a)` with `f` injective and base latents :math:`u \sim N(0, I_k)`; a Gaussian base of any other
covariance is of this form too, in other units. If a model of the same form matches the laws of the training
conditions, and `rank(W A) = k`, then its latents and effects are the true ones up to an orthogonal map `Q` and a
translation `c` (von Kuegelgen, Ketterer, Shen, Meinshausen, Peters, arXiv 2504.18522):

.. math:: \hat z = z Q + c, \qquad \hat W = W Q \text{ on the span of the training labels}

Three classes of maps from learned to true latents say how much of that came true; the first contains the others:

``affine``
    :math:`\hat z B + b`, least squares. Any linear map: rotation, reflection, scale, shear, and a choice among learned
    latents. What is left over is curvature of the learned chart, lost latents, or noise; these shrink `B`, and with it
    mapped shifts.
``whitened``
    :math:`(\hat z L) R + b`, `R` orthogonal (Procrustes: Schoenemann, Psychometrika 31, 1966), `L` the inverse square
    root of the learned latents' own covariance within conditions. The truth only chooses rotation, reflection and
    translation; the units come from the model: what somebody could have without knowing the truth.
``orthogonal``
    :math:`\hat z R + b`, `R` orthogonal. No scale, no shear: learned latents are taken at their word, in which their
    base is N(0, I). The claim of the theory to the letter, for models trained to that base (`objective.contrast`,
    `objective.likelihood`); of others the theory says ``affine``.

True latents are in the units in which their base has identity covariance, so residuals are in standard deviations of
the base. Of unequal numbers of latents the smaller side is filled up with zeros before Procrustes: surplus learned
latents are turned away from the true ones and should be constant (`Agreement.excess`), and true latents without a
learned one are predicted by their mean, which costs their whole variance.
"""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pdae_jax.data.checks import check_same_columns
from pdae_jax.data.simulate import Simulation
from pdae_jax.model.alignment import Agreement, LatentMap, agreement, check_latents, fit_maps, pad, ratio
from pdae_jax.model.fitted import Fitted
from pdae_jax.runs.files import read_arrays, write_arrays
from pdae_jax.runs.store import data_arrays, load_data
from pdae_jax.types import PerturbationData, Table

MAP_CLASSES = ("affine", "whitened", "orthogonal")


class Truth(NamedTuple):
    """Cells of a simulated world and what is behind them, in units in which base latents have identity covariance."""

    data: PerturbationData
    latents: Float[np.ndarray, "cells latent"]  # perturbed latents, row by row those of data.x
    shift_matrix: Float[np.ndarray, "perturbations latent"]  # W


class ShiftAgreement(NamedTuple):
    """Agreement of mapped shifts with the true ones. Relative to a true shift of length zero all is NaN."""

    error: float  # |W' - W| / |W|, Frobenius norms
    r2: float  # 1 - error^2: share of the squared length of W that is explained, W = 0 explains none
    gram_error: float  # |W'W'^T - WW^T| / |WW^T|, the same for every orthogonal map: needs no alignment
    error_by_perturbation: Float[np.ndarray, " perturbations"]  # |w' - w| / |w|
    cosine: Float[np.ndarray, " perturbations"]  # of w' and w
    length_error: Float[np.ndarray, " perturbations"]  # |w'| / |w| - 1, the same for every orthogonal map


class MapAgreement(NamedTuple):
    """Agreement of latents and shifts under the best map of one class."""

    seen: Agreement  # other cells of the training conditions
    unseen: Agreement | None  # cells of conditions that were not trained on, if there are any
    shifts: ShiftAgreement


class IdentificationReport(NamedTuple):
    """Findings of `measure_identification`, for each class of maps."""

    perturbations: tuple[str, ...]
    latent_dim: int  # of the truth
    learned_dim: int
    base_sd: Float[np.ndarray, " learned"]  # see `Maps`
    affine: MapAgreement
    whitened: MapAgreement
    orthogonal: MapAgreement


def measure_identification(fitted: Fitted, truth: Truth | Simulation) -> IdentificationReport:
    """Compare learned latents and shifts of a model with the world its data came from.

    Maps are fitted on a random half of the given cells of the training conditions, and judged on the other half and on
    all cells of the other conditions. Shifts are moved by the linear part of the same maps, and play no part in
    choosing them.

    Args:
        fitted: a model fitted to conditions of this world.
        truth: the world, training conditions and held-out ones; of a `simulate`, or `load_truth` of a run.

    Raises:
        ValueError: other features or perturbations than the model's, or too few cells of its training conditions.
    """
    if isinstance(truth, Simulation):
        truth = truth_of(truth)
    data = truth.data
    check_same_columns(data, fitted.train, "simulated")
    learned = fitted.encode(data.x[:]).astype(np.float64)
    true = truth.latents.astype(np.float64)
    trained = np.array([name in fitted.train.conditions for name in data.conditions])[data.condition_index]
    fit_rows, seen_rows = _halves(np.flatnonzero(trained))
    maps = fit_maps(learned[fit_rows], true[fit_rows], data.condition_index[fit_rows])
    shifts = truth.shift_matrix.astype(np.float64)

    def under(latent_map: LatentMap) -> MapAgreement:
        mapped = latent_map.apply(learned)
        return MapAgreement(
            seen=agreement(mapped[seen_rows], true[seen_rows]),
            unseen=None if trained.all() else agreement(mapped[~trained], true[~trained]),
            shifts=compare_shifts(fitted.shift_matrix.astype(np.float64) @ latent_map.matrix, shifts),
        )

    return IdentificationReport(
        perturbations=data.perturbations,
        latent_dim=true.shape[1],
        learned_dim=learned.shape[1],
        base_sd=maps.base_sd,
        **{name: under(getattr(maps, name)) for name in MAP_CLASSES},
    )


def compare_latents(
    learned: Float[np.ndarray, "cells learned"],
    true: Float[np.ndarray, "_ latent"],
    *,
    condition_index: Int[np.ndarray, " cells"] | None = None,
    fit_on: Bool[np.ndarray, " cells"] | None = None,
) -> dict[str, Agreement]:
    """Measure how two sets of latents of the same cells agree under each class of maps, ``{"affine": ...}``.

    Args:
        learned: the latents that are mapped.
        true: what they are mapped to, in units in which the base has identity covariance.
        condition_index: condition of each cell, for the covariance within conditions; default: one condition.
        fit_on: cells that the maps are fitted on, the others judge them; default a random half.

    Raises:
        ValueError: unequal numbers of rows, latents that are not finite, or too few cells.
    """
    check_latents(learned, true)
    index = np.zeros(len(learned), dtype=np.int64) if condition_index is None else condition_index
    first, second = (
        _halves(np.arange(len(learned))) if fit_on is None else (np.flatnonzero(fit_on), np.flatnonzero(~fit_on))
    )
    if len(second) == 0:
        raise ValueError("fit_on takes every cell, so none is left to judge the maps. Leave some out.")
    learned, true = learned.astype(np.float64), true.astype(np.float64)
    maps = fit_maps(learned[first], true[first], index[first])
    return {name: agreement(getattr(maps, name).apply(learned[second]), true[second]) for name in MAP_CLASSES}


def compare_shifts(
    learned: Float[np.ndarray, "perturbations mapped"], true: Float[np.ndarray, "_ latent"]
) -> ShiftAgreement:
    """Compare learned shifts, already mapped to true latents, with the true ones; the narrower gets zeros.

    Args:
        learned: learned `W` times the matrix of a `LatentMap`.
        true: true `W`.

    Raises:
        ValueError: unequal numbers of perturbations.
    """
    if len(learned) != len(true):
        raise ValueError(
            f"{len(learned)} learned shifts and {len(true)} true ones. Pass one row per perturbation, in one order."
        )
    width = max(learned.shape[1], true.shape[1])
    learned, true = pad(learned.astype(np.float64), width), pad(true.astype(np.float64), width)
    lengths, learned_lengths = np.linalg.norm(true, axis=1), np.linalg.norm(learned, axis=1)
    gram = true @ true.T
    error = ratio(np.linalg.norm(learned - true), np.linalg.norm(true))
    return ShiftAgreement(
        error=float(error),
        r2=float(1.0 - error**2),
        gram_error=float(ratio(np.linalg.norm(learned @ learned.T - gram), np.linalg.norm(gram))),
        error_by_perturbation=ratio(np.linalg.norm(learned - true, axis=1), lengths),
        cosine=ratio(np.sum(learned * true, axis=1), lengths * learned_lengths),
        length_error=ratio(learned_lengths, lengths) - 1.0,
    )


def truth_of(simulation: Simulation, *, max_cells: int = 1000) -> Truth:
    r"""Express the truth in units of its base: :math:`z = S u` gives :math:`u = S^{-1} z`, and `W` likewise.

    Args:
        simulation: what `simulate` returned.
        max_cells: kept per condition, the first ones.
    """
    data, world, latents = simulation
    to_base = np.linalg.inv(world.base_scale.astype(np.float64)).T
    rows = np.concatenate([np.flatnonzero(data.condition_index == e)[:max_cells] for e in range(data.num_conditions)])
    return Truth(
        data=data.take(rows),
        latents=latents[rows] @ to_base,
        shift_matrix=world.shift_matrix @ to_base,
    )


def save_truth(path: pathlib.Path, truth: Truth) -> None:
    """Write a truth as one ``.npz``; the file appears whole or not at all."""
    write_arrays(path, data_arrays(truth.data) | {"latents": truth.latents, "shift_matrix": truth.shift_matrix})


def load_truth(path: pathlib.Path) -> Truth:
    """Read what `save_truth` wrote."""
    data, arrays = load_data(path), read_arrays(path)
    return Truth(data, arrays["latents"], arrays["shift_matrix"])


def identification_table(identification: IdentificationReport) -> Table:
    """Tabulate one number a row: the table of ``identification.csv``.

    Returns:
        DataFrame ``quantity, perturbation_or_latent, value``. Quantities of a class of maps begin with its name:
        ``affine_r2``, ``affine_residual`` (``all`` and ``latent 1``, ...), ``whitened_excess``, the same ending in
        ``_unseen`` for conditions not trained on; ``affine_shift_matrix_error``, ``_shift_matrix_r2`` and
        ``_gram_error`` (``all``); ``affine_shift_error``, ``_shift_cosine`` and ``_shift_length_error`` of every
        perturbation. Of none: ``latent_dim``, ``learned_latent_dim``, ``base_sd`` (by principal direction).
    """
    import pandas as pd

    rows = [
        ("latent_dim", "all", float(identification.latent_dim)),
        ("learned_latent_dim", "all", float(identification.learned_dim)),
        *_numbered("base_sd", "direction", identification.base_sd),
    ]
    for name in MAP_CLASSES:
        rows += _map_rows(name, getattr(identification, name), identification.perturbations)
    columns = ("quantity", "perturbation_or_latent", "value")
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


def _map_rows(name: str, agreed: MapAgreement, perturbations: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    for suffix, found in (("", agreed.seen), ("_unseen", agreed.unseen)):
        if found is not None:
            yield f"{name}_r2{suffix}", "all", found.r2
            yield from _numbered(f"{name}_r2{suffix}", "latent", found.r2_by_latent)
            yield f"{name}_residual{suffix}", "all", found.residual
            yield from _numbered(f"{name}_residual{suffix}", "latent", found.residual_by_latent)
            yield f"{name}_excess{suffix}", "all", found.excess
    shifts = agreed.shifts
    yield f"{name}_shift_matrix_error", "all", shifts.error
    yield f"{name}_shift_matrix_r2", "all", shifts.r2
    yield f"{name}_gram_error", "all", shifts.gram_error
    columns = {"error": shifts.error_by_perturbation, "cosine": shifts.cosine, "length_error": shifts.length_error}
    for quantity, column in columns.items():
        for perturbation, value in zip(perturbations, column, strict=True):
            yield f"{name}_shift_{quantity}", perturbation, float(value)


def _numbered(quantity: str, word: str, values: np.ndarray) -> Iterator[tuple[str, str, float]]:
    for number, value in enumerate(values, 1):
        yield quantity, f"{word} {number}", float(value)


def _halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # a fixed permutation: rows may alternate between conditions
    shuffled = np.random.default_rng(0).permutation(rows)
    return shuffled[: len(rows) // 2], shuffled[len(rows) // 2 :]
