"""Two-sample statistics and scores: the public names of `two_sample.statistics` and `two_sample.scores`."""

from pdae_jax.two_sample.scores import energy_score, grouped_score, kernel_score
from pdae_jax.two_sample.statistics import energy_distance, mmd2, two_sample_matrix, two_sample_statistic

__all__ = [
    "energy_distance",
    "energy_score",
    "grouped_score",
    "kernel_score",
    "mmd2",
    "two_sample_matrix",
    "two_sample_statistic",
]
