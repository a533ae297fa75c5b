r"""Two-sample statistics, scores, and the training objective.

Every statistic says whether it is the U form (unbiased, pairs of distinct cells) or the V form (all pairs; biased
by about `E h(X, X') / n`). The U form can be slightly negative: that is correct.

The objective compares, for every source condition `s` and target condition `t`, the law `P_{s->t}` of translated
cells with the cells `y` of `t`, in the energy score

.. math:: ES(P, y) = E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta, \quad X, X' \sim P

(Gneiting & Raftery, JASA 2007). Cells that share a label share their target law, so each source cell is decoded
once per DISTINCT label; `grouped_score` is that identity for arbitrary batches, and stratified batches have it
by construction.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pdae_jax import kernels
from pdae_jax.kernels import Kernel, squared_distances
from pdae_jax.model import Model
from pdae_jax.types import AnyArray, Batch

# Elements of one tile of the distance matrix: 16 MB in float32, so that it stays near the processor.
TILE_ELEMENTS = 2**22


# --- two-sample statistics -----------------------------------------------------------------------------------------


def energy_distance(
    x: Float[AnyArray, "n d"], y: Float[AnyArray, "m _"], *, beta: float = 1.0, unbiased: bool = True
) -> Float[Array, ""]:
    r"""Energy distance between two samples.

    .. math:: 2\,E\|X-Y\|^\beta - E\|X-X'\|^\beta - E\|Y-Y'\|^\beta

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        beta: exponent in (0, 2).
        unbiased: U form (default) or V form.

    Returns:
        Scalar. Zero in expectation (U form) iff the laws agree (Szekely & Rizzo, 2013).

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    return two_sample_statistic(x, y, kernels.energy(beta), unbiased=unbiased)


def mmd2(
    x: Float[AnyArray, "n d"], y: Float[AnyArray, "m _"], *, kernel: Kernel | None = None, unbiased: bool = True
) -> Float[Array, ""]:
    r"""Squared maximum mean discrepancy, :math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)` (Gretton et al., JMLR 2012).

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        kernel: a function of `pdae_jax.kernels`; default Gaussian at half, one and two times the median distance
            in the pooled sample (median over at most 1,000 cells of it).
        unbiased: U form (default) or V form.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """
    check_samples(x, y)
    if kernel is None:
        pooled = jnp.concatenate([jnp.asarray(x), jnp.asarray(y)])
        median = kernels.median_bandwidth(jax.random.key(0), pooled)
        kernel = kernels.gaussian(jnp.array([0.5, 1.0, 2.0]) * median)
    return two_sample_statistic(x, y, kernel, unbiased=unbiased)


def two_sample_statistic(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m _"],
    kernel: Kernel,
    *,
    weights_x: Float[Array, " n"] | None = None,
    weights_y: Float[Array, " m"] | None = None,
    unbiased: bool = True,
) -> Float[Array, ""]:
    r""":math:`2 E h(X,Y) - E h(X,X') - E h(Y,Y')` for any kernel, in tiles: memory O(tile + (n + m) d).

    Weights need not sum to one; zero weights mask rows, so that one compiled shape serves many sample sizes.
    """
    check_samples(x, y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    centre = jax.lax.stop_gradient(0.5 * (jnp.mean(x, 0) + jnp.mean(y, 0)))
    x, y = x - centre, y - centre
    w_x = jnp.ones(x.shape[0], x.dtype) if weights_x is None else weights_x
    w_y = jnp.ones(y.shape[0], y.dtype) if weights_y is None else weights_y
    cross = _mean_dissimilarity(x, y, w_x, w_y, kernel)
    within_x = _mean_dissimilarity(x, x, w_x, w_x, kernel, itself=True) * _u_factor(w_x, unbiased)
    within_y = _mean_dissimilarity(y, y, w_y, w_y, kernel, itself=True) * _u_factor(w_y, unbiased)
    return 2.0 * cross - within_x - within_y


def _u_factor(weights: Array, unbiased: bool) -> Array | float:
    """From the mean over all pairs (V) to that over distinct pairs (U); n / (n - 1) for equal weights."""
    if not unbiased:
        return 1.0
    total = jnp.sum(weights)
    return total**2 / (total**2 - jnp.sum(weights**2))


def _mean_dissimilarity(x: Array, y: Array, w_x: Array, w_y: Array, kernel: Kernel, itself: bool = False) -> Array:
    """Weighted mean of h over all pairs, one tile of rows of x at a time; h of a cell to itself is exactly 0."""
    n, m = x.shape[0], y.shape[0]
    rows = max(1, min(n, TILE_ELEMENTS // m))
    num_tiles = math.ceil(n / rows)
    pad = num_tiles * rows - n
    x_tiles = jnp.pad(x, ((0, pad), (0, 0))).reshape(num_tiles, rows, -1)
    w_tiles = jnp.pad(w_x, (0, pad)).reshape(num_tiles, rows)

    def one_tile(start: Array, x_tile: Array, w_tile: Array) -> Array:
        sq = squared_distances(x_tile, y)
        if itself:  # rounding must not leave a distance between a cell and itself
            sq = jnp.where(start + jnp.arange(rows)[:, None] == jnp.arange(m)[None, :], 0.0, sq)
        return w_tile @ (kernel(sq) @ w_y)

    starts = rows * jnp.arange(num_tiles)
    if num_tiles == 1:
        total = one_tile(starts[0], x_tiles[0], w_tiles[0])
    else:
        # checkpoint: the backward pass recomputes a tile instead of keeping all of them
        total = jnp.sum(jax.lax.map(lambda args: jax.checkpoint(one_tile)(*args), (starts, x_tiles, w_tiles)))
    return total / (jnp.sum(w_x) * jnp.sum(w_y))


def check_samples(x: AnyArray, y: AnyArray) -> None:
    """Two samples ``[n, d]`` and ``[m, d]`` with n, m >= 2; ``ValueError`` otherwise."""
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim != 2 or sample.shape[0] < 2:
            raise ValueError(
                f"Sample {name} has shape {tuple(sample.shape)}; a two-sample statistic needs [cells >= 2, features]."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features but y has {y.shape[1]}. Pass the same features, in one order.")


# --- scores --------------------------------------------------------------------------------------------------------


def energy_score(samples: Float[AnyArray, "m d"], y: Float[AnyArray, "n _"], *, beta: float = 1.0) -> Float[Array, ""]:
    r"""Energy score of a predicted sample against observations, mean over the observations (U form).

    .. math:: E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta

    Strictly proper: in expectation smallest when the samples follow the law of `y` (Gneiting & Raftery 2007).

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    check_samples(samples, y)
    return kernel_score(jnp.asarray(samples), jnp.asarray(y), kernels.energy(beta))


def kernel_score(
    samples: Float[Array, "*batch m d"], y: Float[Array, "*batch n d"], kernel: Kernel
) -> Float[Array, "*batch"]:
    """`energy_score` for any kernel, over leading batch axes; whole distance matrices, for training batches."""
    m = samples.shape[-2]
    cross = jnp.mean(kernel(squared_distances(samples, y)), axis=(-2, -1))
    distinct = ~jnp.eye(m, dtype=bool)
    within = kernel(jnp.where(distinct, squared_distances(samples, samples), 0.0))
    return cross - 0.5 * jnp.sum(within, axis=(-2, -1)) / (m * (m - 1))


def grouped_score(
    decoded: Float[Array, "labels cells d"], x: Float[Array, "cells d"], group: Int[Array, " cells"], kernel: Kernel
) -> Float[Array, ""]:
    r"""Every cell of a batch as its own target, computed once per distinct label.

    The ungrouped loss scores cell `i` against the translations of all other cells `j != i` to `i`'s label:
    `B x B` decodes and `B x B x B` distances for a batch of `B`. Cells with one label share those decodes. With
    :math:`D_e` the dissimilarities among cells decoded to label `e` and :math:`r_e[j] = \sum_k D_e[j,k]`, the
    diversity term of all cells `i` of `e` is :math:`n_e \sum_j r_e[j] - 2 \sum_{i \in e} r_e[i]`.

    Args:
        decoded: all cells of the batch translated to each distinct label.
        x: the cells themselves.
        group: index into the distinct labels, per cell.
        kernel: a function of `pdae_jax.kernels`.
    """
    num_labels, num_cells, _ = decoded.shape
    others = num_cells - 1
    member = jax.nn.one_hot(group, num_labels, dtype=decoded.dtype).T  # [labels, cells]
    cross = kernel(squared_distances(decoded, jnp.broadcast_to(x, (num_labels, *x.shape))))  # [labels, source, target]
    own = jnp.diagonal(cross, axis1=-2, axis2=-1)  # a cell does not predict itself
    attraction = jnp.sum(member * (jnp.sum(cross, axis=-2) - own)) / others
    distinct = ~jnp.eye(num_cells, dtype=bool)
    row_sums = jnp.sum(kernel(jnp.where(distinct, squared_distances(decoded, decoded), 0.0)), axis=-1)
    diversity = jnp.sum(jnp.sum(member, axis=1) * jnp.sum(row_sums, axis=1)) - 2.0 * jnp.sum(member * row_sums)
    return (attraction - 0.5 * diversity / (others * (others - 1))) / num_cells


# --- the training objective ----------------------------------------------------------------------------------------


class LossWeights(NamedTuple):
    """Weight of each term; a term with weight 0 is not computed."""

    translation: float = 1.0
    reconstruction: float = 1.0
    consistency: float = 0.0
    contrast: float = 0.0
    cycle: float = 0.0
    latent_prior: float = 0.0
    group_lasso: float = 0.0


class LossTerms(NamedTuple):
    """Every term before weighting, and the weighted sum; all scalars, 0 where not computed."""

    total: Float[Array, ""]
    translation: Float[Array, ""]  # energy score of translated cells against target cells
    reconstruction: Float[Array, ""]  # energy score of two decodes of a cell against the cell
    consistency: Float[Array, ""]  # energy distance between sources, translated to labels nobody measured
    contrast: Float[Array, ""]  # cross-entropy of the condition given the latent, under N(W a, I)
    cycle: Float[Array, ""]  # distance of re-encoded translated latents
    latent_prior: Float[Array, ""]  # energy distance of base latents to N(0, I)
    group_lasso: Float[Array, ""]  # sum over latent dimensions of the norm of their row of shifts


def pdae_loss(
    params: dict,
    model: Model,
    key: Array,
    batch: Batch,
    *,
    kernel: Kernel,
    form: str = "pairwise",
    weights: LossWeights = LossWeights(),
    num_unseen: int = 4,
) -> tuple[Float[Array, ""], LossTerms]:
    """The PDAE objective on one stratified batch; differentiable in `params`.

    Args:
        params: of the model.
        model: pure functions.
        key: decoder noise and prior draws.
        batch: S sources of m cells, T targets of n cells.
        kernel: a function of `pdae_jax.kernels`; ``energy(1.0)`` is the paper's.
        form: ``pairwise`` scores every law P_{s->t} by itself; ``pooled`` their mixture over sources (the paper's).
        weights: of the terms.
        num_unseen: labels drawn for the consistency term.

    Returns:
        The weighted sum, and every term.
    """
    key_translate, key_reconstruct, key_prior, key_unseen = jax.random.split(key, 4)
    latent = model.encode(params, batch.x_source)  # [S, m, k]
    shift = model.shift(params, batch.label_source[None, :, :], batch.label_target[:, None, :])  # [T, S, k]
    moved = latent[None] + shift[:, :, None, :]  # [T, S, m, k]
    predicted = model.decode(params, key_translate, moved)  # [T, S, m, d]
    zero = jnp.zeros(())
    terms = LossTerms(
        total=zero,
        translation=translation_score(predicted, batch.x_target, kernel, form),
        reconstruction=reconstruction_score(params, model, key_reconstruct, latent, batch.x_source, kernel)
        if weights.reconstruction
        else zero,
        consistency=source_disagreement(params, model, key_unseen, latent, batch.label_source, kernel, num_unseen)
        if weights.consistency
        else zero,
        contrast=contrast(params, model, latent, batch.label_source) if weights.contrast else zero,
        cycle=jnp.mean(kernel(jnp.sum((model.encode(params, predicted) - moved) ** 2, axis=-1)))
        if weights.cycle
        else zero,
        latent_prior=latent_prior(params, model, key_prior, latent, batch.label_source)
        if weights.latent_prior
        else zero,
        group_lasso=jnp.sum(jnp.sqrt(jnp.sum(params["shift"]["matrix"] ** 2, axis=0) + 1e-12))
        if weights.group_lasso
        else zero,
    )
    total = sum((getattr(weights, name) * getattr(terms, name) for name in LossWeights._fields), start=zero)
    return total, terms._replace(total=total)


def translation_score(
    predicted: Float[Array, "targets sources m d"], y: Float[Array, "targets n d"], kernel: Kernel, form: str
) -> Float[Array, ""]:
    """Mean score over targets (``pooled``) or over source-target pairs (``pairwise``)."""
    num_targets, num_sources, m, d = predicted.shape
    if form == "pooled":
        return jnp.mean(kernel_score(predicted.reshape(num_targets, num_sources * m, d), y, kernel))
    if form == "pairwise":
        # The target is shared by all sources: its cross term is one product over all their rows.
        return jnp.mean(jax.vmap(lambda p, t: _pairwise_score(p, t, kernel))(predicted, y))
    raise ValueError(f"form={form!r} is not known; pass 'pairwise' or 'pooled'.")


def _pairwise_score(predicted: Float[Array, "sources m d"], y: Float[Array, "n d"], kernel: Kernel) -> Array:
    num_sources, m, d = predicted.shape
    cross = jnp.mean(kernel(squared_distances(predicted.reshape(num_sources * m, d), y)))
    distinct = ~jnp.eye(m, dtype=bool)
    within = jnp.sum(kernel(jnp.where(distinct, squared_distances(predicted, predicted), 0.0)), axis=(1, 2))
    return cross - 0.5 * jnp.mean(within) / (m * (m - 1))


def reconstruction_score(
    params: dict, model: Model, key: Array, latent: Array, x: Array, kernel: Kernel
) -> Float[Array, ""]:
    """Energy score of two decodes of a cell's latent against the cell; its distance when there is no noise."""
    key_first, key_second = jax.random.split(key)
    first = model.decode(params, key_first, latent)
    if model.noise_dim == 0:
        return jnp.mean(kernel(jnp.sum((first - x) ** 2, axis=-1)))
    second = model.decode(params, key_second, latent)
    attraction = kernel(jnp.sum((first - x) ** 2, axis=-1)) + kernel(jnp.sum((second - x) ** 2, axis=-1))
    return 0.5 * jnp.mean(attraction - kernel(jnp.sum((first - second) ** 2, axis=-1)))


def source_disagreement(
    params: dict, model: Model, key: Array, latent: Array, label_source: Array, kernel: Kernel, num_labels: int
) -> Float[Array, ""]:
    r"""Energy distance between the laws :math:`P_{s \to a}` of different sources `s`, at labels `a` nobody measured.

    Whatever the law under `a` is, every source must be translated to the same one: a constraint that needs no cells
    of `a`. Charts that fit the training conditions but disagree with each other are told apart by it.
    The labels are `t (a_e + a_f)`, `t` uniform: from the control over midpoints to sums of two training labels.
    """
    key_pair, key_length, key_decode = jax.random.split(key, 3)
    num_sources, m, _ = latent.shape
    pair = jax.random.randint(key_pair, (2, num_labels), 0, num_sources)
    length = jax.random.uniform(key_length, (num_labels, 1))
    label = length * (label_source[pair[0]] + label_source[pair[1]])
    shift = model.shift(params, label_source[None], label[:, None])
    predicted = model.decode(params, key_decode, latent[None] + shift[:, :, None])  # [labels, sources, m, d]
    flat = predicted.reshape(num_labels, num_sources * m, -1)
    distinct = ~jnp.eye(num_sources * m, dtype=bool)
    h = kernel(jnp.where(distinct, squared_distances(flat, flat), 0.0))
    same = jnp.kron(jnp.eye(num_sources), jnp.ones((m, m)))
    within = jnp.sum(h * same, axis=(1, 2)) / (num_sources * m * (m - 1))
    between = jnp.sum(h * (1 - same), axis=(1, 2)) / (num_sources * (num_sources - 1) * m * m)
    return jnp.mean(2.0 * (between - within))


def contrast(params: dict, model: Model, latent: Array, label_source: Array) -> Float[Array, ""]:
    r"""Cross-entropy of a cell's condition given its latent, when latents of condition `e` follow `N(W a_e, I)`.

    .. math:: -\log \frac{\exp(-\tfrac12 |z - W a_s|^2)}{\sum_e \exp(-\tfrac12 |z - W a_e|^2)}

    The argument that identifies the latents (arXiv 2504.18522), as a loss: with a Gaussian base, log density ratios
    between conditions are linear in the true latents, :math:`z \cdot W a_e - \tfrac12 |W a_e|^2`, and an invertible
    encoder for which they are linear is affine in the truth. Matching distributions alone is blind to slowly bent
    charts; this is not, and needs no decoding. Only valid where the base is near Gaussian.
    """
    centre = model.shift(params, jnp.zeros_like(label_source), label_source)  # [S, k]
    logits = -0.5 * squared_distances(latent, jnp.broadcast_to(centre, (latent.shape[0], *centre.shape)))  # [S, m, S]
    own = jnp.diagonal(jax.nn.log_softmax(logits, axis=-1), axis1=0, axis2=2)  # [m, S]
    return -jnp.mean(own)


def latent_prior(params: dict, model: Model, key: Array, latent: Array, label_source: Array) -> Float[Array, ""]:
    """Score of base latents, shifts taken off, against draws of N(0, I): pins down the chart up to a rotation."""
    base = latent - model.shift(params, jnp.zeros_like(label_source), label_source)[:, None, :]
    base = base.reshape(-1, base.shape[-1])
    draws = jax.random.normal(key, base.shape)
    return 2.0 * kernel_score(base, draws, kernels.energy(1.0)) - jnp.mean(
        kernels.energy(1.0)(squared_distances(draws, draws))
    )
