r"""The training objective: translated cells against target cells, and the terms that make the latents the right ones.

For every source condition `s` and target condition `t`, the law `P_{s->t}` of translated cells is compared with the
cells `y` of `t` in the energy score

.. math:: ES(P, y) = E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta, \quad X, X' \sim P

Cells that share a label share their target law, so each source cell is decoded once per DISTINCT label. Stratified
batches have that by construction; `losses.grouped_score` is the same for arbitrary ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax import kernels
from pdae_jax.kernels import KernelLike, dissimilarity, dissimilarity_matrix
from pdae_jax.losses import kernel_score, two_sample_statistic
from pdae_jax.model import Model
from pdae_jax.types import Batch


class LossWeights(NamedTuple):
    """Weight of each term; a term with weight 0 is not computed. What pays is in `Recipe`."""

    translation: float = 0.0
    reconstruction: float = 0.0
    consistency: float = 0.0
    contrast: float = 0.0
    likelihood: float = 0.0
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
    likelihood: Float[Array, ""]  # negative log density of cells under N(W a, I), by its gradient, cells weighted
    cycle: Float[Array, ""]  # distance of re-encoded translated latents
    latent_prior: Float[Array, ""]  # energy distance of base latents to N(0, I)
    group_lasso: Float[Array, ""]  # sum over latent dimensions of the norm of their row of shifts


def pdae_loss(
    params: dict,
    model: Model,
    key: Array,
    batch: Batch,
    *,
    kernel: KernelLike,
    weights: LossWeights,
    form: str = "pairwise",
    num_unseen: int = 4,
) -> tuple[Float[Array, ""], LossTerms]:
    """The PDAE objective on one stratified batch; differentiable in `params`.

    Args:
        params: of the model.
        model: pure functions.
        key: decoder noise and prior draws.
        batch: S sources of m cells, T targets of n cells.
        kernel: a function of `pdae_jax.kernels`; ``energy(1.0)`` is the paper's.
        weights: of the terms.
        form: ``pairwise`` scores every law P_{s->t} by itself; ``pooled`` their mixture over sources (the paper's).
        num_unseen: labels drawn for the consistency term.

    Returns:
        The weighted sum, and every term.
    """
    # where one term draws, one key is enough: each split is compiled and run by itself
    one_use = not (weights.latent_prior or weights.consistency or weights.likelihood)
    key_decode, key_prior, key_unseen, key_volume = (key,) * 4 if one_use else jax.random.split(key, 4)
    latent = model.encode(params, batch.x_source)  # [S, m, k]
    shift = model.shift(params, batch.label_source[None, :, :], batch.label_target[:, None, :])  # [T, S, k]
    moved = latent[None] + shift[:, :, None, :]  # [T, S, m, k]
    copies = 0 if not weights.reconstruction else 2 if model.noise_dim else 1
    # all decodes in one: one draw of noise and one pass of the network compile and run faster than three
    latents = jnp.concatenate([moved, jnp.broadcast_to(latent[None], (copies, *latent.shape))])
    decoded = model.decode(params, key_decode, latents)  # [T + copies, S, m, d]
    predicted, reconstructed = decoded[: len(moved)], decoded[len(moved) :]
    zero = jnp.zeros(())
    terms = LossTerms(
        total=zero,
        translation=translation_score(predicted, batch.x_target, kernel, form),
        reconstruction=reconstruction_score(reconstructed, batch.x_source, kernel) if weights.reconstruction else zero,
        consistency=source_disagreement(params, model, key_unseen, latent, batch.label_source, kernel, num_unseen)
        if weights.consistency
        else zero,
        contrast=contrast(params, model, latent, batch.label_source) if weights.contrast else zero,
        likelihood=likelihood(params, model, key_volume, batch.x_source, latent, batch.label_source)
        if weights.likelihood
        else zero,
        cycle=jnp.mean(dissimilarity(kernel, model.encode(params, predicted), moved)) if weights.cycle else zero,
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
    predicted: Float[Array, "targets sources m d"], y: Float[Array, "targets n d"], kernel: KernelLike, form: str
) -> Float[Array, ""]:
    """Mean score over targets (``pooled``) or over source-target pairs (``pairwise``)."""
    num_targets, num_sources, m, d = predicted.shape
    if form == "pooled":
        return jnp.mean(kernel_score(predicted.reshape(num_targets, num_sources * m, d), y, kernel))
    if form == "pairwise":
        # The target is shared by all sources: its cross term is one product over all their rows.
        cross = jnp.mean(dissimilarity_matrix(kernel, predicted.reshape(num_targets, num_sources * m, d), y))
        within = jnp.mean(dissimilarity_matrix(kernel, predicted))  # of all pairs; a cell to itself is 0
        return cross - 0.5 * within * m / (m - 1)
    raise ValueError(f"form={form!r} is not known; pass 'pairwise' or 'pooled'.")


def reconstruction_score(
    decoded: Float[Array, "copies sources m d"], x: Float[Array, "sources m d"], kernel: KernelLike
) -> Float[Array, ""]:
    """Energy score of two decodes of a cell's latent against the cell; its distance where there is one decode only."""
    if len(decoded) == 1:
        return jnp.mean(dissimilarity(kernel, decoded[0], x))
    first, second = decoded
    to_first, to_second, between = dissimilarity(kernel, jnp.stack([first, second, first]), jnp.stack([x, x, second]))
    return 0.5 * jnp.mean(to_first + to_second - between)


def source_disagreement(
    params: dict, model: Model, key: Array, latent: Array, label_source: Array, kernel: KernelLike, num_labels: int
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
    h = dissimilarity_matrix(kernel, flat)
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
    # |z|^2 is common to all conditions and cancels
    size = 0.5 * jnp.sum(centre**2, axis=-1)
    logits = jnp.matmul(latent, centre.T, precision=jax.lax.Precision.HIGHEST) - size  # [S, m, S]
    own = jnp.sum(latent * centre[:, None], axis=-1) - size[:, None]  # [S, m]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - own)


def likelihood(
    params: dict,
    model: Model,
    key: Array,
    x: Float[Array, "sources m d"],
    latent: Float[Array, "sources m k"],
    label_source: Float[Array, "sources perturbations"],
) -> Float[Array, ""]:
    r"""Maximum likelihood of cells when latents of condition `e` follow `N(W a_e, I)`: a loss with its gradient.

    By the change of variables along the surface that the decoder draws, the negative log density of a cell is

    .. math:: \tfrac12 |g(x) - W a|^2 - \log |\det J_g(x) T| + \text{const}

    with a basis `T` of the tangents at `x`. Where `f` inverts `g` the gradient of the log determinant in `g` is that of
    :math:`\operatorname{tr} J_g(x) J_f(z)`, `J_f` held fixed, and of :math:`v^\top u,\ u = J_g J_f v`, on average over
    random signs `v` (Draxler et al., AISTATS 2024; Sorrenson et al., ICLR 2024): two directional derivatives a cell.
    The value is :math:`\tfrac12 |g(x) - W a|^2 + v^\top (v - u)`; the second part vanishes where `g` inverts `f`.

    Where `f` does not invert `g` yet, that gradient can make the encoder steeper without end. So a cell weighs
    :math:`e^{-|u - v|^2 / k}`, held fixed: one where the derivatives undo each other along `v`, less the further they
    are from that. The weight depends on `v`, so the average over signs is only near the trace where it is not one.

    It needs a Gaussian base as `contrast` does, and uses what that leaves out: how cells of one condition are spread,
    which bounds the chart where the condition of a cell is certain. Energy scores see little of either. A weight of the
    term well above 0.3 does harm: drawn tangents leave the data's surface, where little else bounds the slope of `g`.
    """
    key_decode, key_sign = jax.random.split(key)
    fixed, z = jax.lax.stop_gradient((params, latent))
    sign = jax.random.rademacher(key_sign, z.shape, z.dtype)
    _, tangent = jax.jvp(lambda z: model.decode(fixed, key_decode, z), (z,), (sign,))
    _, moved = jax.jvp(lambda x: model.encode(params, x), (x,), (tangent.astype(x.dtype),))
    base = latent - model.shift(params, jnp.zeros_like(label_source), label_source)[:, None, :]
    value = jnp.sum(0.5 * base**2 + sign * (sign - moved), axis=-1)
    weight = jnp.exp(-jnp.mean((moved - sign) ** 2, axis=-1))
    return jnp.mean(jax.lax.stop_gradient(weight) * value)


def latent_prior(params: dict, model: Model, key: Array, latent: Array, label_source: Array) -> Float[Array, ""]:
    """Energy distance (U form) of base latents, shifts taken off, to draws of N(0, I)."""
    base = latent - model.shift(params, jnp.zeros_like(label_source), label_source)[:, None, :]
    base = base.reshape(-1, base.shape[-1])
    return two_sample_statistic(base, jax.random.normal(key, base.shape), kernels.energy(1.0))
