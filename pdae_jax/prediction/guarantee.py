r"""What may be claimed about a prediction: is it identified, is it supported, was the assumption tested?

1. Identified. With an invertible smooth mixing and Gaussian base latents, the effect of a label `a` is determined
   exactly when :math:`a - a_0` lies in the span of the training differences :math:`\{a_e - a_0\}`, given
   `rank(W A) = k` (von Kuegelgen, Ketterer, Shen, Meinshausen, Peters, arXiv 2504.18522). One SVD decides.
2. Supported. The decoder is only known where it was trained: the share of translated latents farther from the
   training latents than those are from each other says how much of the prediction lies outside.
3. Tested. That effects add up is an assumption; only combinations that were left out and predicted can test it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pdae_jax.compiled import as_written
from pdae_jax.design.design import Design, design_of
from pdae_jax.labels import LabelLike
from pdae_jax.model.ensemble import Ensemble, check_model
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.agreement import replica_disagreement, source_disagreement
from pdae_jax.prediction.borrowed import borrowed_share
from pdae_jax.prediction.source import Source, SourceLike, resolve_source
from pdae_jax.prediction.support import outside_share
from pdae_jax.prediction.verdict import MAX_OUTSIDE, Verdict
from pdae_jax.types import PerturbationData, once_for_each

RANK_TOLERANCE = 0.05  # singular values of the latent shifts below this share of the largest count as zero


@as_written()
def check_guarantee(
    model: Fitted | Ensemble | PerturbationData,
    label: LabelLike,
    *,
    source: SourceLike = "control",
    from_condition: str | None = None,
) -> Verdict:
    """Say what may be claimed about the prediction of a label.

    Args:
        model: a fitted model, or an ensemble of them; or training data alone, which decides identification before
            anything is trained.
        label: ``"A+B"``, ``{"A": 1.0, "B": 0.5}``, a vector, or a condition's name.
        source: whose cells are translated, for the support check, as in `predict`; of training data alone no cell is.
        from_condition: an older name of `source`.

    Raises:
        KeyError: an unknown perturbation or condition.
        TypeError: `model` is no model and no data, or `source` is a model.
    """
    if isinstance(source, Fitted | Ensemble):
        raise TypeError(
            f"source is {type(source).__name__}, a model, and stands for the cells that are translated. Pass the model "
            f"first: check_guarantee(fitted, {label!r})."
        )
    if isinstance(model, PerturbationData):
        return identification_of(design_of(model), model, label)
    check_model(model, "check_guarantee(fitted, label)")
    cells = resolve_source(model, model.train.label(label), source if from_condition is None else from_condition)
    return guarantee_of(model, label, cells)


def guarantee_of(model: Fitted | Ensemble, label: LabelLike, cells: Source) -> Verdict:
    """Judge the prediction of a label from the cells of a source.

    What is found from training cells is kept: a run predicts a condition to score it, to store it and to count it.
    """
    vector = model.train.label(label)
    condition = label if isinstance(label, str) else model.train.name(vector)
    if cells.data is not model.train:
        return dataclasses.replace(_judge(model, vector, cells), condition=condition)
    known, asked = _judged(model), (vector.tobytes(), cells.name)
    if asked not in known:
        known[asked] = _judge(model, vector, cells)
    return dataclasses.replace(known[asked], condition=condition)


@once_for_each
def _judged(_: Fitted | Ensemble) -> dict[tuple[bytes, str], Verdict]:
    """Verdicts on predictions from training cells, by label and source; empty at first."""
    return {}


def _judge(model: Fitted | Ensemble, vector: np.ndarray, cells: Source) -> Verdict:
    members = model.members
    first, *_ = members
    start, identified = cells.condition, model.design.identified_part(vector)
    outside = float(np.mean([outside_share(member, identified, cells) for member in members]))
    tested, distance, control = _tested(members)
    sources = [source_disagreement(member, identified, start) for member in members]
    effect = float(np.mean([found.effect for found in sources]))
    return dataclasses.replace(
        identification_of(model.design, model.train, vector),
        latent_rank=min(_latent_rank(member) for member in members),
        latent_dim=first.model.latent_dim,
        outside=outside,
        supported=outside <= MAX_OUTSIDE,
        tested=tested,
        # without a distance to bridge nothing was tested
        tested_error=distance / control if control > 0 else None,
        expected_error=None if control <= 0 else distance / effect if effect > 0 else float("inf"),
        source_disagreement=float(np.mean([found.share for found in sources])),
        replica_disagreement=replica_disagreement(members, identified, start) if len(members) > 1 else None,
        borrowed=borrowed_share(first, identified),
    )


def identification_of(design: Design, train: PerturbationData, label: LabelLike) -> Verdict:
    """Judge identification and doses alone, which labels decide."""
    vector = train.label(label)
    found = design.identification(vector)
    return Verdict(
        condition=label if isinstance(label, str) else train.name(vector),
        identified=found.identified,
        residual=found.residual,
        weights={c: float(w) for c, w in zip(train.conditions, found.weights, strict=True) if abs(w) > 1e-9},
        leverage=found.leverage,
        dose_status=design.dose_status(vector),
        new_doses=design.new_doses(vector),
    )


def _tested(members: Sequence[Fitted]) -> tuple[tuple[str, ...], float, float]:
    """Count left-out combinations, and average their energy distances from what was predicted and from the control."""
    tested = tuple(c for c in members[0].validation_errors if _is_combination(members[0], c))
    errors = [member.validation_errors[c] for member in members for c in tested]
    if not errors:
        return tested, 0.0, 0.0
    distance, control = (float(np.mean([error[name] for error in errors])) for name in ("pdae", "control"))
    return tested, max(distance, 0.0), control  # U forms can be slightly negative


@once_for_each
def _latent_rank(fitted: Fitted) -> int:
    labels = fitted.design.labels
    shifts = fitted.shift(labels[fitted.design.control], labels)
    singular = np.linalg.svd(shifts, compute_uv=False)
    return int(np.sum(singular > RANK_TOLERANCE * max(float(singular[0]), 1e-12)))


def _is_combination(fitted: Fitted, condition: str) -> bool:
    validation = fitted.validation
    return validation is not None and bool(design_of(validation).combinations[validation.index(condition)])
