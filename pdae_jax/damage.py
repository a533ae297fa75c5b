"""Files that cannot be read are named, whatever their reader says of them."""

import contextlib
import os
import re
from collections.abc import Iterator

_OF_HDF5 = re.compile(r"^\W*(Unable to|Can't) \w")  # how its messages begin
# these say themselves what is wrong
_CLEAR = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, MemoryError)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Call the reader of a file here, and nothing else: all that it raises is put down to the file.

    Raises:
        ValueError: it is damaged, cut short, or of another kind than its name says.
    """
    try:
        yield
    except _CLEAR:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


@contextlib.contextmanager
def reading_rows(path: str | os.PathLike[str]) -> Iterator[None]:
    """Work with an open file here: what HDF5 raises where it finds no good data is put down to the file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # of the system, a full disk say
            raise
        raise unreadable(path, error) from error
    except (KeyError, RuntimeError) as error:
        if not _OF_HDF5.search(str(error)):
            raise
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], error: Exception) -> ValueError:
    """Return the error for such a file."""
    said = " ".join(str(error).split())[:200]
    return ValueError(
        f"{os.fspath(path)} cannot be read ({type(error).__name__}: {said}). It is damaged, cut short, or no file of "
        f"the kind that its name says. Copy it again from where it came, or write it again with the program that made "
        f"it; a text file must be UTF-8."
    )
