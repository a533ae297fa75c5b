"""Files of a run: they appear whole or not at all, and a damaged one is named."""

import contextlib
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, cast

import numpy as np


@contextlib.contextmanager
def written(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file that appears whole, in place of what was there, or not at all: neither a crash nor a full disk halves it.

    Raises:
        OSError: it could not be written; names the file, which is as it was.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise unwritten(path, error) from error


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
        with path.open("a") as file:
            file.write(line + "\n")
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: pathlib.Path, error: OSError) -> OSError:
    """What to say of a file that cannot be written."""
    return type(error)(
        error.errno,
        f"{path} could not be written: {error.strerror or error}. Make room, or see to the rights of its folder; the "
        f"same command then goes on from what is there",
    )


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``; ``ValueError`` that names the file where it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return dict(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise damaged(path, error) from error


def read_json(path: pathlib.Path) -> Any:
    """A JSON file; ``ValueError`` that names the file where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def damaged(path: pathlib.Path, error: Exception) -> ValueError:
    """What to say of a file that cannot be read."""
    return ValueError(
        f"{path} is damaged ({type(error).__name__}: {error}). Put a copy in its place, or repeat the run with another "
        f"workdir."
    )
