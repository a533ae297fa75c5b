"""Predicted samples of any label, with a verdict on what they are worth."""

import math
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int

from pdae_jax.compiled import as_door
from pdae_jax.data.moments import moments
from pdae_jax.labels import LabelLike, format_label
from pdae_jax.model.ensemble import Ensemble, check_model
from pdae_jax.model.fitted import Fitted
from pdae_jax.prediction.guarantee import guarantee_of
from pdae_jax.prediction.source import Source, SourceLike, resolve_source
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.randomness import check_key, make_random
from pdae_jax.settings import Whole
from pdae_jax.types import PerturbationData
from pdae_jax.view.lattice import to_counts

MAX_REACH = 1.5  # above it a prediction is warned about, see `reach_of`
# Cells translated at once: at most so many, which fixes the memory, and of fewer a power of two, at least so many: a
# handful of compiled shapes serves every number of samples.
BATCH, SMALL_BATCH = 4096, 512


class Prediction(NamedTuple):
    """Samples of the law of observations under a label. Not reconstructions: no cell of the label was seen."""

    samples: Float[np.ndarray, "samples features"]  # in the user's units
    features: tuple[str, ...]
    condition: str  # the label in words
    label: Float[np.ndarray, " perturbations"]
    source: str  # whose cells were translated
    verdict: Verdict
    replica: Int[np.ndarray, " samples"] | None = None  # of an ensemble: which of its members made each sample
    reach: float = math.nan  # how far samples go beyond the measured cells, see `reach_of`; 1: not beyond
    size_factors: Float[np.ndarray, " samples"] | None = None  # of the source cells, where data are counts

    def counts(
        self, key: Array, *, size_factors: float | Float[np.ndarray, " samples"] | None = None
    ) -> Int[np.ndarray, "samples features"]:
        """Turn the samples into whole numbers of counts.

        Of data that are known as counts the samples are logarithms of whole numbers already, and these come back. With
        other size factors what is left over is rounded up with its probability.

        Args:
            key: typed PRNG key: what is rounded up.
            size_factors: counts of each cell over 10,000 (the target of its normalisation), one for all or one a
                sample; default those of the cells that were translated. 1.0: cells of 10,000 counts.

        Raises:
            ValueError: the data were not read as counts, and no size factors are given; or some that are not positive.
        """
        sizes = self.size_factors if size_factors is None else size_factors
        if sizes is None:
            raise ValueError(
                "The training data are not known as counts. Read them with normalize=True, or pass size_factors."
            )
        sizes = np.broadcast_to(np.asarray(sizes, np.float64), (len(self.samples),))
        if not np.all(sizes > 0):
            raise ValueError("size_factors must be greater than 0. Pass the counts of a cell over 10,000.")
        return to_counts(make_random(key), self.samples, sizes)


@as_door()
def predict(
    fitted: Fitted | Ensemble,
    label: LabelLike,
    *,
    key: Array,
    num_samples: int | None = None,
    source: SourceLike = "control",
) -> Prediction:
    """Predict the distribution of observations under a label, seen or unseen.

    Args:
        fitted: what `fit` or `load_run` returned; of an ensemble, the mixture of its members' laws is predicted, each
            translating cells of its own, and the verdict says how far they differ.
        label: ``"A+B"``, ``{"A": 1.0, "B": 0.5}``, or a vector ``[perturbations]``.
        key: typed PRNG key: choice of source cells and decoder noise.
        num_samples: number of samples; default one per source cell.
        source: whose cells are translated: ``"control"``, the name of a training condition, ``"all"`` training
            cells, or ``"nearest"``, the training condition with the smallest latent shift to the label. Or new cells:
            an array ``[cells, features]`` in the order of the training features, a data frame or AnnData with their
            names, all taken for control cells; or `PerturbationData`, whose labels count.

    Returns:
        Samples with feature names, and the verdict. A label that is not identified is predicted by its identified
        part, and the verdict says so. Where data are counts (`PerturbationData.size_factors`), samples are
        log-normalised whole numbers, each of the size of the cell that was translated.

    Raises:
        KeyError: an unknown perturbation or source.
        ValueError: a label of the wrong length, or `num_samples` below 1.
        TypeError: `fitted` is no model, or `key` no typed PRNG key.
    """
    check_model(fitted, "predict(fitted, label, key=key)")
    check_key(key)
    train = fitted.train
    vector = train.label(label)
    cells = resolve_source(fitted, vector, source)
    name = label if isinstance(label, str) else _name(train, vector)
    verdict = guarantee_of(fitted, label, cells)
    rows = cells.rows
    number = len(rows) if num_samples is None else Whole().checked("num_samples", num_samples)
    members = fitted.members
    shares = _shares(key, rows, number, len(members))
    samples, sizes, made_by = [], [], []
    for m, (member, (own, size)) in enumerate(zip(members, shares, strict=True)):
        key_member = jax.random.fold_in(key, m) if len(members) > 1 else key
        batches = _batches(member, vector, key_member, size, cells._replace(rows=own)) if size else ()
        for moved, rows_moved in batches:
            samples.append(moved)
            sizes.append(cells.data.sizes(rows_moved))
        made_by.append(np.full(size, m))
    prediction = Prediction(
        np.concatenate(samples),
        *(train.features, name, vector, cells.name, verdict),
        size_factors=None if cells.data.size_factors is None else np.concatenate(sizes),
    )
    prediction = prediction._replace(reach=_checked_reach(prediction, fitted))
    if len(members) == 1:
        return prediction
    order = make_random(key).permutation(number)  # so that any part of the samples is of the mixture too
    return prediction._replace(
        samples=prediction.samples[order],
        replica=np.concatenate(made_by)[order],
        size_factors=None if prediction.size_factors is None else prediction.size_factors[order],
    )


def reach_of(samples: Float[np.ndarray, "samples features"], train: PerturbationData) -> Float[np.ndarray, " features"]:
    """Find how far samples go beyond the measured cells, per feature.

    The largest distance of a sample from the middle of the measured range, in halves of the range: 1 is the smallest or
    largest value ever measured. Features that are constant in the training cells are 1 where samples are as well.
    """
    found = moments(train)
    return _in_halves(samples, found.lowest, found.highest)


def _in_halves(
    samples: Float[np.ndarray, "samples features"],
    lowest: Float[np.ndarray, " features"],
    highest: Float[np.ndarray, " features"],
) -> Float[np.ndarray, " features"]:
    """Find the largest distance of each feature from the middle of a range, in halves of it."""
    middle = (lowest + highest) / 2
    far = np.maximum(samples.max(axis=0) - middle, middle - samples.min(axis=0)) / _half(lowest, highest)
    return np.where(highest > lowest, far, 1.0 + far)


def _half(lowest: Float[np.ndarray, " features"], highest: Float[np.ndarray, " features"]) -> np.ndarray:
    """Halve the width of a range; of one without a width take the size of its value, at least 1."""
    return np.where(highest > lowest, (highest - lowest) / 2, np.maximum(np.abs(lowest), 1.0))


class Beyond(NamedTuple):
    """Part of a sample that is outside of a measured range."""

    share: float  # of cells with a value outside of the range widened by half its width, or that is no number
    farthest: float  # largest distance from the middle of the range, in halves of it: 1 is its end, 2 the widened one


def beyond(
    samples: Float[np.ndarray, "samples features"],
    lowest: Float[np.ndarray, " features"],
    highest: Float[np.ndarray, " features"],
) -> Beyond:
    """Find cells of which no value like theirs was measured: an energy distance hardly sees one cell, however far."""
    slack, far = _half(lowest, highest), _in_halves(samples, lowest, highest)
    suspect = ~(far < 1.9)  # the others have no value beyond two halves, where the widened range ends
    cells, slack = samples[:, suspect], slack[suspect]
    inside = (cells >= lowest[suspect] - slack) & (cells <= highest[suspect] + slack)
    return Beyond(float(np.mean(~inside.all(axis=1))), float(np.max(far)))


# of a model, gone with it, the conditions and sources that were warned about: a report predicts each several times
_warned: "weakref.WeakKeyDictionary[Fitted | Ensemble, set[tuple[str, str]]]" = weakref.WeakKeyDictionary()


def _checked_reach(prediction: Prediction, fitted: Fitted | Ensemble) -> float:
    train, warned = fitted.train, _warned.setdefault(fitted, set())
    reach = reach_of(prediction.samples, train)
    worst = int(np.argmax(reach))
    if reach[worst] > MAX_REACH and (prediction.condition, prediction.source) not in warned:
        warned.add((prediction.condition, prediction.source))
        found, column = moments(train), prediction.samples[:, worst]
        value = column[np.argmax(np.abs(column - found.mean[worst]))]
        logging.warning(
            "%s: predicted values of %s reach %.4g, and measured ones lie between %.4g and %.4g. Such cells were never "
            "seen; look at the verdict before using them.",
            *(prediction.condition, train.features[worst], value, found.lowest[worst], found.highest[worst]),
        )
    return float(reach[worst])


def _shares(key: Array, rows: np.ndarray, number: int, num_members: int) -> list[tuple[np.ndarray, int]]:
    """Share source cells among members, disjoint as long as there are enough, and samples."""
    if num_members == 1:
        return [(rows, number)]
    shuffled = make_random(jax.random.fold_in(key, num_members)).permutation(rows)
    parts = [shuffled[m::num_members] for m in range(num_members)]
    return [(p if len(p) else rows, len(range(m, number, num_members))) for m, p in enumerate(parts)]


def predict_batches(
    fitted: Fitted, label: LabelLike, *, key: Array, num_samples: int, source: SourceLike = "control"
) -> Iterator[Float[np.ndarray, "batch features"]]:
    """Predict as `predict` does, a batch at a time: for more samples than memory holds.

    Every source cell is used once before any is used again.
    """
    check_model(fitted, "predict_batches(fitted, label, key=key, num_samples=1000)")
    check_key(key)
    num_samples = Whole().checked("num_samples", num_samples)
    vector = fitted.train.label(label)
    return (moved for moved, _ in _batches(fitted, vector, key, num_samples, resolve_source(fitted, vector, source)))


def _batches(
    fitted: Fitted, vector: np.ndarray, key: Array, num_samples: int, source: Source
) -> Iterator[tuple[Float[np.ndarray, "batch features"], Int[np.ndarray, " batch"]]]:
    """Translate cells of a source: these, and their rows in it."""
    target, rows = fitted.design.identified_part(vector), source.rows
    key_rows, key_noise = jax.random.split(key)
    rng = make_random(key_rows)
    queue = rng.permutation(rows)
    for number, first in enumerate(range(0, num_samples, BATCH)):
        size = min(BATCH, num_samples - first)
        padded = max(SMALL_BATCH, 1 << (size - 1).bit_length())  # the surplus is cut off
        while len(queue) < padded:
            queue = np.concatenate([queue, rng.permutation(rows)])
        chosen, queue = queue[:padded], queue[size:]
        cells = source.data.x[chosen], source.labels(chosen), target[None], source.data.sizes(chosen)
        moved = fitted.translate(jax.random.fold_in(key_noise, number), *cells)
        yield moved[:size], chosen[:size]


def _name(train: PerturbationData, vector: np.ndarray) -> str:
    return format_label(vector, train.perturbations, control=train.control, separator=train.separator)
