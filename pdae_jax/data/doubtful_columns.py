"""Columns of a table that may be no measurements, by their names or values, and what speaks against them."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging
from jaxtyping import Int, Shaped

from pdae_jax.cells import evenly_spaced
from pdae_jax.spelling import first_names

_UNNAMED = re.compile(r"(Unnamed: ?\d+(\.\d+)*|)", re.IGNORECASE)  # what pandas and R write above names of rows
_EVENT = re.compile(r"(event|cell)[ _.-]?length|event([ _.-]?(#|num(ber)?|count|id|no))?", re.IGNORECASE)
_TIME = re.compile(r"time|hdr-t", re.IGNORECASE)
_SCATTER = re.compile(r"(FSC|SSC)([-_. ].*)?|(FS|SS)[-_ ](A|H|W|lin|log|int|peak|tof)", re.IGNORECASE)
#: Of cytometry files: what tells single living cells, and no measurement of their state.
_INSTRUMENT = re.compile(
    r"^(center|offset|width|height|residual|time|hdr-t)$|bead|viab|live.?dead|^dead|cisplatin|zombie|7-?aad|dapi"
    r"|propidium|(^|\W|_)(\d{3}_?Ir|Ir_?\d{3})|dna[ _-]?\d*$|^\d*_?dna|(^|[^a-z])live([^a-z]|$)|^AF(-[AHW])?$"
    r"|(^|\W|_)(\d{3}_?Xe|Xe_?\d{3}|BC\d{2,3}|(BC)?KG_?\d{3}|barcode)",
    re.IGNORECASE,
)
#: Names that only tables of cytometry have: scatter, length of the event, isotopes.
_OF_CYTOMETRY = re.compile(
    r"(?i:(FSC|SSC)[-_.].*|event[ _.-]?length)|[A-Z][a-z]?\d{2,3}Di|(89Y|127I|1\d\d[A-Z][a-z]|209Bi)_.*"
)
#: Words in the name of a column that says where, when or how much, or that sums a cell up.
_DESIGN = re.compile(
    r"batch|plates?|replicates?|rep|wells?|lanes?|donors?|patient|subject|mouse|animal|sample|days?|hours?|time"
    r"|timepoint|doses?|dosage|conc|concentration|run|library|pool|gemgroup|gem|passage|site|field|fov|row|column|col"
    r"|position|id|index|barcode|cluster|leiden|louvain|nm|um|mm|age|sex|gender|moi"
)
#: Numbers of cells or objects; places of cells, measured or found from the other columns.
_IDENTIFIER = re.compile(r"(cell|object|nucleus|track|spot)?[ _.-]?(number|no|nr|label|#)", re.IGNORECASE)
_PLACE = re.compile(
    r"(x_)?(umap|t-?sne|phate|diffmap|pca|pc(?=[ _.-]))[ _.-]?\d+|[xyz]"
    r"|(.*[ _.-])?(centroid|cent(er|re)|location|position|pos|coord(inate)?s?)[ _.-]?[xyz]"
    r"|[xyz][ _.-]?(centroid|cent(er|re)|location|position|pos|coord(inate)?s?)",
    re.IGNORECASE,
)
_DOSE = re.compile(r"doses?|dosage|conc|concentrations?")
_SUMS = re.compile(
    r"n_?(counts?|genes?|umis?|features?)([ _].*)?|(total|umi|gene|feature|read)_?(counts?|umis?)?_?(count|counts)"
    r"|(total|umis?|ncount|nfeature)(_(counts?|umis?|rna|adt|sct|spatial))?|(pct|percent|frac).*(mt|mito|ribo|hb).*"
    r"|size_?factors?|doublet.*|scrublet.*|library_?size|(s|g2m)[._]?score",
    re.IGNORECASE,
)
_FEW = 20  # rows: of fewer, a column of rising numbers may be chance
_SOME = 200  # rows that are looked at first
_OFTEN = 5  # cells, at least, that have each value of a column of settings, and ten times as many as values


def are_of_cytometry(names: Iterable[str]) -> bool:
    """Tell whether a table with these columns is one of cytometry."""
    return any(map(_OF_CYTOMETRY.fullmatch, names))


def warn_of_names(names: Sequence[str]) -> None:
    """Say which features are no measurements by their names, where all columns of a matrix are taken for features."""
    cytometry = are_of_cytometry(names)
    patterns = (_EVENT, _SCATTER, _SUMS, *([_TIME] if cytometry else []))
    found = [
        name
        for name in names
        if any(pattern.fullmatch(name) for pattern in (_UNNAMED, *patterns)) or (cytometry and _INSTRUMENT.search(name))
    ]
    if found:
        logging.warning("Features that are no measurements by their names: %s. Leave them out.", first_names(found))


def is_named_design(name: str) -> bool:
    """Tell whether the name of a column has a word that says where, when or how much."""
    return any(map(_DESIGN.fullmatch, _words(name)))


def is_named_dose(name: str) -> bool:
    """Tell whether a column is one of doses by its name."""
    return any(map(_DOSE.fullmatch, _words(name)))


def no_measurement(name: str, x: Shaped[np.ndarray, " rows"] | None, cytometry: bool) -> str:
    """Say why a column is certainly none; empty where it may be one. `x` is None where it is not numeric."""
    if _UNNAMED.fullmatch(name.strip()):
        return "a column without a name, as tables have for the names of rows"
    if x is None:
        return ""
    if _EVENT.fullmatch(name):
        return "number or length of the event"
    if _SCATTER.fullmatch(name):
        return "scatter"
    if _TIME.fullmatch(name) and len(x) >= _FEW and _rises(x) and len(np.unique(x)) > len(x) / 4:
        return "time of the event"
    if cytometry and name.lower() == "time":
        return "time of the event"
    if cytometry and _INSTRUMENT.search(name):
        return "a channel that tells single living cells"
    if len(x) > 1 and np.ptp(x) == 0:
        return f"the same in all cells, {x[0]:g}"
    return _as_counter(x)


def _as_counter(x: Shaped[np.ndarray, " rows"]) -> str:
    """Say what a column counts, in constant steps or in another order; empty where it is no counter."""
    if len(x) < 5 or not np.all(np.isfinite(x)):
        return ""
    steps = np.diff(x)
    if np.ptp(steps) <= 1e-5 * np.abs(steps[0]):
        return f"a counter of rows, from {x[0]:g} in steps of {steps[0]:g}"
    usual = np.partition(steps, len(steps) // 2)[len(steps) // 2]  # the median, but for its halves
    if usual and len(x) >= _FEW and np.mean(np.abs(steps - usual) <= 1e-5 * np.abs(usual)) > 0.9:
        return f"a counter of rows, in steps of {usual:g} with gaps, or from the start again"
    low = x.min()
    last = len(x) - 1 + low
    if low in (0, 1) and x.max() == last and len(x) >= _FEW and np.array_equal(np.sort(x), np.arange(len(x)) + low):
        return f"a counter of rows, every number from {low:g} to {x.max():g} once"
    return ""


def doubtful_columns(
    columns: dict[str, Shaped[np.ndarray, " rows"]], conditions: Int[np.ndarray, " rows"]
) -> dict[str, str]:
    """Find columns that may be no measurements, with what speaks against them: their names, then their values."""
    found = {name: reason for name, x in columns.items() if (reason := _named_otherwise(name, x))}
    found |= _of_places([name for name in columns if name not in found])
    rest = {name: x for name, x in columns.items() if name not in found}
    whole = {name for name, x in rest.items() if np.all(x == np.round(x))}
    among_others = len(whole) < len(rest) / 2  # of counts all are whole, and few values are usual
    for name, x in rest.items():
        if _is_label(x, conditions):
            found[name] = f"the same in all cells of a condition, {len(np.unique(x))} values"
        elif name in whole and among_others and (number := len(np.unique(x))) <= max(3, min(len(x) // 4, 100)):
            found[name] = f"{number} values, all whole, where other columns have fractions"
        elif name in whole and len(x) >= _FEW and np.all(np.diff(x) > 0):
            found[name] = "whole numbers that rise from row to row"
    found |= _settings({name: x for name, x in rest.items() if name not in found}, whole)
    return {name: found[name] for name in columns if name in found}


def _named_otherwise(name: str, x: Shaped[np.ndarray, " rows"]) -> str:
    """Say what the name of a column says it is, where its values do not speak against that."""
    if _SUMS.fullmatch(name):
        return "its name says that it sums up or describes a cell"
    said = is_named_design(name)
    if not said and not _IDENTIFIER.fullmatch(name):
        return ""
    number, are_whole = len(np.unique(x)), np.all(x == np.round(x))
    if not said:
        return "its name, and whole numbers of which none comes twice" if are_whole and number == len(x) else ""
    plausible = number <= max(3, len(x) // 4) or are_whole or _rises(x) or _TIME.fullmatch(name)
    return f"its name, and {number} values" if plausible else ""


def _rises(x: Shaped[np.ndarray, " rows"]) -> bool:
    """Tell whether a column rises from row to row, perhaps from the start again in each of several files."""
    return len(x) >= _FEW and bool(np.mean(np.diff(x) >= 0) > 0.9)


def _of_places(names: Sequence[str]) -> dict[str, str]:
    """Columns that are named as places of cells, among more that are not; one letter says so beside another one."""
    found = [name for name in names if _PLACE.fullmatch(name)]
    found = [name for name in found if len(name) > 1 or sum(len(other) == 1 for other in found) > 1]
    return dict.fromkeys(found if len(found) < len(names) / 2 else [], "its name says that it is a place")


def _settings(columns: dict[str, Shaped[np.ndarray, " rows"]], whole: set[str]) -> dict[str, str]:
    """Columns of few values, each of them in many cells, as settings of an experiment are and measurements are not.

    Whole ones leave out most numbers, others have values that no other column has; of either there are few.
    """
    few = {name: values for name, x in columns.items() if len(values := _often(x))}
    others = [x[evenly_spaced(len(x), _SOME)] for name, x in columns.items() if name not in few and name not in whole]
    measured = np.concatenate(others[:100]) if others else np.empty(0)
    odd = [
        name
        for name, values in few.items()
        if (values.max() >= 4 * len(values) if name in whole else not np.isin(values, measured).any())
    ]
    odd = odd if len(odd) < len(columns) / 2 else []
    return {name: f"{len(few[name])} values but 0, each of them in many cells" for name in odd}


def _often(x: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " values"]:
    """The values of a column but 0, where all of them are there often; else none."""
    some = x[evenly_spaced(len(x), _SOME)]
    if len(np.unique(some[some != 0])) > max(len(some) // 4, 1):
        return x[:0]
    values, counts = np.unique(x[x != 0], return_counts=True)
    return values if len(values) and counts.min() >= _OFTEN and counts.sum() >= 10 * len(values) else x[:0]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _is_label(x: Shaped[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"]) -> bool:
    """Tell whether all rows of a condition have one value, which is not that of all conditions."""
    first = np.zeros(groups.max() + 1, x.dtype)
    first[groups] = x  # of one of its rows
    return bool(np.array_equal(x, first[groups]) and np.ptp(first[groups]) > 0 and np.count_nonzero(x) >= 5)
