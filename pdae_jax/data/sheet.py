"""Sample sheets: a table with one file a row, its condition, and what else is known of it."""

import csv
import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from pdae_jax.data.table_files import FILE, TABLES, ending_of
from pdae_jax.spelling import first_names, is_pattern, matching_names, nearest_names

#: Columns that a sheet may have beside the file, the condition and those that settings name.
DOSE, ORIGINS = "dose", ("batch", "replicate")


class Sheet(NamedTuple):
    """Files, and what is known of each."""

    files: list[Path]
    columns: Any  # data frame of text, one row a file: all columns of the sheet but the file


def read_sheet(
    path: str | Path,
    *,
    conditions: Sequence[str],
    doses: Sequence[str] = (),
    stratum: str | None = None,
    controls: Sequence[str] = (),
    folder: Path | None = None,
) -> Sheet:
    """Read the files of a sheet, .csv or .tsv, which are all there.

    Args:
        path: of the sheet. It has a column `FILE`, with paths from the folder of the sheet.
        conditions: columns with names, which each line must have where the sheet has the column. The same is true of
            `stratum`, ``batch`` and ``replicate``.
        doses: one column, or one for each of `conditions`. Only controls may lack a dose.
        stratum: column with the cell type, line or donor.
        controls: names of controls, or patterns.
        folder: that paths are from, where it is not the folder of the sheet.

    Raises:
        FileNotFoundError: there is no such sheet, or a file of it is not there; names the line.
        KeyError: there is no column `FILE`.
        ValueError: a line without a file or with one that another has, a value that is missing, no lines.
    """
    import pandas as pd

    sheet = Path(path).expanduser()
    if not sheet.is_file():
        raise FileNotFoundError(f"No sheet {str(path)!r}. Pass the path of a .csv or .tsv file that is there.")
    header, lines = _lines(sheet)
    if FILE not in header:
        raise KeyError(f"No column {FILE!r} in the sheet {sheet.name!r}; {nearest_names(FILE, header)}. Rename one.")
    where = sheet.parent if folder is None else folder
    files = _files(sheet, lines, where)
    frame = pd.DataFrame([values for _, values in lines], columns=pd.Index(header), dtype=object).drop(columns=FILE)
    _check_filled(
        sheet,
        lines,
        [name for name in (*conditions, *([stratum] if stratum else []), *ORIGINS) if name in frame],
    )
    dosed = zip(doses, conditions, strict=True) if len(doses) == len(conditions) else ((d, *conditions) for d in doses)
    for dose, *names in dosed:
        others = [each for each in lines if not _is_control([each[1].get(name, "") for name in names], controls)]
        _check_filled(sheet, others, [dose] if dose in frame else [], "; only controls have none")
    _say_what_is_left(
        sheet, [name for name in frame if name not in (*conditions, stratum, DOSE, *ORIGINS, *doses)], files
    )
    return Sheet(files, frame)


def _check_filled(
    sheet: Path, lines: Sequence[tuple[int, dict[str, str]]], names: Sequence[str], more: str = ""
) -> None:
    """Raises ``ValueError`` for a line that has no value in one of the columns."""
    for line, values in lines:
        missing = [name for name in names if not values[name]]
        if missing:
            raise ValueError(f"Line {line} of {sheet.name!r} has no {missing[0]!r}. Fill it in{more}.")


def _lines(sheet: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header, and the number and the values of each line that is not empty."""
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",\t;", key=first.count))  # a semicolon where numbers have commas
        header = [name.strip() for name in next(reader, [])]
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice or "" in header:
            raise ValueError(
                f"The header of {sheet.name!r} has {(twice or [''])[0]!r} twice or without a name. Mend it."
            )
        lines = []
        for values in reader:
            if not any(map(str.strip, values)):
                continue
            if len(values) != len(header):
                raise ValueError(
                    f"Line {reader.line_num} of {sheet.name!r} has {len(values)} values, but there are {len(header)} "
                    f"columns. Put names with the separator into quotes."
                )
            lines.append((reader.line_num, dict(zip(header, map(str.strip, values), strict=True))))
    if not lines:
        raise ValueError(f"The sheet {sheet.name!r} has no lines. Write one for each file.")
    return header, lines


def _files(sheet: Path, lines: Sequence[tuple[int, dict[str, str]]], folder: Path) -> list[Path]:
    """The file of each line."""
    files, found = [], {}
    for line, values in lines:
        name = values[FILE]
        if not name:
            raise ValueError(f"Line {line} of {sheet.name!r} has no file. Fill it in, or take the line out.")
        file = folder / Path(name).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"Line {line} of {sheet.name!r}: no file {name!r}{_where_it_may_be(file, sheet)}")
        if ending_of(file) not in TABLES:
            raise ValueError(f"Line {line} of {sheet.name!r}: {name!r} ends in none of {', '.join(TABLES)}.")
        if file.resolve() in found:
            raise ValueError(
                f"Lines {found[file.resolve()]} and {line} of {sheet.name!r} have the same file, {name!r}. Each file "
                f"has one line."
            )
        found[file.resolve()] = line
        files.append(file)
    return files


def _where_it_may_be(file: Path, sheet: Path) -> str:
    """A folder below with a file of this name, or names of the same folder that are near."""
    folder = next((other.parent for other in file.parent.glob(f"*/{glob.escape(file.name)}")), None)
    if folder is not None:
        return (
            f", but there is one in {str(folder)!r}. Pass that folder as config.data.path, or write it into the sheet."
        )
    there = sorted(
        other.name
        for other in file.parent.glob("*")
        if ending_of(other) in TABLES and other.resolve() != sheet.resolve()
    )
    nearest = nearest_names(file.name, there) if there else f"{str(file.parent)!r} has no such files"
    return f"; {nearest}. Correct the path."


def _is_control(names: Sequence[str], controls: Sequence[str]) -> bool:
    """Tell whether all names of a line are those of controls."""
    return all(any(matching_names(c, [name]) if is_pattern(c) else c == name for c in controls) for name in names)


def _say_what_is_left(sheet: Path, unknown: Sequence[str], files: Sequence[Path]) -> None:
    """Says which columns no setting names, and which files beside those of the sheet are not read."""
    if unknown:
        logging.warning("Columns of %s that no setting uses: %s", sheet.name, first_names(unknown))
    kinds, read = {ending_of(file) for file in files}, {file.resolve() for file in (*files, sheet)}
    others = [
        other.name
        for folder in dict.fromkeys(file.parent for file in files)
        for other in sorted(folder.iterdir())
        if ending_of(other) in kinds and other.resolve() not in read and not other.name.startswith(".")
    ]
    if others:
        logging.warning("Not read, since %s does not name them: %s", sheet.name, first_names(others))
