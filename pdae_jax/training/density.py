"""Whether cells have a density along a surface of few dimensions: what a likelihood of them needs."""

import numpy as np
from jaxtyping import Float

# Times the number of latents. In simulated worlds cells without noise are within 1.1 times, counts and cells with noise
# of half a unit on 20 features at 3 times and more.
MAX_DIMENSION = 1.5


def has_density(x: Float[np.ndarray, "cells features"], latent_dim: int) -> bool:
    """Tell whether the likelihood of cells under a chart with `latent_dim` latents is well defined.

    It does not where values repeat (`has_atoms`): a chart may be as steep as it likes there. Nor where cells spread in
    many more directions than there are latents (`intrinsic_dimension`): across the surface nothing bounds it.

    Args:
        x: different cells, about as many of each condition, features on a common scale.
        latent_dim: k.
    """
    return not has_atoms(x) and intrinsic_dimension(x) <= MAX_DIMENSION * latent_dim


def has_atoms(x: Float[np.ndarray, "cells features"]) -> bool:
    """Tell whether more than 1 % of the cells (at least three) share one value of a feature, as zeros of counts do.

    Features that are the same in all cells do not matter.
    """
    ordered = np.sort(x, axis=0)
    many = max(2, len(x) // 100)
    repeated = np.any(ordered[many:] == ordered[:-many], axis=0)
    return bool(np.any(repeated & (ordered[0] < ordered[-1])))


def intrinsic_dimension(x: Float[np.ndarray, "cells features"]) -> float:
    """Estimate in how many directions cells spread at the distance of their neighbours; memory grows with cells
    squared.

    The distance to the second neighbour over that to the first has a Pareto law whose exponent is the dimension
    (Facco et al., Scientific Reports 2017); its maximum likelihood estimate. Cells that coincide are counted once;
    fewer than three different cells have dimension 0.
    """
    x = np.unique(np.asarray(x, np.float64), axis=0)
    if len(x) < 3:
        return 0.0
    x = x - x.mean(axis=0)
    size = np.sum(x**2, axis=1)
    squared = size[:, None] + size - 2.0 * x @ x.T
    np.fill_diagonal(squared, np.inf)
    first, second = np.maximum(np.partition(squared, 1, axis=1)[:, :2], np.finfo(float).tiny).T
    rate = float(np.mean(0.5 * np.log(second / first)))
    return 1.0 / rate if rate > 0.0 else np.inf  # all neighbours at one distance, as on a grid
