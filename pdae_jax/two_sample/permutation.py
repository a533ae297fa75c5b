r"""Permutation tests of two samples: is a predicted sample distinguishable from the true one?

The statistic is the energy distance or an MMD, in the U form; `relabelling` evaluates it for all relabellings of the
cells at once. `two_sample_tests` takes many conditions at a time and corrects for their number.
Where their number asks for p-values below one over that of the permutations, more are drawn (`sequential`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.compiled import as_written
from pdae_jax.randomness import check_key, make_random
from pdae_jax.two_sample import kernels
from pdae_jax.two_sample.kernels import Kernel, KernelLike
from pdae_jax.two_sample.relabelling import (
    centred_samples,
    checked_pair,
    draw_members,
    padded_rows,
    padded_size,
    unbiased_statistics,
)
from pdae_jax.two_sample.samples import SampleLike
from pdae_jax.two_sample.sequential import resolve
from pdae_jax.types import AnyArray

# Elements of the labels, and of the dissimilarities, of the conditions that run at once: 16 MB each in float32.
CHUNK_ELEMENTS = 2**22
MORE = 1000  # further permutations drawn at once


class TwoSampleTest(NamedTuple):
    """Outcome of `two_sample_test`."""

    statistic: float  # U form
    p_value: float  # in [1 / (1 + permutations), 1]
    null: Float[np.ndarray, " permutations"]  # statistics of relabelled cells
    n: int  # cells of x used
    m: int  # cells of y used


class TwoSampleTests(NamedTuple):
    """Outcome of `two_sample_tests`, one entry per condition."""

    conditions: tuple[str, ...]
    statistic: Float[np.ndarray, " conditions"]  # U form
    p_value: Float[np.ndarray, " conditions"]  # of each condition by itself
    p_adjusted: Float[np.ndarray, " conditions"]  # those at most q are the discoveries at false discovery rate q
    n: Int[np.ndarray, " conditions"]  # cells of x used
    m: Int[np.ndarray, " conditions"]  # cells of y used


@as_written()
def two_sample_test(
    x: SampleLike,
    y: SampleLike,
    *,
    key: Array,
    num_permutations: int = 999,
    kernel: KernelLike | None = None,
    max_cells: int | None = None,
    pad_to: int | None = None,
) -> TwoSampleTest:
    r"""Run the permutation test of equal laws, with the energy distance or an MMD as statistic (U form).

    .. math:: p = (1 + \#\{T_b \ge T\}) / (1 + B)

    has level exactly `p` or less under exchangeable cells, at any sample size (Phipson & Smyth 2010). Time and memory
    grow with the square of the number of cells.

    Args:
        x: sample, ``[n, d]``.
        y: sample, ``[m, d]``.
        key: typed PRNG key of the permutations and the subsamples.
        num_permutations: B.
        kernel: of `pdae_jax.kernels`, or a function from squared distances to `k(0) - k`; default ``energy(1.0)``.
        max_cells: larger samples are subsampled to this many cells, each by itself.
        pad_to: rows that the pooled sample is padded to: all sizes up to it share one compilation. By default the
            next power of two; the outcome is the same.

    Raises:
        ValueError: the feature counts differ, a sample has fewer than two rows or a value that is not finite,
            `num_permutations` or `max_cells` is too small, or more than `pad_to` cells are pooled.
    """
    check_key(key)
    x, y = checked_pair(x, y, max_cells, pad_to)
    _check_permutations(num_permutations)
    size = padded_size(_used(x, max_cells) + _used(y, max_cells), pad_to)
    test = _prepare(x, y, key, num_permutations, max_cells, size)
    statistics, tie = _statistics(kernels.as_kernel(kernel or kernels.energy()), test)
    statistics = np.asarray(statistics, dtype=np.float64)
    return TwoSampleTest(
        float(statistics[0]), float(_p_value(statistics, float(tie))), statistics[1:], int(test.n), int(test.m)
    )


@as_written()
def two_sample_tests(
    pairs: Mapping[str, tuple[SampleLike, SampleLike]],
    *,
    key: Array,
    num_permutations: int = 999,
    kernel: KernelLike | None = None,
    max_cells: int | None = None,
) -> TwoSampleTests:
    """Run `two_sample_test` of every condition, as one compiled program, with p-values adjusted for their number.

    Condition `i` has the statistic of ``two_sample_test(x, y, key=jax.random.fold_in(key, i))`` with the same other
    arguments, and its p-value too where a permutation reached the statistic. The other conditions get more
    permutations, until one does or the smallest adjusted p-value is `sequential.RESOLVED`: else a few strong effects
    among many conditions would never be found. All are padded to the size of the largest and run in chunks, so that
    memory does not grow with their number.

    Args:
        pairs: the two samples of each condition, by name; all with the same features.
        key: typed PRNG key.
        num_permutations: of each test, see `two_sample_test`; more where the correction needs them.
        kernel: see `two_sample_test`.
        max_cells: see `two_sample_test`; bounds the size that all conditions are padded to.

    Raises:
        ValueError: as in `two_sample_test`, naming the condition; no condition at all; or other features in one.
    """
    check_key(key)
    samples = _checked_pairs(pairs, max_cells)
    _check_permutations(num_permutations)
    kernel = kernels.as_kernel(kernel or kernels.energy())
    n, m = (np.array([_used(pair[side], max_cells) for pair in samples]) for side in (0, 1))
    size = padded_size(int(np.max(n + m)), None)
    tests = (
        _prepare(x, y, jax.random.fold_in(key, i), num_permutations, max_cells, size)
        for i, (x, y) in enumerate(samples)
    )
    chunk = min(len(samples), max(1, CHUNK_ELEMENTS // (size * max(size, 1 + num_permutations))))
    running, outcomes = None, []
    for batch in _batches(tests, chunk):
        # the device works on one chunk while the host draws the labels of the next
        started = _statistics_of_many(kernel, batch)
        outcomes += _outcomes(running)
        running = started
    outcomes += _outcomes(running)
    statistic, p_value = np.array(outcomes[: len(samples)]).T

    def reached(i: int, number: int, key_more: Array) -> int:
        x, y, unit = centred_samples(make_random(jax.random.fold_in(key, i)), *samples[i], max_cells)
        return _reached(kernels.in_unit(kernel, jnp.float32(unit)).kernel, x, y, key_more, number, size)

    # not a key of any condition's own
    p_value = resolve(p_value, num_permutations, reached, key=jax.random.fold_in(key, len(samples)))
    return TwoSampleTests(tuple(pairs), statistic, p_value, benjamini_hochberg(p_value), n, m)


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"] | Sequence[float]) -> Float[np.ndarray, " tests"]:
    r"""Adjust p-values; those at most `q` are the discoveries at false discovery rate `q`.

    .. math:: \tilde p_{(i)} = \min_{j \ge i} \min(1, p_{(j)} M / j)

    for the sorted p-values (Benjamini & Hochberg, JRSS B 1995).

    Raises:
        ValueError: a p-value outside [0, 1] or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    bad = ~((p >= 0) & (p <= 1))
    if p.ndim != 1 or bad.any():
        found = f"values {p[bad][:5].tolist()}" if p.ndim == 1 else f"shape {p.shape}"
        raise ValueError(f"p_values has {found}. Pass one p-value in [0, 1] per test, without NaN.")
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


class _Prepared(NamedTuple):
    """One test, padded; stacked along a leading axis for many."""

    rows: AnyArray  # [size, d], x then y then padding
    member: AnyArray  # [1 + permutations, size]
    n: AnyArray | np.float32
    m: AnyArray | np.float32
    unit: AnyArray | np.float32  # of `rows`, in the user's units


def _prepare(
    x: AnyArray, y: AnyArray, key: Array, num_permutations: int, max_cells: int | None, size: int
) -> _Prepared:
    random = make_random(key)
    x, y, unit = centred_samples(random, x, y, max_cells)
    member = draw_members(random, len(x), len(y), num_permutations, size)
    rows = padded_rows(np.concatenate([x, y]), size)
    return _Prepared(rows, member, np.float32(len(x)), np.float32(len(y)), np.float32(unit))


def _batches(tests: Iterator[_Prepared], chunk: int) -> Iterator[_Prepared]:
    """Tests stacked, `chunk` at a time; the last is filled up with copies, so that all have one shape."""
    while some := list(itertools.islice(tests, chunk)):
        some += [some[-1]] * (chunk - len(some))
        yield _Prepared(*map(np.stack, zip(*some, strict=True)))


def _outcomes(running: tuple[Array, Array] | None) -> list[tuple[float, float]]:
    """Statistic and p-value of each test of a chunk."""
    if running is None:
        return []
    statistics, ties = (np.asarray(array, dtype=np.float64) for array in running)
    return [(row[0], _p_value(row, tie)) for row, tie in zip(statistics, ties, strict=True)]


def _reached(kernel: Kernel, x: np.ndarray, y: np.ndarray, key: Array, number: int, size: int) -> int:
    """How many of `number` permutations of a test reach its statistic."""
    random, count = make_random(key), 0
    dissimilarity = _dissimilarity(kernel, padded_rows(np.concatenate([x, y]), size))
    for start in range(0, number, MORE):
        member = draw_members(random, len(x), len(y), MORE, size)
        found = _relabelled(dissimilarity, member, np.float32(len(x)), np.float32(len(y)))
        statistics, tie = (np.asarray(array, dtype=np.float64) for array in found)
        # the last draws may be more than were asked for
        count += int(np.sum(statistics[1 : 1 + number - start] >= statistics[0] - tie))
    return count


def _p_value(statistics: np.ndarray, tie: float) -> float:
    # relabellings that are the observed one must count as ties, whatever their rounding
    return np.sum(statistics >= statistics[0] - tie) / len(statistics)


def _dissimilarities(kernel: Kernel, rows: AnyArray) -> Float[Array, "size size"]:
    rows = jnp.asarray(rows)
    return kernels.dissimilarity_matrix(kernel, rows, rows)


def _relabelling(
    dissimilarity: Array, member: AnyArray, n: AnyArray | np.float32, m: AnyArray | np.float32
) -> tuple[Float[Array, " labels"], Float[Array, ""]]:
    return unbiased_statistics(dissimilarity, jnp.asarray(member), jnp.asarray(n), jnp.asarray(m))


def _one(kernel: Kernel, test: _Prepared) -> tuple[Float[Array, " labels"], Float[Array, ""]]:
    kernel, _, factor = kernels.in_unit(kernel, jnp.asarray(test.unit))
    statistics, tie = _relabelling(_dissimilarities(kernel, test.rows), test.member, test.n, test.m)
    return factor * statistics, factor * tie


_dissimilarity, _relabelled = jax.jit(_dissimilarities), jax.jit(_relabelling)
_statistics = jax.jit(_one)
_statistics_of_many = jax.jit(jax.vmap(_one, in_axes=(None, 0)))


def _used(sample: AnyArray, max_cells: int | None) -> int:
    return len(sample) if max_cells is None else min(len(sample), max_cells)


def _check_permutations(num_permutations: int) -> None:
    if num_permutations < 1:
        raise ValueError(f"num_permutations={num_permutations}, but it must be at least 1; 999 gives p >= 0.001.")


def _checked_pairs(
    pairs: Mapping[str, tuple[SampleLike, SampleLike]], max_cells: int | None
) -> list[tuple[AnyArray, AnyArray]]:
    """The two samples of every condition, all with the same features."""
    if not pairs:
        raise ValueError("pairs is empty. Pass the two samples of at least one condition.")
    found: list[tuple[AnyArray, AnyArray]] = []
    for name, (x, y) in pairs.items():
        try:
            found.append(checked_pair(x, y, max_cells, None))
        except (TypeError, ValueError) as error:
            raise type(error)(f"Condition {name!r}: {error}") from None
        width, expected = found[-1][0].shape[1], found[0][0].shape[1]
        if width != expected:
            raise ValueError(
                f"Condition {name!r} has {width} features but {next(iter(pairs))!r} has {expected}. "
                f"Pass the same features in all conditions."
            )
    return found
