"""Kernels of two-sample statistics: the public names of `two_sample.kernels`."""

from pdae_jax.two_sample.kernels import (
    Kernel,
    KernelLike,
    as_kernel,
    dissimilarity,
    dissimilarity_matrix,
    energy,
    gaussian,
    inverse_multiquadric,
    laplace,
    matern,
    mean_bandwidth,
    median_bandwidth,
)

__all__ = [
    "Kernel",
    "KernelLike",
    "as_kernel",
    "dissimilarity",
    "dissimilarity_matrix",
    "energy",
    "gaussian",
    "inverse_multiquadric",
    "laplace",
    "matern",
    "mean_bandwidth",
    "median_bandwidth",
]
