"""Names in error messages: the nearest to a misspelt one, the first of many."""

import difflib
from collections.abc import Sequence


def nearest_names(name: str, known: Sequence[str]) -> str:
    """For error messages: the known names nearest to a misspelt one, else the first known ones."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"nearest are {', '.join(map(repr, close))}" if close else f"known are {first_names(known)}"


def first_names(names: Sequence[object], count: int = 8) -> str:
    """For error messages: the first names of a list that may be long, quoted."""
    shown = ", ".join(map(repr, names[:count]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > count else shown
