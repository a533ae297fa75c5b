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
from pdae_jax.labels import LabelLike, format_label
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.agreement import replica_disagreement, source_disagreement
from pdae_jax.prediction.source import Source, resolve_source
from pdae_jax.prediction.span import control_label, identification_of, identified_part
from pdae_jax.prediction.support import outside_share
from pdae_jax.prediction.verdict import MAX_OUTSIDE, Verdict
from pdae_jax.types import PerturbationData, once_for_each

RANK_TOLERANCE = 0.05  # singular values of the latent shifts below this share of the largest count as zero


@as_written()
def check_guarantee(
    source: Fitted | Ensemble | PerturbationData, label: LabelLike, *, from_condition: str | None = None
) -> Verdict:
    """What may be claimed about the prediction of a label.

    Args:
        source: a fitted model, or an ensemble of them; or training data alone, which decides identification before
            anything is trained.
        label: ``"A+B"``, ``{"A": 1.0, "B": 0.5}``, a vector, or a condition's name.
        from_condition: whose cells are translated, for the support check; default the control.

    Raises:
        KeyError: an unknown perturbation or condition.
    """
    train = source if isinstance(source, PerturbationData) else source.train
    vector = train.label(label)
    if isinstance(source, PerturbationData):
        return identification_of(train, vector, _name(train, label, vector))
    return guarantee_of(
        source, label, resolve_source(source, vector, train.control if from_condition is None else from_condition)
    )


def guarantee_of(model: Fitted | Ensemble, label: LabelLike, cells: Source) -> Verdict:
    """The verdict on the prediction of a label from the cells of a source."""
    train, members = model.train, model.members
    vector = train.label(label)
    verdict = identification_of(train, vector, _name(train, label, vector))
    start, identified = cells.condition, identified_part(train, vector)
    outside = float(np.mean([outside_share(member, identified, cells) for member in members]))
    tested, distance, control = _tested(members)
    sources = [source_disagreement(member, identified, start) for member in members]
    effect = float(np.mean([found.effect for found in sources]))
    return dataclasses.replace(
        verdict,
        latent_rank=min(_latent_rank(member) for member in members),
        latent_dim=members[0].model.latent_dim,
        outside=outside,
        supported=outside <= MAX_OUTSIDE,
        tested=tested,
        # without a distance to bridge nothing was tested
        tested_error=distance / control if control > 0 else None,
        expected_error=None if control <= 0 else distance / effect if effect > 0 else float("inf"),
        source_disagreement=float(np.mean([found.share for found in sources])),
        replica_disagreement=replica_disagreement(members, identified, start) if len(members) > 1 else None,
    )


def _name(train: PerturbationData, label: LabelLike, vector: np.ndarray) -> str:
    if isinstance(label, str):
        return label
    return format_label(vector, train.perturbations, control=train.control, separator=train.separator)


def _tested(members: Sequence[Fitted]) -> tuple[tuple[str, ...], float, float]:
    """Left-out combinations, their mean energy distance from what was predicted, and from the control."""
    tested = tuple(c for c in members[0].validation_errors if _order(members[0], c) > 1)
    errors = [member.validation_errors[c] for member in members for c in tested]
    if not errors:
        return tested, 0.0, 0.0
    distance, control = (float(np.mean([error[name] for error in errors])) for name in ("pdae", "control"))
    return tested, max(distance, 0.0), control  # U forms can be slightly negative


@once_for_each
def _latent_rank(fitted: Fitted) -> int:
    shifts = fitted.shift(control_label(fitted.train).astype(np.float32), fitted.train.labels)
    singular = np.linalg.svd(shifts, compute_uv=False)
    return int(np.sum(singular > RANK_TOLERANCE * max(float(singular[0]), 1e-12)))


def _order(fitted: Fitted, condition: str) -> int:
    assert fitted.validation is not None
    return int(fitted.validation.orders[fitted.validation.index(condition)])
