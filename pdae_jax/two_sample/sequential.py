r"""Permutation p-values small enough to pass a correction for many tests, where they are.

Among `M` tests a p-value must be as small as :math:`q / M` to be found at false discovery rate `q` by itself, and `B`
permutations give none below :math:`1 / (B + 1)`. So tests whose statistic no permutation reached go on with more, as
many as could make the smallest adjusted p-value `RESOLVED`, until one does (sequential Monte Carlo, Besag & Clifford,
Biometrika 1991). The p-value is :math:`(1 + g) / (1 + B)` with all `B` permutations of the test and the `g` that
reached its statistic. It has level `p` or less, whatever the other tests made of `B`: for it to be at most `p`, `g`
must have been at most :math:`p (1 + B) - 1` when `B` first allowed that, which is the event of the plain test.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

# Smallest adjusted p-value (Benjamini-Hochberg) that tests can have. All together they take about M / RESOLVED
# permutations more in a round, however many go on: a tenth of what M tests of 999 took.
RESOLVED = 0.01


def resolve(
    p_values: Float[np.ndarray, " tests"],
    num_permutations: int,
    reached: Callable[[int, int, Array], int],
    *,
    key: Array,
) -> Float[np.ndarray, " tests"]:
    """Return the p-values after more permutations of the tests whose statistic none has reached.

    Args:
        p_values: of `num_permutations` permutations each.
        num_permutations: B.
        reached: (test, number, key) -> how many of `number` new permutations reach the statistic of the test.
        key: typed PRNG key of the new permutations.
    """
    p_values, drawn, rounds = p_values.copy(), num_permutations, 0
    unreached = np.flatnonzero(p_values * (1 + drawn) < 1.5)
    while len(unreached):
        # the fewer are left, the smaller each p-value must be
        total = int(np.ceil(len(p_values) / (RESOLVED * len(unreached)))) - 1
        if total <= drawn:
            break
        keys = jax.random.split(jax.random.fold_in(key, rounds), len(unreached))
        counts = np.array([reached(int(i), total - drawn, k) for i, k in zip(unreached, keys, strict=True)])
        p_values[unreached] = (1 + counts) / (1 + total)
        unreached, drawn, rounds = unreached[counts == 0], total, rounds + 1
    return p_values
