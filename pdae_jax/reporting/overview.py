"""What was read and would be held out, in words, before anything is trained: `pdae_jax.describe`, ``--dry_run``."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pdae_jax.data.moments import moments
from pdae_jax.design.design import design_of
from pdae_jax.labels import without_strata
from pdae_jax.spelling import visible
from pdae_jax.types import PerturbationData, Reading

WIDTH = 100  # columns
SHOWN = 30  # rows of a table
_ENDS = 8  # names at each end of a long list
_DOSES = 6  # that are listed
_DECADES = 2  # of doses, over which no effect is linear
_BATCHES = 100  # values that a column of batches may have

Parts = Mapping[str, PerturbationData]


def describe(
    train: PerturbationData,
    validation: PerturbationData | None = None,
    test: PerturbationData | None = None,
    *,
    warnings: Sequence[str] = (),
) -> str:
    """Describe data and their split: values, features, controls, doses, strata, conditions, and what each part tests.

    Args:
        train: training conditions; what is said of reading is theirs (`PerturbationData.reading`).
        validation: conditions that choose the step.
        test: held-out conditions.
        warnings: what was logged while reading.

    Returns:
        Lines of at most 100 columns, as ``pdae-jax run --dry_run`` prints them.
    """
    every = {"train": train, "validation": validation, "test": test}
    parts = {name: part for name, part in every.items() if part is not None}
    sections = [
        [*_cells(parts), *_values(parts), *_features(train)],
        _perturbations(parts),
        odd_doses(parts),
        _strata(parts),
        _others(train),
        _section("Warnings while reading", warnings),
        _conditions(parts),
        _held_out(parts),
        [_total(parts)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def describe_data(parts: Parts) -> str:
    """Describe what a run was trained and judged on, for its report: cells, scale, features, odd doses, strata.

    Args:
        parts: ``train``, and ``validation`` and ``test`` where there are some.
    """
    train = parts["train"]
    sections = [[*_cells(parts), *_scale(train.reading), *_features(train)], odd_doses(parts), _strata(parts)]
    held_out = [
        line
        for name in ("validation", "test")
        if name in parts
        for line in _wrapped(f"{name}: {_listed([repr(condition) for condition in parts[name].conditions])}")
    ]
    return "\n\n".join("\n".join(lines) for lines in (*sections, held_out) if lines)


def _cells(parts: Parts) -> list[str]:
    train = parts["train"]
    cells, conditions = (
        sum(getattr(part, name) for part in parts.values()) for name in ("num_cells", "num_conditions")
    )
    lines = [
        f"{cells} cells, {train.num_features} features, {conditions} conditions",
        f"control {train.control!r}: {train.counts[train.index(train.control)]} cells",
    ]
    controls = {} if train.reading is None else train.reading.controls
    if len(controls) > 1:
        shown = [f"{name!r} ({count})" for name, count in controls.items()]
        lines += _wrapped(f"  one control of {len(controls)} names, with cells: {_listed(shown)}")
    return lines


def _values(parts: Parts) -> list[str]:
    train, found = parts["train"], {part: moments(part) for part in parts.values()}
    cells = sum(part.num_cells for part in found)
    zeros = sum(part.num_cells * of_part.zeros for part, of_part in found.items()) / cells
    low, high = min(m.lowest.min() for m in found.values()), max(m.highest.max() for m in found.values())
    lines = [f"values from {low:.4g} to {high:.4g}, {zeros:.0%} of them zero", *_scale(train.reading)]
    if train.size_factors is not None:
        lines.append("The values are log-normalised counts: predictions will be whole numbers of counts.")
    elif low >= 0 and all(np.array_equal(x, np.round(x)) for part in found for x in part.blocks()):
        lines.append("All values are whole numbers. If they are raw counts, pass --config.data.normalize=True.")
    return lines


def _scale(reading: Reading | None) -> list[str]:
    """Say how the values were found, and what was done to them."""
    if reading is None:
        return []
    total = "" if reading.total is None else f", {reading.total:g} a cell"
    where = f"obsm[{reading.obsm!r}]" if reading.obsm else reading.layer
    done = [
        "normalised to log(1 + counts per 10,000)" if reading.normalize else "",
        "" if reading.arcsinh is None else f"arcsinh(x / {reading.arcsinh:g})",
        "spillover taken off" if reading.compensate else "",
    ]
    return [
        f"scale found{'' if where is None else f' in {where}'}: {reading.scale}{total}; "
        f"{' and '.join(filter(None, done)) or 'taken as they are'}"
    ]


def _features(train: PerturbationData) -> list[str]:
    """Say what is measured, from the first to the last feature, and what was left out, and why."""
    lines = [f"features from {train.features[0]!r} to {train.features[-1]!r}"]
    if train.num_features > 2:
        lines += _wrapped(f"  {_listed([repr(name) for name in train.features])}")
    why: dict[str, list[str]] = {}
    for name, reason in ({} if train.reading is None else train.reading.left_out).items():
        why.setdefault(reason, []).append(repr(name))
    for reason, names in why.items():
        lines += _wrapped(f"left out, {reason}: {_listed(names)}")
    return lines


def _perturbations(parts: Parts) -> list[str]:
    """List the doses of each perturbation, and whether it was measured alone."""
    train, rows = parts["train"], []
    single = np.concatenate([part.labels[part.orders == 1] for part in parts.values()])
    for (name, doses), alone in zip(_doses_of(parts).items(), np.any(single, axis=0), strict=True):
        shown = ", ".join(f"{dose:g}" for dose in doses)
        if len(doses) > _DOSES:
            shown = f"{doses[0]:g} ... {doses[-1]:g} ({len(doses)} doses)"
        decades = _decades(doses)
        row = (name, shown, "stratum" if name in train.strata else _yes(alone))
        rows.append((*row, f"{decades:.1f}" if decades else ""))
    heading = ("perturbation", "doses", "alone", "decades")
    kept = slice(None) if any(row[3] for row in rows) else slice(3)
    return _table([heading[kept]], [row[kept] for row in rows], "perturbations")


def _doses_of(parts: Parts) -> dict[str, np.ndarray]:
    """List the doses of each perturbation, rising."""
    labels = np.concatenate([part.labels for part in parts.values()])
    return {name: np.unique(own[own != 0]) for name, own in zip(parts["train"].perturbations, labels.T, strict=True)}


def _decades(doses: np.ndarray) -> float:
    """Count the powers of ten over which doses range; 0 for one dose, and where one is negative."""
    return math.log10(doses[-1] / doses[0]) if len(doses) > 1 and doses[0] > 0 else 0.0


def odd_doses(parts: Parts) -> list[str]:
    """Say what is odd about doses: of 0, below 0, over decades.

    Args:
        parts: ``train`` and others, by name.
    """
    train, found = parts["train"], _doses_of(parts)
    wide = [repr(name) for name, doses in found.items() if _decades(doses) > _DECADES]
    negative = [repr(name) for name, doses in found.items() if len(doses) and doses[0] < 0]
    absent = {} if train.reading is None else train.reading.absent
    shown = [f"{text} is {name}" for text, name in absent.items()]
    lines = _wrapped(f"A dose of 0 was read as absent: {_listed(shown)}") if shown else []
    if wide:
        lines += _wrapped(
            f"Doses of {_listed(wide)} range over more than {_DECADES} decades, and effects are linear in the dose. "
            f"log1p(dose / d), with d near the smallest, is 0 where the dose is, and linear in its logarithm above."
        )
    if negative:
        lines += _wrapped(
            f"Doses of {_listed(negative)} are below 0: if they are logarithms, a dose of 1 stands for none, and the "
            f"effects of smaller ones are turned round. Pass log1p(dose / d) instead."
        )
    return lines


def _strata(parts: Parts) -> list[str]:
    """Count the cells of each stratum, and how many of them are unperturbed."""
    train = parts["train"]
    if not train.strata:
        return []
    columns = [train.perturbations.index(name) for name in train.strata]
    rows: dict[str, np.ndarray] = {}
    for part in parts.values():
        for label, count, order in zip(part.labels[:, columns], part.counts, part.orders, strict=True):
            own = [name for name, dose in zip(train.strata, label, strict=True) if dose]
            found = rows.setdefault(train.separator.join(own) or "that of the control", np.zeros(3, int))
            found += np.array([count, count if order == 0 else 0, 1])
    lines = [(name, *map(str, found)) for name, found in rows.items()]
    return _table([("stratum", "cells", "unperturbed", "conditions")], lines, "strata")


def _others(train: PerturbationData) -> list[str]:
    """List columns that were not used, those with few values first."""
    reading = train.reading or Reading()
    others = {k: n for k, n in reading.others.items() if reading.left_out.get(k, "excluded") == "excluded"}
    most = min(_BATCHES, train.num_cells // 2)  # values of a column that may be a batch
    few = [f"{name!r} ({count} values)" for name, count in others.items() if 1 < count <= most]
    rest = len(others) - len(few)
    if not few:
        return []
    more = f"; and {rest} with one value or many" if rest else ""
    return _wrapped(
        f"Columns that are not used: {_listed(few)}{more}. Batches among them are not taken off: see that every "
        f"condition and its control are in the same ones."
    )


def _conditions(parts: Parts) -> list[str]:
    """List conditions; of combinations, whether singles, and whether training conditions, identify them."""
    train = parts["train"]
    design = design_of(train)
    rows = {"held out": [], "train": []}
    for name, part in parts.items():
        by_singles, by_training = design.singles_contain(part.labels), design.contains(part.labels)
        for row, (condition, order) in enumerate(zip(part.conditions, part.orders, strict=True)):
            line = (condition, str(part.counts[row]), name, "", "")
            if order > 1:
                line = (*line[:3], _yes(by_singles[row]), "" if name == "train" else _yes(by_training[row]))
            rows["train" if name == "train" else "held out"].append(line)
    heading = ("condition", "cells", "part", "identified by singles", "by training")
    lines = _table([heading, *rows["held out"][:SHOWN]], rows["train"], "training conditions")
    counts = train.counts
    if len(rows["train"]) > SHOWN:
        lines.append(
            f"cells of a training condition: {counts.min()} to {counts.max()}, half have {np.median(counts):g}"
        )
    return lines


def _held_out(parts: Parts) -> list[str]:
    """Say what held-out conditions test, and which they are."""
    train, kinds = parts["train"], {}
    alone = dict(zip(train.perturbations, design_of(train).measured_alone.tolist(), strict=True))
    for name in ("test", "validation"):
        part = parts.get(name)
        for condition, label in () if part is None else zip(part.conditions, part.labels, strict=True):
            kinds.setdefault((name, _tests(train, label, alone)), []).append(repr(condition))
    lines = [] if "test" in parts else ["Nothing is held out for the test: all conditions train, or validate."]
    for (name, tests), conditions in kinds.items():
        lines += [f"{name}, {len(conditions)} of: {tests}", *_wrapped(f"    {_listed(conditions)}")]
    return lines


def _tests(train: PerturbationData, label: np.ndarray, alone: Mapping[str, bool]) -> str:
    """Say what the prediction of a label tests, of what is in the training data."""
    effects, effect = (without_strata(each, train.perturbations, train.strata) for each in (train.labels, label))
    own, same = list(itertools.compress(train.perturbations, effect)), np.all(effects == effect, axis=1)
    missing = [name for name in own if not alone[name]]
    status = design_of(train).dose_status(label)
    said = []
    if len(own) > 1:
        said.append(f"a combination of {len(own)}" + ("" if missing else ", each measured alone"))
    elif not np.any(same):
        said.append("a dose" if own and alone[own[0]] else "a perturbation that training has not alone")
    if len(own) > 1 and missing:
        said.append(f"never alone: {', '.join(missing)}")
    if np.any(same):
        said.append(f"its effect in another stratum ({np.count_nonzero(same)} trained)")
    if status != "measured" and not missing:
        said.append({"between": "between measured doses", "beyond": "beyond the measured doses"}[status])
    identified = design_of(train).contains(label)
    said.append("identified" if identified else "NOT identified by training")
    return "; ".join(said)


def _total(parts: Parts) -> str:
    design = design_of(parts["train"])
    labels = np.concatenate([part.labels[part.orders > 1] for part in parts.values()])
    counts = ", ".join(f"{part.num_conditions} {name}" for name, part in parts.items())
    return (
        f"{len(labels)} combinations, {np.count_nonzero(design.singles_contain(labels))} identified by the singles; "
        f"conditions: {counts}"
    )


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = [part for line in dict.fromkeys(lines) for part in _wrapped(f"- {line}")]
    return [title, *found] if found else []


def _table(heading: Sequence[tuple[str, ...]], rows: Sequence[tuple[str, ...]], what: str) -> list[str]:
    """Align columns: all of the heading, and the first rows of many."""
    shown = [tuple(visible(cell) for cell in row) for row in (*heading, *rows[:SHOWN])]
    most = max(20, WIDTH - sum(max(map(len, column)) + 2 for column in list(zip(*shown, strict=True))[1:]))
    shown = [(row[0] if len(row[0]) <= most else f"{row[0][: most - 3]}...", *row[1:]) for row in shown]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = len(rows) - SHOWN
    return [*lines, f"... and {more} more {what}, {len(rows)} in all"] if more > 0 else lines


def _listed(names: Sequence[str]) -> str:
    """List the first and the last of many."""
    names = [visible(name) for name in names]
    if len(names) <= 2 * _ENDS:
        return ", ".join(names)
    return f"{', '.join(names[:_ENDS])}, ... {', '.join(names[-_ENDS // 2 :])} ({len(names)} in all)"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(visible(text), WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _yes(value: bool | np.bool_) -> str:
    return "yes" if value else "no"
