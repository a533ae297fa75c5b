r"""Energy distances, MMDs and permutation tests of many samples against one, from one matrix of distances a pair.

As `statistics` and `permutation` give them, to rounding: what is the same for all samples is computed once, of each
only its own distances and those to the target. All of it is NumPy, so that no size of a sample is compiled. What is
differentiable, or of tens of thousands of cells, is for `statistics`.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.cells import evenly_spaced
from pdae_jax.randomness import make_random
from pdae_jax.two_sample.host_distances import ROWS, HostCells, centre_of, matrix_across, matrix_within, triangle
from pdae_jax.two_sample.matrix_sums import (
    Block,
    Means,
    centred,
    means_across,
    means_within,
    members_of,
    mixture,
    p_values_of,
    quadratic_forms,
    sum_of,
    sums_of_halves,
    tie_of,
    unbiased,
)
from pdae_jax.two_sample.relabelling import draw_members
from pdae_jax.two_sample.statistics import check_samples

MEDIAN_CELLS = 1000
PERMUTATIONS = 999


class Relabelled(NamedTuple):
    """Relabellings of two samples of some sizes, and the part of their statistics that the second decides alone."""

    rows_x: Int[np.ndarray, " n"] | slice  # that are used of the samples
    rows_y: Int[np.ndarray, " m"] | slice
    in_x: Float[np.ndarray, "labels n"]  # 1: in the first sample after relabelling; as observed in the first row
    in_y: Float[np.ndarray, "labels m"]
    within_y: Float[np.ndarray, "m m"]  # centred distances
    forms_y: Float[np.ndarray, " labels"]  # their sums over the first sample after relabelling


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A sample that others are compared with.

    Args:
        cells: the sample, ``[m, d]``, at least two rows.
        key: typed PRNG key of subsamples and relabellings: those of `two_sample_test`, hence its p-values.
        bandwidth: `s` of the MMD; default `median`.
        max_cells: of each sample in a permutation test.
    """

    cells: Float[np.ndarray, "m d"]
    key: Array
    bandwidth: float | None = None
    max_cells: int = 500
    _relabelled: dict[tuple[int, int], Relabelled] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def centre(self) -> Float[np.ndarray, " d"]:
        """Find what is subtracted from all samples."""
        return centre_of(self.cells)

    @functools.cached_property
    def prepared(self) -> HostCells:
        """Prepare the cells for distances."""
        return HostCells.of(self.cells, self.centre)

    @functools.cached_property
    def blocks(self) -> Sequence[Block] | None:
        """Keep the distances within the sample, if it is not larger than one block."""
        return list(triangle(self.prepared)) if len(self.cells) <= ROWS else None

    @functools.cached_property
    def median(self) -> float:
        """Find the median distance between distinct cells, over at most `MEDIAN_CELLS` evenly spaced rows.

        The mean distance where the median is zero (most cells identical, as in sparse counts).
        """
        rows = evenly_spaced(len(self.cells), MEDIAN_CELLS)
        matrix = self.within(slice(None) if len(rows) == len(self.cells) else rows)
        distances = matrix[np.triu_indices(len(matrix), 1)]
        return float(np.median(distances) or np.mean(distances, dtype=np.float64))

    @functools.cached_property
    def scale(self) -> float:
        """Choose `s`."""
        return self.median if self.bandwidth is None else self.bandwidth

    @functools.cached_property
    def means(self) -> Means:
        """Average over pairs within the sample."""
        return means_within(self.blocks or triangle(self.prepared), len(self.cells), self.scale)

    def within(self, rows: Int[np.ndarray, " rows"] | slice = slice(None)) -> Float[np.ndarray, "rows rows"]:
        """Take the distances between some cells."""
        if self.blocks is None:
            return matrix_within(self.prepared.take(rows))
        matrix = self.blocks[0][1]
        return matrix[rows, rows] if isinstance(rows, slice) else matrix[np.ix_(rows, rows)]

    def relabelled(self, n: int) -> Relabelled:
        """Draw relabellings for a sample of `n` cells, the same for all of this size."""
        m = len(self.cells)
        if (n, m) not in self._relabelled:
            random = make_random(self.key)
            rows_x, rows_y = (_some(random, number, self.max_cells) for number in (n, m))
            within = centred(self.within(rows_y), self.means.distance)
            n_used, m_used = min(n, self.max_cells), len(within)
            member = draw_members(random, n_used, m_used, PERMUTATIONS, n_used + m_used)
            in_x, in_y = member[:, :n_used], member[:, n_used:]
            self._relabelled[n, m] = Relabelled(rows_x, rows_y, in_x, in_y, within, quadratic_forms(in_y, within))
        return self._relabelled[n, m]


@dataclasses.dataclass(frozen=True, eq=False)
class Against:
    """A sample beside the `Target`; a value that is NaN or infinite leaves no number but NaN.

    Raises:
        ValueError: the feature counts differ or a sample has fewer than two rows.
    """

    x: Float[np.ndarray, "n d"]
    target: Target

    def __post_init__(self) -> None:
        check_samples(self.x, self.target.cells)

    @functools.cached_property
    def are_numbers(self) -> bool:
        """Tell that no value is NaN or infinite."""
        return bool(np.isfinite(self.x).all() and np.isfinite(self.target.cells).all())

    @functools.cached_property
    def prepared(self) -> HostCells:
        """Prepare the cells for distances."""
        return HostCells.of(self.x, self.target.centre)

    @functools.cached_property
    def blocks(self) -> Sequence[Block] | None:
        """Keep the distances within the sample, if it is not larger than one block."""
        return list(triangle(self.prepared)) if len(self.x) <= ROWS else None

    @functools.cached_property
    def across(self) -> Float[np.ndarray, "n m"] | None:
        """Keep the distances to the target, if the sample is not larger than one block."""
        return matrix_across(self.prepared, self.target.prepared) if len(self.x) <= ROWS else None

    @functools.cached_property
    def means(self) -> tuple[Means, Means]:
        """Average over pairs within the sample, and over pairs with the target."""
        scale = self.target.scale
        own = means_within(self.blocks or triangle(self.prepared), len(self.x), scale)
        return own, means_across(self._rows_across(), len(self.x) * len(self.target.cells), scale)

    def _rows_across(self) -> Iterator[Float[np.ndarray, "rows m"]]:
        for start in range(0, len(self.x), ROWS):
            part = self.prepared.take(slice(start, start + ROWS))
            yield matrix_across(part, self.target.prepared) if self.across is None else self.across

    @property
    def energy_distance(self) -> float:
        r"""Compute :math:`2 E\|X-Y\| - E\|X-X'\| - E\|Y-Y'\|`, U form."""
        if not self.are_numbers:
            return math.nan
        own, across = self.means
        return 2 * across.distance - own.distance - self.target.means.distance

    @property
    def mmd(self) -> float:
        r"""Compute the squared MMD, :math:`E k(X,X') + E k(Y,Y') - 2 E k(X,Y)`, U form."""
        if not self.are_numbers:
            return math.nan
        own, across = self.means
        return own.kernel + self.target.means.kernel - 2 * across.kernel

    @functools.cached_property
    def p_value(self) -> float:
        """Test that the laws are equal by relabelling cells, with the energy distance; see `permutation`."""
        if not self.are_numbers:
            return math.nan
        labels = self.target.relabelled(len(self.x))
        within_x, across = self._matrices(labels)
        offset = self.target.means.distance
        within_x, across = centred(within_x, offset), across - np.float32(offset)
        forms = quadratic_forms(labels.in_x, within_x) + labels.forms_y
        forms += 2.0 * np.einsum("ij,ij->i", labels.in_x @ across, labels.in_y)
        touching = labels.in_x @ (within_x.sum(1) + across.sum(1)) + labels.in_y @ (
            across.sum(0) + labels.within_y.sum(1)
        )
        matrices, sizes = (within_x, across, across, labels.within_y), across.shape
        total, absolute = sum(map(sum_of, matrices)), sum(sum_of(np.abs(matrix)) for matrix in matrices)
        statistics = unbiased(forms, touching, total, *sizes)
        return float(p_values_of(statistics[:1], statistics[1:], tie_of(absolute, sum(sizes)))[0])

    def _matrices(self, labels: Relabelled) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n m"]]:
        """The distances that a permutation test uses: those at hand where it uses all cells of the sample."""
        if isinstance(labels.rows_x, slice) and self.blocks is not None and self.across is not None:
            return self.blocks[0][1], self.across[:, labels.rows_y]
        x = self.prepared.take(labels.rows_x)
        return matrix_within(x), matrix_across(x, self.target.prepared.take(labels.rows_y))


class Halving(NamedTuple):
    """One half of the target beside the other."""

    halvings: "Halvings"
    number: int

    @property
    def energy_distance(self) -> float:
        """Take that of this halving."""
        return float(self.halvings.statistics[0][self.number])

    @property
    def mmd(self) -> float:
        """Take that of this halving."""
        return float(self.halvings.statistics[1][self.number])

    @property
    def p_value(self) -> float:
        """Take that of this halving."""
        return float(self.halvings.p_values[self.number])


@dataclasses.dataclass(frozen=True, eq=False)
class Halvings:
    """One half of the target beside the other, for several random halvings.

    Args:
        target: the sample, finite, at least four cells.
        orders: permutations of its cells: the first half of each, and as many from there on.
        key: typed PRNG key of relabellings, independent of the orders.
    """

    target: Target
    orders: Int[np.ndarray, "halvings m"]
    key: Array

    def __getitem__(self, number: int) -> Halving:
        return Halving(self, number)

    @functools.cached_property
    def statistics(self) -> tuple[Float[np.ndarray, " halvings"], Float[np.ndarray, " halvings"]]:
        """Compute energy distance and squared MMD of each halving, U form, from one matrix."""
        target, half = self.target, self.orders.shape[1] // 2
        first, second = (
            members_of(self.orders[:, part], self.orders.shape[1]) for part in (slice(half), slice(half, 2 * half))
        )
        found = np.zeros((2, len(self.orders)))
        for rows, block in target.blocks or triangle(target.prepared):
            kernel = mixture(block, target.scale) if target.scale > 0 else np.full_like(block, math.nan)
            for sums, matrix, offset in zip(found, (block, kernel), target.means, strict=True):
                sums += sums_of_halves(centred(matrix, offset), first, second, rows, half)
        return found[0], -found[1]

    @functools.cached_property
    def p_values(self) -> Float[np.ndarray, " halvings"]:
        """Test each halving, of the first cells where there are more than a test takes, against the same relabellings.

        The pool of all halvings is one, and so are the statistics of its relabelled cells.
        """
        cells = 2 * min(self.orders.shape[1] // 2, self.target.max_cells)
        within = centred(self.target.within(slice(cells)), self.target.means.distance)
        observed = members_of(np.stack([order[order < cells][: cells // 2] for order in self.orders]), cells)
        drawn = draw_members(make_random(self.key), cells // 2, cells // 2, PERMUTATIONS, cells)[1:]
        member, row_sums = np.concatenate([observed, drawn]), within.sum(1)
        statistics = unbiased(
            quadratic_forms(member, within), member @ row_sums, sum_of(within), cells // 2, cells // 2
        )
        number = len(self.orders)
        return p_values_of(statistics[:number], statistics[number:], tie_of(sum_of(np.abs(within)), cells))


def _some(random: np.random.Generator, number: int, most: int) -> Int[np.ndarray, " most"] | slice:
    return slice(None) if number <= most else random.permutation(number)[:most]
