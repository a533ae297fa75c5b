"""Files of a run: they appear whole or not at all, and a damaged one is named."""

import json
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all: a crash never leaves half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    temporary.replace(path)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        np.savez(file, **cast(Any, arrays))
    temporary.replace(path)


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
