"""The folder of a run: what it was asked to do, where it ran, its data, and its checkpoints."""

import importlib.metadata
import json
import pathlib
import platform
import sys
from typing import Any

import jax

from pdae_jax.runs.checkpoint import Checkpoints
from pdae_jax.runs.files import read_json, write_text
from pdae_jax.runs.store import save_data
from pdae_jax.types import PerturbationData

CONFIG_FILE = "config.json"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoints"
TRAIN_FILE = "data/train.npz"
VALIDATION_FILE = "data/validation.npz"
TEST_FILE = "data/test.npz"
COMPONENTS_FILE = "data/components.npz"  # of fits on scores
TRUTH_FILE = "data/truth.npz"  # of simulated worlds

_PACKAGES = ("pdae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas", "anndata")


class RunFolder:
    """One run, one folder. Opening it again with the same identity goes on; with another it is refused."""

    def __init__(self, path: pathlib.Path, identity: dict[str, Any], config: dict[str, Any]):
        """Check or create the folder.

        Args:
            path: the folder; new, empty, or of the same run.
            identity: plain values that decide the result: recipe, key, fingerprints of the data.
            config: further provenance, not compared.

        Raises:
            ValueError: the folder holds another run, or files that are not a run's.
        """
        self.path = path
        file = path / CONFIG_FILE
        if file.exists():
            _check_identity(path, read_json(file)["identity"], identity)
            # the same run, perhaps evaluated otherwise: what it is asked now is what its scripts go by
            write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")
        elif path.exists() and any(path.iterdir()):
            found = sorted(p.name for p in path.iterdir())[:5]
            raise ValueError(
                f"The folder {str(path)!r} is not empty and holds no {CONFIG_FILE}: {found}. "
                f"Nothing was written; pass a new folder as workdir."
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / ENVIRONMENT_FILE, json.dumps(environment(), indent=2) + "\n")
            write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")
        self.checkpoints = Checkpoints(path / CHECKPOINT_FOLDER)

    def save_data(self, train: PerturbationData, validation: PerturbationData | None) -> None:
        """Keep the data beside the run, so that it can be evaluated from its folder alone."""
        for name, data in ((TRAIN_FILE, train), (VALIDATION_FILE, validation)):
            target = self.path / name
            if data is not None and not target.exists():
                target.parent.mkdir(exist_ok=True)
                save_data(target, data)


def environment() -> dict[str, Any]:
    """Versions and device: what a number depends on besides its config."""
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


def _check_identity(path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    before, now = _flat(json.loads(json.dumps(there))), _flat(json.loads(json.dumps(here)))
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    if changed:
        shown = "; ".join(f"{k} is {before.get(k)!r} there, {now.get(k)!r} here" for k in changed[:5])
        raise ValueError(
            f"The folder {str(path)!r} holds another run: {shown}. Nothing was changed; pass another workdir, "
            f"or the settings of that run to go on with it."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out = {}
    for name, value in tree.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out
