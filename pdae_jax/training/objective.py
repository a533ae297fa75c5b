r"""The training objective: translated cells against target cells, and the terms that make the latents the right ones.

For every source condition `s` and target condition `t`, the law `P_{s->t}` of translated cells is compared with the
cells `y` of `t` in the energy score

.. math:: ES(P, y) = E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta, \quad X, X' \sim P

Cells that share a label share their target law, so each source cell is decoded once per DISTINCT label. Stratified
batches have that by construction; `losses.grouped_score` is the same for arbitrary ones.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pdae_jax.model.model import Model
from pdae_jax.recipe import LossWeights
from pdae_jax.two_sample.kernels import Kernel, KernelLike, as_kernel, dissimilarity, dissimilarity_matrix
from pdae_jax.two_sample.scores import batch_score
from pdae_jax.view.lattice import draws_of
from pdae_jax.view.sampler import Batch
from pdae_jax.view.view import View


class LossTerms(NamedTuple):
    """Every term before weighting, and the weighted sum; all scalars, 0 where not computed."""

    total: Float[Array, ""]
    translation: Float[Array, ""]  # energy score of translated cells against target cells
    reconstruction: Float[Array, ""]  # energy score of two decodes of a cell against the cell
    contrast: Float[Array, ""]  # cross-entropy of the condition given the latent, under N(phi(a) W, I)
    likelihood: Float[Array, ""]  # negative log density of cells under N(phi(a) W, I), by its gradient, cells weighted


def pdae_loss(
    params: dict,
    model: Model,
    key: Array,
    batch: Batch,
    *,
    kernel: KernelLike,
    weights: LossWeights,
    form: str,
    terms: Sequence[str] | None = None,
    in_turn: bool = False,
) -> tuple[Float[Array, ""], LossTerms]:
    """Compute the objective on one stratified batch; differentiable in `params`.

    Args:
        params: of the model.
        model: pure functions.
        key: drawn noise, and signs of the likelihood.
        batch: S sources of m cells, T targets of n cells.
        kernel: a function of `pdae_jax.kernels`; ``energy(1.0)`` is the paper's.
        weights: of the terms.
        terms: names of those that are computed; None: of all whose weight is not 0, which must then be plain numbers.
        form: ``pairwise`` scores every law P_{s->t} by itself; ``pooled`` their mixture over sources (the paper's).
        in_turn: one target after the other, `mean_in_turn`; drawn noise is drawn for all at once, and they stay so.

    Returns:
        The weighted sum, and every term.
    """
    key_translate, key_reconstruct, key_volume = jax.random.split(key, 3)
    x, label_source = batch.x_source, batch.label_source
    latent = model.encode(params, x)  # [S, m, k]
    eps = model.abduct(params, x, latent, batch.size)
    # drawn noise tells two translations of one cell apart
    same = None if model.noise_dim else batch.same_source
    draws = None if batch.size is None else draws_of(key, batch.size, x.shape[-1])
    given = _Given(key_translate, label_source, batch.view, batch.size, draws, same, as_kernel(kernel))
    score = functools.partial(_score, model=model, form=form)
    of_all = functools.partial(mean_in_turn, score) if in_turn and eps is not None else score
    if terms is None:
        terms = [name for name in LossWeights._fields if getattr(weights, name)]
    values = {"translation": of_all((params, latent, eps), (batch.label_target, batch.x_target), given)}
    thunks = {
        "reconstruction": lambda: reconstruction_score(params, model, key_reconstruct, x, latent, kernel),
        "contrast": lambda: contrast(params, model, latent, label_source),
        "likelihood": lambda: likelihood(params, model, key_volume, x, latent, label_source),
    }
    values |= {name: thunk() if name in terms else jnp.zeros(()) for name, thunk in thunks.items()}
    total = values["translation"] + sum(getattr(weights, name) * values[name] for name in terms)
    return total, LossTerms(total=total, **values)


class _Given(NamedTuple):
    """What the score of translations needs beside the targets and what it is differentiated by."""

    key: Array  # of drawn noise
    label_source: Float[Array, "sources perturbations"]
    view: View | None
    size: Float[Array, "sources m"] | None
    draws: Float[Array, "sources m d"] | None  # of counts
    same: Float[Array, " sources"] | None
    kernel: Kernel


def _score(
    of_sources: tuple[dict, Array, Array | None],
    targets: tuple[Array, Array],
    given: _Given,
    *,
    model: Model,
    form: str,
) -> Float[Array, ""]:
    """Return the score of source cells, encoded and with their noise, translated to some targets."""
    (params, latent, eps), (label, y) = of_sources, targets
    label_from, label_to = given.label_source[:, None], label[:, None, None]
    predicted = model.translate_latent(params, given.key, latent, eps, label_from, label_to, given.size)  # [T, S, m, d]
    if given.view is not None and given.size is not None and given.draws is not None:
        predicted = given.view.measurable(predicted, given.size, given.draws)
    return translation_score(predicted, y, given.kernel, form, given.same)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mean_in_turn(function: Callable, by: Any, items: Any, given: Any) -> Float[Array, ""]:
    """Average ``function(by, item, given)`` over items, one at a time; differentiable in `by` alone.

    Value and gradient of an item are taken in one pass, while what was computed for it is still in the cache, and
    gradients are summed: nothing of an item is kept for a backward pass. On a CPU this takes a fifth off the time of a
    step of many features, and four fifths off its memory.

    Args:
        function: scalar, of an item with a leading axis of 1.
        by: pytree of arrays.
        items: pytree of arrays ``[items, ...]``.
        given: pytree of further values.
    """
    return _in_turn(function, by, items, given)[0]


def _in_turn(function: Callable, by: Any, items: Any, given: Any) -> tuple[Array, Any]:
    def add(total: Any, item: Any) -> tuple[Any, None]:
        item = jax.tree.map(lambda leaf: leaf[None], item)
        return jax.tree.map(jnp.add, total, jax.value_and_grad(function)(by, item, given)), None

    number = len(jax.tree.leaves(items)[0])
    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, by)
    return jax.tree.map(lambda total: total / number, jax.lax.scan(add, zero, items)[0])


mean_in_turn.defvjp(_in_turn, lambda _, gradient, change: (jax.tree.map(lambda g: change * g, gradient), None, None))


def translation_score(
    predicted: Float[Array, "targets sources m d"],
    y: Float[Array, "targets n d"],
    kernel: KernelLike,
    form: str,
    same: Float[Array, " sources"] | None = None,
) -> Float[Array, ""]:
    """Return the mean score over targets (``pooled``) or over source-target pairs (``pairwise``); `same` as in
    `Batch`.
    """
    num_targets, num_sources, m, d = predicted.shape
    same = jnp.full(num_sources, 1.0 / m) if same is None else same
    if form == "pooled":
        rows = predicted.reshape(num_targets, num_sources * m, d)
        return jnp.mean(batch_score(rows, y, kernel, jnp.mean(same) / num_sources))
    if form == "pairwise":
        # The target is shared by all sources: its cross term is one product over all their rows.
        cross = jnp.mean(dissimilarity_matrix(kernel, predicted.reshape(num_targets, num_sources * m, d), y))
        # of all pairs of rows: those of one cell are 0
        within = jnp.mean(dissimilarity_matrix(kernel, predicted), axis=(0, 2, 3))
        return cross - 0.5 * jnp.mean(within / (1.0 - same))
    raise ValueError(f"form={form!r} is not known; pass 'pairwise' or 'pooled'.")


def reconstruction_score(
    params: dict, model: Model, key: Array, x: Float[Array, "sources m d"], latent: Array, kernel: KernelLike
) -> Float[Array, ""]:
    """Return the distance of a cell from what is decoded of its latent; with drawn noise the energy score of two
    such decodes.
    """
    if not model.noise_dim:
        return jnp.mean(dissimilarity(kernel, model.decode(params, key, latent), x))
    first, second = model.decode(params, key, jnp.broadcast_to(latent, (2, *latent.shape)))
    to_first, to_second, between = dissimilarity(kernel, jnp.stack([first, second, first]), jnp.stack([x, x, second]))
    return 0.5 * jnp.mean(to_first + to_second - between)


def contrast(params: dict, model: Model, latent: Array, label_source: Array) -> Float[Array, ""]:
    r"""Return the cross-entropy of a cell's condition given its latent, when latents of condition `e` follow
    `N(\phi(a_e) W, I)`.

    .. math:: -\log \frac{\exp(-\tfrac12 |z - \phi(a_s) W|^2)}{\sum_e \exp(-\tfrac12 |z - \phi(a_e) W|^2)}

    The argument that identifies the latents (arXiv 2504.18522), as a loss: with a Gaussian base, log density ratios
    between conditions are linear in the true latents, :math:`z \cdot w_e - \tfrac12 |w_e|^2` with
    :math:`w_e = \phi(a_e) W`, and an invertible encoder for which they are linear is affine in the truth. Matching
    distributions alone is blind to slowly bent charts; this is not, and needs no decoding. Only valid where the base
    is near Gaussian.
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
    r"""Return the negative log likelihood of cells when latents of condition `e` follow `N(\phi(a_e) W, I)`: a loss
    with its gradient.

    By the change of variables along the surface that the decoder draws, the negative log density of a cell is

    .. math:: \tfrac12 |g(x) - \phi(a) W|^2 - \log |\det J_g(x) T| + \text{const}

    with a basis `T` of the tangents at `x`. Where `f` inverts `g` the gradient of the log determinant in `g` is that of
    :math:`\operatorname{tr} J_g(x) J_f(z)`, `J_f` held fixed, and of :math:`v^\top u,\ u = J_g J_f v`, on average over
    random signs `v` (Hutchinson's estimator of traces, Commun. Stat. Simul. 18, 1989; so used by Draxler et al.,
    AISTATS 2024; Sorrenson et al., ICLR 2024): two directional derivatives a cell.
    The value is :math:`\tfrac12 |g(x) - \phi(a) W|^2 + v^\top (v - u)`; the second part vanishes where `g` inverts `f`.

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
