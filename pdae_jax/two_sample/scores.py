"""Scores of a predicted law against observations (Gneiting & Raftery, JASA 2007).

They are smallest, in expectation, for the right law.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pdae_jax.compiled import as_written
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import Kernel, KernelLike, as_kernel, dissimilarity_matrix, in_own_unit, in_unit
from pdae_jax.two_sample.pair_sum import pair_sum, self_pair_sum
from pdae_jax.two_sample.samples import SampleLike, as_sample, as_samples
from pdae_jax.two_sample.statistics import centred, checked_samples, normalised, typical_dissimilarity, u_excess
from pdae_jax.two_sample.units import unit_of
from pdae_jax.types import AnyArray


@as_written()
def energy_score(samples: SampleLike, y: SampleLike, *, beta: float = 1.0) -> Float[Array, ""]:
    r"""Compute the energy score of a predicted sample against observations, mean over the observations (U form).

    .. math:: E\|X - y\|^\beta - \tfrac12 E\|X - X'\|^\beta

    Strictly proper: in expectation smallest when the samples follow the law of `y` (Gneiting & Raftery 2007). Memory as
    in `two_sample_statistic`: never a whole matrix of distances.

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows, or beta is outside (0, 2).
    """
    samples, y = checked_samples(samples, y, ("samples", "y"))
    samples, y = centred(samples, y)
    return _score(samples, y, kernels.energy(beta))


@jax.jit
def _score(samples: Array, y: Array, kernel: Kernel) -> Float[Array, ""]:
    kernel, factor, (samples, y) = in_own_unit(kernel, samples, y)
    w_samples, w_y = normalised(None, samples), normalised(None, y)
    offset = typical_dissimilarity(samples, y, w_samples, w_y, kernel)
    cross = pair_sum(samples, y, w_samples, w_y, kernel, offset=offset)
    within = self_pair_sum(samples, w_samples, kernel, offset=offset)
    v_form = cross + within.times(-0.5)
    u_form = v_form.high + v_form.low + 0.5 * offset - 0.5 * (within.high + offset) * u_excess(w_samples)
    return factor * u_form


@as_written()
def kernel_score(
    samples: SampleLike,
    y: SampleLike,
    kernel: KernelLike,
    *,
    same: Array | None = None,
) -> Float[Array, "*batch"]:
    """Compute `energy_score` for any kernel, over leading batch axes; whole distance matrices, for training batches.

    Args:
        samples: ``[*batch, m, d]``.
        y: ``[*batch, n, d]``.
        kernel: of `pdae_jax.kernels`, or a function from squared distances to `h`.
        same: the chance that two rows of `samples` are of one cell, which is at distance zero from itself: 1 / m, the
            default, where all are distinct.

    Raises:
        ValueError: fewer than two samples, or the feature counts differ.
    """
    samples, y = as_samples(samples, y, ("samples", "y"))
    if min(samples.ndim, y.ndim) < 2 or samples.shape[-2] < 2 or samples.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"samples has shape {tuple(samples.shape)} and y {tuple(y.shape)}. Pass [*batch, m >= 2, features] and "
            f"[*batch, n, features]."
        )
    samples, y = jnp.asarray(samples), jnp.asarray(y)
    centre = jnp.mean(samples, axis=-2, keepdims=True)
    kernel, length, factor = in_unit(as_kernel(kernel), unit_of(samples - centre, y - centre))
    chance = 1.0 / samples.shape[-2] if same is None else same
    return factor * batch_score(samples / length, y / length, kernel, chance)


def batch_score(
    samples: Float[Array, "*batch m d"], y: Float[Array, "... n d"], kernel: KernelLike, same: float | Array
) -> Float[Array, "*batch"]:
    """Compute `kernel_score` in the model's units, as every step of training computes it: nothing is checked or
    rescaled.
    """
    cross = jnp.mean(dissimilarity_matrix(kernel, samples, y), axis=(-2, -1))
    within = jnp.mean(dissimilarity_matrix(kernel, samples), axis=(-2, -1))
    return cross - 0.5 * within / (1.0 - same)


@as_written()
def grouped_score(
    decoded: SampleLike, x: SampleLike, group: Int[AnyArray, " cells"] | Sequence[int], kernel: KernelLike
) -> Float[Array, ""]:
    r"""Score every cell of a batch as its own target, computed once per distinct label.

    The ungrouped loss scores cell `i` against the translations of all other cells `j != i` to `i`'s label:
    `B x B` decodes and `B x B x B` distances for a batch of `B`. Cells with one label share those decodes. With
    :math:`D_e` the dissimilarities among cells decoded to label `e` and :math:`r_e[j] = \sum_k D_e[j,k]`, the
    diversity term of all cells `i` of `e` is :math:`n_e \sum_j r_e[j] - 2 \sum_{i \in e} r_e[i]`.

    Args:
        decoded: all cells of the batch translated to each distinct label, ``[labels, cells, d]``.
        x: the cells themselves, ``[cells, d]``.
        group: index into the distinct labels, per cell.
        kernel: a function of `pdae_jax.kernels`.
    """
    decoded, x = (jnp.asarray(as_sample(sample, name)) for sample, name in ((decoded, "decoded"), (x, "x")))
    kernel, length, factor = in_unit(as_kernel(kernel), unit_of(decoded - jnp.mean(x, axis=0), x - jnp.mean(x, axis=0)))
    decoded, x = decoded / length, x / length
    num_labels, num_cells, _ = decoded.shape
    others = num_cells - 1
    member = jax.nn.one_hot(jnp.asarray(group), num_labels, dtype=decoded.dtype).T  # [labels, cells]
    targets = jnp.broadcast_to(x, (num_labels, *x.shape))
    cross = dissimilarity_matrix(kernel, decoded, targets)  # [labels, source, target]
    own = jnp.diagonal(cross, axis1=-2, axis2=-1)  # a cell does not predict itself
    attraction = jnp.sum(member * (jnp.sum(cross, axis=-2) - own)) / others
    row_sums = jnp.sum(dissimilarity_matrix(kernel, decoded), axis=-1)
    diversity = jnp.sum(jnp.sum(member, axis=1) * jnp.sum(row_sums, axis=1)) - 2.0 * jnp.sum(member * row_sums)
    return factor * (attraction - 0.5 * diversity / (others * (others - 1))) / num_cells
