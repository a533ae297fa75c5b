r"""What may be claimed about a prediction: is it identified, is it supported, was the assumption tested?

1. Identified. With an invertible smooth mixing and Gaussian base latents, the effect of a label `a` is determined
   exactly when :math:`a - a_0` lies in the span of the training differences :math:`\{a_e - a_0\}`, given
   `rank(W A) = k` (von Kuegelgen, Ketterer, Shen, Meinshausen, Peters, arXiv 2504.18522). One SVD decides.
2. Supported. The decoder is only known where it was trained: the share of translated latents farther from the
   training latents than those are from each other says how much of the prediction lies outside.
3. Tested. That effects add up is an assumption; only combinations that were left out and predicted can test it.
"""

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from pdae_jax.disagreement import replica_disagreement, source_disagreement
from pdae_jax.ensemble import Ensemble
from pdae_jax.fitted import Fitted
from pdae_jax.types import LabelLike, PerturbationData, format_label

SPAN_TOLERANCE = 1e-4  # of the residual share of a label outside the span; labels are float32
# A trusted prediction is to be within 5 % of the control's energy distance. Left-out combinations must have been within
# half of that (the others are harder now and then), and predictions that ought to be the same within all of it.
MAX_OUTSIDE = 0.25  # share of latents outside the support above which a prediction counts as unsupported
MAX_TESTED_ERROR = 0.025  # energy distance of left-out combinations, in shares of the control's, that passes the test
MAX_EXPECTED_ERROR = 0.05  # of left-out combinations, in shares of the distance that the label is predicted to go
MAX_DISAGREEMENT = 0.05  # of predictions that ought to be the same, in shares of the distance from the control
RANK_TOLERANCE = 0.05  # singular values of the latent shifts below this share of the largest count as zero

_NEIGHBOURS = 5
_MAX_REFERENCE = 4000  # training latents compared with
_MAX_QUERY = 1000  # translated latents asked about


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is known about the prediction of one label; None where it was not asked."""

    condition: str
    identified: bool  # the label lies in the span of the training labels
    residual: float  # rho: share of the label's length outside that span, 0 = inside
    weights: dict[str, float]  # minimum-norm combination of training conditions that gives the label
    leverage: float  # squared norm of the weights: how much the noise of their estimates is amplified
    latent_rank: int | None = None  # rank of the training conditions' latent shifts, W A
    latent_dim: int | None = None  # k; the theory asks for latent_rank = k
    outside: float | None = None  # share of translated latents outside the training latents' support; 0.05 is usual
    supported: bool | None = None  # outside <= MAX_OUTSIDE
    tested: tuple[str, ...] = ()  # combinations that were left out of training and predicted
    tested_error: float | None = None  # their energy distance, in shares of the control's
    expected_error: float | None = None  # the same distance, in shares of the one this label is predicted to go
    # how far predictions that ought to be the same differ, in shares of their distance from the control
    source_disagreement: float | None = None
    replica_disagreement: float | None = None  # of an ensemble

    @property
    def assumption_tested(self) -> bool:
        """Was any combination with an effect left out and predicted?"""
        return self.tested_error is not None

    @property
    def level(self) -> str:
        """The first of these that applies, else ``trusted``.

        ``not identified``, ``unsupported``, ``untested``, ``refuted``, ``imprecise``, ``inconsistent``.
        """
        if not self.identified:
            return "not identified"
        if self.supported is False:
            return "unsupported"
        if not self.assumption_tested:
            return "untested"
        if self.tested_error is not None and self.tested_error > MAX_TESTED_ERROR:
            return "refuted"
        if self.expected_error is not None and self.expected_error > MAX_EXPECTED_ERROR:
            return "imprecise"
        if self.disagreement > MAX_DISAGREEMENT:
            return "inconsistent"
        return "trusted"

    @property
    def disagreement(self) -> float:
        """The larger of the two disagreements that are known; 0 if none is."""
        known = [d for d in (self.source_disagreement, self.replica_disagreement) if d is not None and d == d]
        return max(known, default=0.0)

    def summary(self) -> str:
        """The verdict in sentences."""
        lines = [f"{self.condition}: {self.level}."]
        if self.identified:
            parts = " ".join(f"{weight:+.2g} ({name})" for name, weight in _largest(self.weights))
            lines.append(f"Identified: the label is a combination of training labels, {parts or 'the control'}.")
        else:
            lines.append(
                f"Not identified: {self.residual:.0%} of the label lies outside the span of the training labels; "
                f"samples show the identified part only."
            )
        if self.latent_rank is not None and self.latent_dim is not None and self.latent_rank < self.latent_dim:
            lines.append(
                f"The training shifts span {self.latent_rank} of {self.latent_dim} latent dimensions; the theory asks "
                f"for all."
            )
        if self.outside is not None:
            word = "Supported" if self.supported else "Not supported"
            lines.append(f"{word}: {self.outside:.0%} of the translated latents lie outside the training latents.")
        if self.tested_error is not None:
            lines.append(
                f"Assumption tested on {len(self.tested)} left-out combinations, which also chose the step: energy "
                f"distance {self.tested_error:.1%} of the control's."
            )
            if self.level == "imprecise":
                lines.append(
                    f"Of the distance that this label is predicted to go that is {self.expected_error:.0%}: its effect "
                    f"is too small beside the error."
                )
        else:
            lines.append("Additivity untested: no combination was left out of training and predicted.")
        if self.source_disagreement is not None and self.source_disagreement == self.source_disagreement:
            lines.append(
                f"Predictions from different sources differ by {self.source_disagreement:.1%} of the control's distance"
                f"{'' if self.replica_disagreement is None else f', replicas by {self.replica_disagreement:.1%}'}."
            )
        return " ".join(lines)


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
    name = format_label(vector, train.perturbations, control=train.control, separator=train.separator)
    verdict = _identification(train, vector, label if isinstance(label, str) else name)
    if isinstance(source, PerturbationData):
        return verdict
    members = source.members if isinstance(source, Ensemble) else (source,)
    start, identified = from_condition or train.control, identified_part(train, vector)
    outside = float(np.mean([_outside_share(member, identified, start) for member in members]))
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


def _tested(members: Sequence[Fitted]) -> tuple[tuple[str, ...], float, float]:
    """Left-out combinations, their mean energy distance from what was predicted, and from the control."""
    tested = tuple(c for c in members[0].validation_errors if _order(members[0], c) > 1)
    errors = [member.validation_errors[c] for member in members for c in tested]
    if not errors:
        return tested, 0.0, 0.0
    distance, control = (float(np.mean([error[name] for error in errors])) for name in ("pdae", "control"))
    return tested, max(distance, 0.0), control  # U forms can be slightly negative


def identified_part(train: PerturbationData, label: Float[np.ndarray, " perturbations"]) -> np.ndarray:
    """Projection of a label onto the span of the training differences, seen from the control.

    A label that lies in the span is returned as it is, and rounding is taken off others: the gain of a combination
    depends on how many of its doses are not zero.
    """
    origin, differences = _differences(train)
    weights = _min_norm(train, label - origin)
    projected = origin + weights @ differences
    size = np.linalg.norm(label - origin)
    if np.linalg.norm(projected - label) <= SPAN_TOLERANCE * size:
        return np.asarray(label, np.float32)
    return np.where(np.abs(projected) > SPAN_TOLERANCE * size, projected, 0.0).astype(np.float32)


def _identification(train: PerturbationData, label: np.ndarray, name: str) -> Verdict:
    origin, differences = _differences(train)
    target = label.astype(np.float64) - origin
    weights = _min_norm(train, target)
    length = np.linalg.norm(target)
    residual = float(np.linalg.norm(target - weights @ differences) / length) if length > 0 else 0.0
    return Verdict(
        condition=name,
        identified=residual <= SPAN_TOLERANCE,
        residual=residual,
        weights={c: float(w) for c, w in zip(train.conditions, weights, strict=True) if abs(w) > 1e-9},
        leverage=float(weights @ weights),
    )


def _differences(train: PerturbationData) -> tuple[np.ndarray, np.ndarray]:
    labels = train.labels.astype(np.float64)
    origin = labels[train.index(train.control)]
    return origin, labels - origin


def _min_norm(train: PerturbationData, target: np.ndarray) -> np.ndarray:
    return _weights_of_targets(train) @ target


# Thousands of labels may be asked of one training set: its SVD is computed once. The cache goes by identity
# (PerturbationData is read-only) and holds the latest training set only.
@functools.lru_cache(maxsize=1)
def _weights_of_targets(train: PerturbationData) -> np.ndarray:
    """Pseudoinverse ``[conditions, perturbations]``: a target to the minimum-norm weights of training differences."""
    return np.linalg.pinv(_differences(train)[1].T, rcond=1e-10)


def _latent_rank(fitted: Fitted) -> int:
    _, differences = _differences(fitted.train)
    shifts = np.asarray(fitted.model.shift(fitted.params, jnp.zeros_like(differences[0]), jnp.asarray(differences)))
    singular = np.linalg.svd(shifts, compute_uv=False)
    return int(np.sum(singular > RANK_TOLERANCE * max(float(singular[0]), 1e-12)))


def _order(fitted: Fitted, condition: str) -> int:
    assert fitted.validation is not None
    return int(np.count_nonzero(fitted.validation.labels[fitted.validation.index(condition)]))


class Support(NamedTuple):
    """The training latents, and how far from each other they usually are."""

    tree: KDTree
    usual: float  # 95th percentile of the distance to the fifth nearest other training latent


# one per fitted model, gone with it: predictions of many labels share the same training latents
_supports: "weakref.WeakKeyDictionary[Fitted, Support]" = weakref.WeakKeyDictionary()


def _support(fitted: Fitted) -> Support:
    if fitted not in _supports:
        train, rng = fitted.train, np.random.default_rng(fitted.seed)
        # equally many of each condition, so that a large control does not stand for the whole support
        each = max(2 * _NEIGHBOURS, _MAX_REFERENCE // train.num_conditions)
        rows = [rng.permutation(np.flatnonzero(train.condition_index == e))[:each] for e in range(train.num_conditions)]
        latents = fitted.encode(train.x[np.concatenate(rows)])
        tree = KDTree(latents)
        # the nearest neighbour of a training latent is itself
        distance = tree.query(latents, k=_NEIGHBOURS + 1, workers=-1)[0][:, -1]
        _supports[fitted] = Support(tree, float(np.quantile(distance, 0.95)))
    return _supports[fitted]


def _outside_share(fitted: Fitted, label: np.ndarray, from_condition: str) -> float:
    """Share of translated latents farther from the training latents than 95 % of these are from each other."""
    train, support = fitted.train, _support(fitted)
    source = train.index(from_condition)
    rows = np.random.default_rng(fitted.seed).permutation(np.flatnonzero(train.condition_index == source))[:_MAX_QUERY]
    shift = fitted.model.shift(fitted.params, jnp.asarray(train.labels[source]), jnp.asarray(label))
    moved = fitted.encode(train.x[rows]) + np.asarray(shift)
    distance = support.tree.query(moved, k=_NEIGHBOURS, workers=-1)[0][:, -1]
    return float(np.mean(distance > support.usual))


def _largest(weights: dict[str, float], most: int = 4) -> list[tuple[str, float]]:
    return sorted(weights.items(), key=lambda item: -abs(item[1]))[:most]
