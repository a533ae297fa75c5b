"""Tables of users: one .csv, .tsv, .parquet or .fcs file, or several of one kind, in one data frame."""

import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from pdae_jax.damage import reading
from pdae_jax.data.fcs import FILE, read_events
from pdae_jax.spelling import first_names, nearest_names

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".fcs")
ENDINGS = (".h5ad", ".zarr", *TABLES)

_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # of a value in a table


def ending_of(file: Path) -> str:
    """Find which of `ENDINGS` a name has, in whatever case; ``""`` for none."""
    return next((ending for ending in sorted(ENDINGS, key=len)[::-1] if file.name.lower().endswith(ending)), "")


def find_file(path: str | Path | None) -> Path:
    """Find the file or folder of a path, which must be there and of a known kind."""
    if not path:
        raise ValueError(f"No file. Pass config.data.path=<a file that ends in one of {', '.join(ENDINGS)}>.")
    file = Path(path).expanduser()
    if not file.exists():
        there = sorted(other.name for other in file.parent.glob("*") if ending_of(other))
        nearest = nearest_names(file.name, there) if there else "that folder has no file of a known kind"
        raise FileNotFoundError(f"No file {str(path)!r}; {nearest}. Pass the path of a file that is there.")
    if file.is_file() and not ending_of(file):
        raise ValueError(f"{file.name!r} is of no known kind. Pass a file that ends in one of {', '.join(ENDINGS)}.")
    return file


def table_files(folder: Path) -> list[Path]:
    """List the tables in a folder, by name: those of one kind, or the .fcs files, beside which others are left out.

    Raises:
        ValueError: there are none, or of several kinds.
    """
    files = sorted(file for file in folder.iterdir() if ending_of(file) in TABLES and not file.name.startswith("."))
    kinds = sorted({ending_of(file) for file in files})
    if not files:
        raise ValueError(f"The folder {str(folder)!r} has no file that ends in one of {', '.join(TABLES)}. Pass one.")
    if len(kinds) > 1 and ".fcs" not in kinds:
        raise ValueError(
            f"The folder {str(folder)!r} has {' and '.join(kinds)} files. Pass one with files of one kind, or name "
            f"them in a sheet: config.data.sheet."
        )
    others = [file.name for file in files if len(kinds) > 1 and ending_of(file) != ".fcs"]
    if others:
        logging.warning("Only the .fcs files of %s are read, and not %s", folder, first_names(others))
    return [file for file in files if file.name not in others]


def read_tables(files: Sequence[Path], used: Sequence[str], added: Any = None, compensate: bool | None = None) -> Any:
    """Read one data frame of the rows of all files, one after the other.

    Args:
        files: with the same columns.
        used: columns with names and doses, which are read as text; `FILE` where a table has no such column, and of
            .fcs files a keyword, are the same in all rows of a file.
        added: a data frame with one row a file, whose columns are added to its rows.
        compensate: of .fcs files, whether the spillover that they name is taken off; None: it is left in, with a
            warning.

    Raises:
        KeyError: an .fcs file has no such channel or keyword.
        ImportError: the reader of this kind of file is not installed.
        ValueError: files with other columns, or with one that is added; see also `read_events`.
    """
    import pandas as pd

    more = pd.DataFrame(index=range(len(files))) if added is None else added
    own = [name for name in used if name not in more]
    frames, spilt = [], []
    for row, file in enumerate(files):
        try:
            frame = _read_table(file, own, bool(compensate))
        except KeyError as error:
            where = f" The sheet has {first_names([FILE, *more])}." if added is not None else ""
            raise KeyError(f"{error.args[0]}{where}") from error
        if frame.attrs.pop("spillover", False):
            spilt.append(file.name)
        for name in more:
            if name in frame:
                raise ValueError(f"{file.name!r} has a column {name!r}, and so has the sheet. Rename one of the two.")
            frame[name] = more[name].iloc[row]
        frames.append(frame)
        odd = sorted(set(map(str, frame.columns)) ^ set(map(str, frames[0].columns)))
        if odd:
            raise ValueError(
                f"{file.name!r} and {files[0].name!r} have not the same columns: {first_names(odd)} in one of them "
                f"only. Put files of one panel into a folder of their own."
            )
    if spilt and compensate is None:
        fix = "Pass compensate=True to take it off, or compensate=False if it is meant so."
        if len(spilt) < len(files):
            fix = (
                f"The other {len(files) - len(spilt)} files name none. Where these were compensated before, compensate "
                f"the others alike; where none is needed, pass compensate=False."
            )
        logging.warning("Files with spillover between channels, which is left in: %s. %s", first_names(spilt), fix)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _read_table(file: Path, used: Sequence[str], compensate: bool) -> Any:
    """A data frame of one file; the used columns are names and doses."""
    import pandas as pd

    ending = ending_of(file)
    if ending == ".fcs":
        _require("flowio", file)
        return read_events(file, used, compensate)
    if compensate:
        raise ValueError(f"compensate=True is for .fcs files, and {file.name!r} is none. Leave it out.")
    if ending == ".parquet":
        _require("pyarrow", file)
        with reading(file):
            table = pd.read_parquet(file)
    else:
        table = _read_text(file, "\t" if ending.startswith(".tsv") else ",", used)
    if FILE in used and FILE not in table:
        table[FILE] = file.name[: -len(ending)]
    return table


def _read_text(file: Path, separator: str, used: Sequence[str]) -> Any:
    import pandas as pd

    # a name such as "NA" or "1" is a name, and not a missing value or a number
    text: dict[Any, Any] = dict.fromkeys(used, str)
    with reading(file):
        header = pd.read_csv(file, sep=separator, nrows=1, header=None, dtype=str).iloc[0].dropna().tolist()
    _check_header(header, file)
    with reading(file):
        numeric = [name for name in pd.read_csv(file, sep=separator, nrows=0).columns if name not in text]
        return pd.read_csv(
            file, sep=separator, dtype=text, keep_default_na=False, na_values={name: list(_MISSING) for name in numeric}
        )


def _check_header(names: Sequence[str], file: Path) -> None:
    """``ValueError`` for a name that comes again, which pandas would change, and for other signs between columns."""
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{file.name!r} has {count} columns {name!r}. Rename or drop all but one.")
    other = next((sign for sign in (";", "\t", "|", ",") if len(names) == 1 and sign in names[0]), None)
    if other:
        raise ValueError(
            f"{file.name!r} has one column, {names[0]!r}: its columns are joined by {other!r}. Write it with commas "
            f"and decimal points, or with tabs as .tsv."
        )


def _require(package: str, file: Path) -> None:
    """``ImportError`` with the command that mends it, if an optional reader is not installed."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Reading {file.name!r} needs {package}, which is not installed. Run make .venv/files.stamp in the "
            f"repository, or pip install 'pdae_jax[files]' elsewhere."
        ) from error
