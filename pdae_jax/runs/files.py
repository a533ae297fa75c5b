"""Files that appear whole or not at all."""

import pathlib


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all: a crash never leaves half of it."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    temporary.replace(path)
