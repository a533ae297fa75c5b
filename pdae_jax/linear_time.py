"""Statistics in less than quadratic time: the public names of `two_sample.estimates`."""

from pdae_jax.two_sample.estimates import Estimate, incomplete_statistic, sliced_energy_distance

__all__ = ["Estimate", "incomplete_statistic", "sliced_energy_distance"]
