"""Where a number was computed."""

import importlib.metadata
import platform
import sys
from typing import Any

import jax

_PACKAGES = ("pdae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas", "anndata")


def environment() -> dict[str, Any]:
    """Record versions and device: what a number depends on besides its config."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.devices()[0]
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": f"{device.platform} {device.device_kind}",
        "num_devices": jax.device_count(),
        "packages": versions,
    }
