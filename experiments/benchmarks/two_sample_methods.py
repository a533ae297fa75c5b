"""The energy distances that two_sample.py compares: how each library is called.

A method gets both samples as float32 NumPy arrays, puts them where it computes (a GPU if its library finds one) and
returns one call per mode. Every call returns the value as a float, and only when all of its work is done. A library is
imported when its method is made, so that none of them has to be installed.

The V form is the mean over all pairs, the U form the mean over pairs of distinct rows: both cost the same.
"""

from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

Call = Callable[[], float]


class Calls(NamedTuple):
    """One method on one pair of samples."""

    forward: Call
    gradient: Call | None = None  # value and gradient with respect to x
    device_peak_mb: Call | None = None  # on an accelerator: the most memory in use so far


class Method(NamedTuple):
    """How to make the calls, and what is known before the first of them."""

    make: Callable[[np.ndarray, np.ndarray], Calls]
    packages: tuple[str, ...]  # distributions that have to be installed
    form: str  # V or U
    has_gradient: bool
    bytes_per_pair: int  # a guess at the memory of one pair of rows, 0 for methods that work in tiles
    bytes_per_difference: int = 0  # and of one feature of a pair, where differences are formed


def missing_packages(method: Method) -> list[str]:
    """The packages of a method that are not installed."""

    def missing(package: str) -> bool:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            return True
        return False

    return [package for package in method.packages if missing(package)]


# --- ours ----------------------------------------------------------------------------------------------------------


def make_ours_called(x: np.ndarray, y: np.ndarray) -> Calls:
    """As users call it, outside of `jit`: checks count too."""
    import jax

    from pdae_jax import losses

    x_device, y_device = jax.device_put((x, y))
    gradient = jax.value_and_grad(losses.energy_distance)
    return Calls(
        lambda: float(losses.energy_distance(x_device, y_device)),
        lambda: float(jax.block_until_ready(gradient(x_device, y_device))[0]),
    )


def make_ours(x: np.ndarray, y: np.ndarray) -> Calls:
    import jax

    from pdae_jax import losses

    x_device, y_device = jax.device_put((x, y))
    forward = jax.jit(losses.energy_distance)
    gradient = jax.jit(jax.value_and_grad(losses.energy_distance))
    device = jax.devices()[0]

    def peak_mb() -> float:
        return (device.memory_stats() or {})["peak_bytes_in_use"] / 1e6

    return Calls(
        lambda: float(forward(x_device, y_device)),
        lambda: float(jax.block_until_ready(gradient(x_device, y_device))[0]),
        None if device.platform == "cpu" else peak_mb,
    )


# --- PyTorch: all threads, or its GPU ------------------------------------------------------------------------------


def torch_calls(loss_fn: Callable[[Any, Any], Any], x: np.ndarray, y: np.ndarray) -> Calls:
    """Both modes of a loss of two tensors."""
    import torch  # pyright: ignore[reportMissingImports]

    cuda = torch.cuda.is_available()
    x_leaf, y_tensor = (torch.from_numpy(sample).to("cuda" if cuda else "cpu") for sample in (x, y))
    x_leaf.requires_grad_()

    def forward() -> float:
        with torch.no_grad():
            return loss_fn(x_leaf, y_tensor).item()  # waits for the device

    def gradient() -> float:
        value = loss_fn(x_leaf, y_tensor)
        torch.autograd.grad(value, x_leaf)
        if cuda:
            torch.cuda.synchronize()
        return value.item()

    return Calls(forward, gradient, (lambda: torch.cuda.max_memory_allocated() / 1e6) if cuda else None)


def make_torch_cdist(x: np.ndarray, y: np.ndarray) -> Calls:
    import torch  # pyright: ignore[reportMissingImports]

    return torch_calls(lambda x, y: energy_of(lambda a, b: torch.cdist(a, b).mean(), x, y), x, y)


def make_torch_gram(x: np.ndarray, y: np.ndarray) -> Calls:
    import torch  # pyright: ignore[reportMissingImports]

    def mean_distance(a, b):
        sq = torch.addmm((b**2).sum(1), a, b.T, alpha=-2).add_((a**2).sum(1)[:, None])
        if a is b:
            sq.fill_diagonal_(0)
        return sq.clamp_min(1e-12).sqrt().mean()  # sqrt'(0) is inf

    return torch_calls(lambda x, y: energy_of(mean_distance, x, y), x, y)


def make_torch_tiled(x: np.ndarray, y: np.ndarray) -> Calls:
    """`torch.cdist` on tiles of 1,000 rows, recomputed for the gradient: ten lines that anybody would write."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportMissingImports]

    def tile_sum(a, b):
        return torch.cdist(a, b).sum()

    def mean_distance(a, b):
        total = 0.0
        for rows in a.split(1000):
            for columns in b.split(1000):
                total = total + checkpoint(tile_sum, rows, columns, use_reentrant=False)
        return total / (len(a) * len(b))

    return torch_calls(lambda x, y: energy_of(mean_distance, x, y), x, y)


def make_jnp_gram(x: np.ndarray, y: np.ndarray) -> Calls:
    """The Gram form in ten lines of jitted JAX: whole matrices of distances."""
    import jax
    import jax.numpy as jnp

    def mean_distance(a, b):
        product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
        sq = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1) - 2 * product
        sq = sq * (1 - jnp.eye(len(a))) if a is b else sq
        return jnp.mean(jnp.sqrt(jnp.maximum(sq, 1e-12)))  # sqrt'(0) is inf

    def loss_fn(x, y):
        return energy_of(mean_distance, x, y)

    x_device, y_device = jax.device_put((x, y))
    forward, gradient = jax.jit(loss_fn), jax.jit(jax.value_and_grad(loss_fn))
    return Calls(
        lambda: float(forward(x_device, y_device)),
        lambda: float(jax.block_until_ready(gradient(x_device, y_device))[0]),
    )


def make_geomloss(backend: str) -> Callable[[np.ndarray, np.ndarray], Calls]:
    def make(x: np.ndarray, y: np.ndarray) -> Calls:
        from geomloss import SamplesLoss  # pyright: ignore[reportMissingImports]

        loss_fn = SamplesLoss("energy", backend=backend)
        return torch_calls(lambda x, y: 2 * loss_fn(x, y), x, y)  # theirs is half the energy distance

    return make


# --- NumPy in, number out: no gradient -----------------------------------------------------------------------------


def energy_of(mean_distance: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """V form from the mean distance of two samples."""
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def make_pertpy(x: np.ndarray, y: np.ndarray) -> Calls:
    """`Distance("edistance")`: Euclidean, not squared; whole scikit-learn matrices in 1.0, loops in Numba in 1.4."""
    from pertpy.tools import Distance  # pyright: ignore[reportMissingImports]

    distance = Distance("edistance")
    return Calls(lambda: float(distance(x, y)))


def make_sklearn(x: np.ndarray, y: np.ndarray) -> Calls:
    from sklearn.metrics import pairwise_distances  # pyright: ignore[reportMissingImports]

    def mean_distance(a, b):
        return pairwise_distances(a, b, metric="euclidean").mean()

    return Calls(lambda: float(energy_of(mean_distance, x, y)))


def make_sklearn_chunked(x: np.ndarray, y: np.ndarray) -> Calls:
    from sklearn.metrics import pairwise_distances_chunked  # pyright: ignore[reportMissingImports]

    def mean_distance(a, b):
        tiles = pairwise_distances_chunked(a, b, metric="euclidean", working_memory=64)
        return sum(tile.sum(dtype=np.float64) for tile in tiles) / (len(a) * len(b))

    return Calls(lambda: float(energy_of(mean_distance, x, y)))


def make_dcor(x: np.ndarray, y: np.ndarray) -> Calls:
    """Release 0.7 takes no NumPy array for one, misses its own SciPy path, and forms differences ``[n, m, d]``."""
    import dcor  # pyright: ignore[reportMissingImports]

    return Calls(lambda: float(dcor.energy_distance(x, y)))


def make_scipy(x: np.ndarray, y: np.ndarray) -> Calls:
    from scipy.spatial.distance import cdist

    return Calls(lambda: float(energy_of(lambda a, b: cdist(a, b).mean(), x, y)))


METHODS = {
    "ours": Method(make_ours, ("jax",), "U", True, 0),
    "ours_called": Method(make_ours_called, ("jax",), "U", True, 0),
    "torch_cdist": Method(make_torch_cdist, ("torch",), "V", True, 12),
    "torch_gram": Method(make_torch_gram, ("torch",), "V", True, 12),
    "torch_tiled": Method(make_torch_tiled, ("torch",), "V", True, 0),
    "jnp_gram": Method(make_jnp_gram, ("jax",), "V", True, 12),
    "geomloss_tensorized": Method(make_geomloss("tensorized"), ("geomloss", "torch"), "V", True, 12),
    "geomloss_online": Method(make_geomloss("online"), ("geomloss", "pykeops", "torch"), "V", True, 0),
    "pertpy": Method(make_pertpy, ("pertpy",), "V", False, 12),
    "sklearn": Method(make_sklearn, ("scikit-learn",), "V", False, 12),
    "sklearn_chunked": Method(make_sklearn_chunked, ("scikit-learn",), "V", False, 0),
    "dcor": Method(make_dcor, ("dcor",), "V", False, 12, 8),
    "scipy_cdist": Method(make_scipy, ("scipy",), "V", False, 8),
}


# --- the product to measure against --------------------------------------------------------------------------------


def product_call(package: str, a: np.ndarray, b: np.ndarray) -> tuple[Callable[[], Any], str]:
    """A call that is done when the product is, and the device that it runs on."""
    if package == "jax":
        import jax
        import jax.numpy as jnp

        a_jax, b_jax = jax.device_put((a, b))
        matmul = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
        return lambda: matmul(a_jax, b_jax).block_until_ready(), jax.devices()[0].device_kind
    if package == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        cuda = torch.cuda.is_available()
        a_torch, b_torch = (torch.from_numpy(matrix).to("cuda" if cuda else "cpu") for matrix in (a, b))

        def call() -> None:
            torch.mm(a_torch, b_torch)
            if cuda:
                torch.cuda.synchronize()

        return call, torch.cuda.get_device_name() if cuda else "cpu"
    return lambda: a @ b, "cpu"


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/benchmarks/two_sample.py, which uses it.")
