"""The folder of a run: what it was asked to do, where it ran, its data, and its checkpoints."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from absl import logging

from pdae_jax.recipe import as_written_now
from pdae_jax.runs.checkpoint import Checkpoints
from pdae_jax.runs.environment import environment
from pdae_jax.runs.files import damaged, is_partial, read_json, remove_partial, write_text
from pdae_jax.runs.store import fingerprint, holds, save_data
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
CHOICE_FOLDER = "choice"  # of fits that choose the last step, until the run begins
FORMAT = 2  # of a run folder; another number where a checkpoint has other parts

REPLICAS_FOLDER = "replicas"  # of an ensemble
DAMAGED_FOLDER = "damaged"  # checkpoints that cannot be read
_FOLDERS = (CHECKPOINT_FOLDER, "data", "figures", CHOICE_FOLDER, REPLICAS_FOLDER, DAMAGED_FOLDER)


class RunFolder:
    """One run, one folder. Opening it again with the same identity goes on; with another it is refused."""

    def __init__(
        self,
        path: pathlib.Path,
        identity: dict[str, Any],
        config: dict[str, Any],
        train: PerturbationData,
        validation: PerturbationData | None,
    ):
        """Check or create the folder, with the data, so that it can be evaluated from it alone.

        Args:
            path: the folder; new, empty, or of the same run.
            identity: plain values that decide the result beside the data: recipe, key.
            config: further provenance, not compared.
            train: training conditions.
            validation: validation conditions.

        Raises:
            ValueError: the folder holds another run, one of another version, or files that are not a run's.
            FolderInUse: another process works in the folder.
            OSError: the folder cannot be written to.
        """
        self.path = path
        check_free(path)
        _make(path)
        self._lock = Lock(path)
        data = {"train": train, "validation": validation}
        try:
            for each in (path, *(path / name for name in _FOLDERS if (path / name).is_dir())):
                remove_partial(each)
            self.hash = self._open(identity | {"data": {n: fingerprint(part) for n, part in data.items()}}, config)
            self._save_data(data)
            remove_choice(path)  # what it chose is in the config
        except BaseException:
            self._lock.release()
            raise

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """Those of the run; an ensemble has none of its own."""
        return Checkpoints(self.path / CHECKPOINT_FOLDER, run=self.hash)

    def _open(self, identity: dict[str, Any], config: dict[str, Any]) -> str:
        path = self.path
        record = {"format": FORMAT, "hash": config_hash(identity), "identity": identity, "config": config}
        if (path / CONFIG_FILE).exists():
            there = read_config(path)
            _check_identity(path, there["identity"], identity)
            # the same run, perhaps evaluated otherwise: what it is asked now is what its scripts go by
            record = {**there, "config": config}
        else:
            write_text(path / ENVIRONMENT_FILE, json.dumps(environment(), indent=2) + "\n")
        _write_config(path, record)
        return record["hash"]

    def close(self) -> None:
        """Free the folder for other processes, once all is written; a second time it does nothing."""
        try:
            if "checkpoints" in vars(self):
                self.checkpoints.close()
                del self.checkpoints
        finally:
            self._lock.release()

    def _save_data(self, parts: Mapping[str, PerturbationData | None]) -> None:
        for name, data in zip((TRAIN_FILE, VALIDATION_FILE), parts.values(), strict=True):
            target = self.path / name
            if data is not None and not target.exists():
                target.parent.mkdir(exist_ok=True)
                save_data(target, data)
            elif data is not None and not holds(target, data):
                raise ValueError(not_of_run(target))


def config_hash(identity: dict[str, Any]) -> str:
    """Return the SHA-256 of what decides a run: recipe, key, sources and the checksums of its data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Read ``config.json`` of a run; ``ValueError`` where another version of the package wrote it in another format."""
    record = read_json(path / CONFIG_FILE)
    if not isinstance(record, dict):
        raise damaged(path / CONFIG_FILE, TypeError(f"it holds a {type(record).__name__}"))
    if not record.keys() & {"format", "identity"}:
        raise ValueError(
            f"{path / CONFIG_FILE} was not written by pdae_jax, so this is no folder of a run. Pass another workdir. "
            f"Nothing was changed."
        )
    found = record.get("format", 0)
    if found != FORMAT:
        age = "a newer" if found > FORMAT else "an older"
        fix = "Install that version" if found > FORMAT else "Repeat the run with another workdir"
        raise ValueError(
            f"The run in {str(path)!r} was written by {age} version of pdae_jax (format {found}; this version has "
            f"{FORMAT}). {fix}; its {ENVIRONMENT_FILE} names the versions. Nothing was changed."
        )
    if not isinstance(record.get("identity"), dict):
        raise damaged(path / CONFIG_FILE, KeyError("identity"))
    made = config_hash(record["identity"])
    if record.get("hash", made) != made:
        raise ValueError(
            f"{path / CONFIG_FILE} was changed: its identity has the checksum {made[:12]}, and the run had "
            f"{record['hash'][:12]}. Put the file back as it was; for other settings pass another workdir."
        )
    return record


def _write_config(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    write_text(path / CONFIG_FILE, json.dumps(record, indent=2) + "\n")


def keep_part(path: pathlib.Path, file: str, found: str) -> None:
    """Record the checksum of a file that belongs to the run in a folder; `check_part` compares it."""
    if (path / CONFIG_FILE).exists():
        record = read_config(path)
        if record.get("parts", {}).get(file) != found:
            _write_config(path, {**record, "parts": {**record.get("parts", {}), file: found}})


def check_part(path: pathlib.Path, file: str, found: str) -> None:
    """Raise ``ValueError`` for a file with another checksum than the run's own; those of earlier versions have none."""
    parts = read_config(path).get("parts", {}) if (path / CONFIG_FILE).exists() else {}
    if parts.get(file, found) != found:
        raise ValueError(not_of_run(path / file))


def not_of_run(path: pathlib.Path) -> str:
    """Say in words that a part is another run's, and the fix."""
    return (
        f"{path} does not belong to the run in its folder: its checksum is another one than {CONFIG_FILE} has. Put the "
        f"run's own file back, or repeat the run with another workdir."
    )


def check_free(path: str | pathlib.Path) -> None:
    """Raise ``ValueError`` for a folder of something else, ``NotADirectoryError`` for a file."""
    path = pathlib.Path(path)
    if path.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"The workdir {str(path)!r} is a file. Pass the name of a folder.")
    for name in _FOLDERS:
        if (path / name).is_symlink():
            raise ValueError(
                f"{path / name} is a link to {os.readlink(path / name)}, and nothing is written through the links of a "
                f"run folder. Put the folder itself in its place, or pass another workdir."
            )
    if (path / CONFIG_FILE).exists() or not path.exists():
        return
    found = [p.name for p in sorted(path.iterdir()) if not _before_config(p)]
    if found:
        raise ValueError(
            f"The folder {str(path)!r} is not empty and holds no {CONFIG_FILE}: {found[:5]}. "
            f"Nothing was written; pass a new folder as workdir."
        )


def begin(path: str | pathlib.Path) -> None:
    """Make the folder of a run, so that people see it while a fit is prepared; what is there stays.

    Raises:
        ValueError, NotADirectoryError: as `check_free`.
        OSError: the folder cannot be written to.
    """
    path = pathlib.Path(path)
    check_free(path)
    _make(path)
    if not (path / CONFIG_FILE).exists() and not (path / ENVIRONMENT_FILE).exists():
        write_text(path / ENVIRONMENT_FILE, json.dumps(environment(), indent=2) + "\n")


def _before_config(path: pathlib.Path) -> bool:
    """Tell whether a process that was killed may have left this before there was a config."""
    if path.name == ENVIRONMENT_FILE:
        try:
            found = read_json(path)
        except ValueError:
            return False
        return isinstance(found, dict) and "pdae_jax" in found.get("packages", {})
    if path.name == CHOICE_FOLDER:
        return path.is_dir() and all(_is_choice(each) for each in path.iterdir())
    return is_partial(path.name, of=(CONFIG_FILE, ENVIRONMENT_FILE))


def _is_choice(path: pathlib.Path) -> bool:
    """Tell whether it is the folder of a fit that chooses, begun or to be begun."""
    begun = path.name.isdigit() and path.is_dir() and not path.is_symlink()
    return begun and ((path / CONFIG_FILE).exists() or all(_before_config(each) for each in path.iterdir()))


def remove_choice(path: pathlib.Path) -> None:
    """Remove the fits that chose for the run in a folder; whatever else lies there stays."""
    choice = path / CHOICE_FOLDER
    if not choice.is_dir() or choice.is_symlink():
        return
    for fold in choice.iterdir():
        if _is_choice(fold):
            _remove_run(fold)
    _remove_empty(choice)


def _remove_run(path: pathlib.Path) -> None:
    files = (CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, TRAIN_FILE, VALIDATION_FILE, COMPONENTS_FILE)
    for name in files:
        (path / name).unlink(missing_ok=True)
    for name in (CHECKPOINT_FOLDER, DAMAGED_FOLDER):
        for step in (path / name).glob("*"):
            if step.name.split(".")[0].isdigit():
                shutil.rmtree(step, ignore_errors=True)
        _remove_empty(path / name)
    _remove_empty(path / "data")
    _remove_empty(path)


def _remove_empty(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or holds something else
        path.rmdir()


class FolderInUse(RuntimeError):
    """Another process, or another fit of this one, works in a folder."""


class Lock:
    """A folder for this process alone; the system frees it when the process ends, however it does.

    The folder itself is locked, so that nothing is left in it.

    Raises:
        FolderInUse: another process, or another fit of this one, works there.
    """

    def __init__(self, path: pathlib.Path):
        self._descriptor: int | None = None
        try:
            import fcntl
        except ImportError:  # Windows
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FolderInUse(
                f"Another process works in the folder {str(path)!r}. Wait for it, or pass another workdir."
            ) from None
        except OSError as error:  # of some network file systems
            logging.warning("%s cannot be locked (%s): do not start two runs in one folder.", path, error.strerror)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others work in the folder; a second time it does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    def __del__(self):
        self.release()


def _make(path: pathlib.Path) -> None:
    """The folder, which can be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise type(error)(
            error.errno, f"The workdir {str(path)!r} cannot be written to: {error.strerror}. Pass another one."
        ) from error


def _check_identity(path: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    there = {**there, "recipe": as_written_now(there.get("recipe", {}))}
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
