"""Files of a run: they appear whole or not at all, and a damaged one is named."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, cast

import numpy as np

# of earlier versions without the letters
_OF_A_PARTIAL = re.compile(r"\.(.+?\.(?:csv|json|jsonl|md|npz|png|pdf|svg|h5ad))(?:\.[0-9a-f]{8})?\.partial")


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file that appears whole, in place of what was there, or not at all: neither a crash nor a full disk halves
    it.

    What it is written to is a new file, and a link in its place is replaced: whatever lies in a folder that somebody
    else has made, nothing outside it is written to.

    Raises:
        OSError: it could not be written; names the file, which is as it was.
    """
    with written_path(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def written_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield its path, for what writes files itself: a name that no file has."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_partial(folder: pathlib.Path) -> None:
    """Take away what a process that was killed has left in a folder, where nobody else writes now."""
    for path in folder.iterdir():
        if is_partial(path.name):
            path.unlink(missing_ok=True)


def is_partial(name: str, of: Sequence[str] = ()) -> bool:
    """Tell whether it is a name of `written_path`, for one of these files or for any."""
    found = _OF_A_PARTIAL.fullmatch(name)
    return found is not None and (not of or found[1] in of)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    with written(path) as file:
        file.write(text.encode())


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` whole or not at all."""
    with written(path) as file:
        np.savez(file, **cast(Any, arrays))


def append_line(path: pathlib.Path, line: str) -> None:
    """Add a line to a file; an ``OSError`` names the file."""
    try:
        # a link is not followed
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(path, flags, 0o666), "a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: pathlib.Path, error: OSError) -> OSError:
    """Return the error for a file that cannot be written."""
    if error.errno == errno.ELOOP:
        return type(error)(error.errno, f"{path} is a link, which is not followed. Put a file in its place")
    return type(error)(
        error.errno,
        f"{path} could not be written: {error.strerror or error}. Make room, or see to the rights of its folder; the "
        f"same command then goes on from what is there",
    )


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz``; ``ValueError`` that names the file where it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return dict(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise damaged(path, error) from error


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of arrays and their names."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def read_json(path: pathlib.Path) -> Any:
    """Read a JSON file; ``ValueError`` that names the file where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def damaged(path: pathlib.Path, error: Exception) -> ValueError:
    """Return the error for a file that cannot be read."""
    return ValueError(
        f"{path} is damaged ({type(error).__name__}: {error}). Put a copy in its place, or repeat the run with another "
        f"workdir."
    )
