"""Names as people read them: in error messages, in Markdown; what no name may hold, and what a pattern matches."""

import difflib
import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # turn what follows them around
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, half of a surrogate pair, line and paragraph separator

# What Markdown acts on within a line. An underscore within a word is a letter, and so is a colon before no slashes.
_ACTIVE = re.compile(r"[\\`*\[\]<>&|~$#@!]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)


def nearest_names(name: str, known: Sequence[str]) -> str:
    """Say which known names are nearest to a misspelt one, else the first known ones."""
    alike = [each for each in known if each.casefold() == name.casefold()]
    close = [*alike, *(each for each in difflib.get_close_matches(name, known, n=3) if each not in alike)][:3]
    return f"nearest are {', '.join(map(repr, close))}" if close else f"known are {first_names(known)}"


def first_names(names: Sequence[object], count: int = 8) -> str:
    """List the first names of a list that may be long, quoted."""
    shown = ", ".join(map(repr, names[:count]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > count else shown


def check_names(kind: str, names: Iterable[str]) -> None:
    """Refuse names that no table, page or figure could show as they are.

    Args:
        kind: what the names are of, for the message.
        names: of conditions, perturbations or features.

    Raises:
        ValueError: a name has a line break, another control character, half of a surrogate pair, or a character that
            turns the direction of text around.
    """
    for name in names:
        unseen = "" if name.isascii() and name.isprintable() else "".join(filter(_is_unseen, name))
        if unseen:
            raise ValueError(
                f"{kind} {name!r} has the character {unseen[0]!r}, which no table or figure can show. Rename it, as by "
                f"name.replace({unseen[0]!r}, ' '); if a file is read, see that it is read in its own encoding."
            )


def visible(name: object) -> str:
    r"""Show characters that cannot be seen by their escapes: a line break as ``\n``."""
    return "".join(repr(letter)[1:-1] if _is_unseen(letter) else letter for letter in str(name))


def as_markdown(name: object) -> str:
    """Escape a text so that Markdown shows it as it is, in a line or in a cell of a table."""
    return _ACTIVE.sub(r"\\\g<0>", visible(name))


def markdown_table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Write a table in Markdown that shows every cell as it is."""
    lines = [[as_markdown(cell) for cell in row] for row in (headings, *rows)]
    lines.insert(1, ["---"] * len(headings))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_block(text: str, language: str = "") -> str:
    """Write text of several lines so that Markdown shows it as it is: in a fence longer than any within."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{text}\n{fence}"


def markdown_code(text: object) -> str:
    """Write a text as code within a line."""
    shown = visible(text)
    fence = _fence(shown, 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`"


def _fence(text: str, least: int) -> str:
    """Write more backticks than stand together in the text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _is_unseen(letter: str) -> bool:
    return letter in _DIRECTIONS or unicodedata.category(letter) in _UNSEEN


def is_pattern(name: str) -> bool:
    """Tell whether a text stands for several names, as ``"NegCtrl*"`` does; ``?`` is one letter, brackets are
    themselves.
    """
    return "*" in name or "?" in name


def matching_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Find the names that a pattern matches, in their order."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))]


def unquoted(name: str, is_known: Callable[[str], bool]) -> str:
    """Say how several names are written, where one that is unknown is several joined by commas."""
    pieces = [piece.strip(" ()[]'\"") for piece in name.split(",")]
    if len(pieces) < 2 or not all(map(is_known, pieces)):
        return ""
    return f'names without quotes are one name, write "{tuple(pieces)!r}"'
