"""What an experiment has read and would hold out, in words: what ``run --dry_run`` prints."""

import numpy as np

from pdae_jax.build import Experiment
from pdae_jax.data.units import moments
from pdae_jax.prediction.guarantee import check_guarantee
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData


def describe(experiment: Experiment) -> str:
    """Cells, values, perturbations with their doses, and every condition with its part and how it is identified."""
    parts = {"train": experiment.train, "validation": experiment.validation, "test": experiment.test}
    present = {name: part for name, part in parts.items() if part is not None}
    return "\n".join(
        [
            *(*_overview(present), *_features(experiment.train), ""),
            *_absent(experiment.train),
            *(*_perturbations(present), "", *_conditions(present)),
        ]
    )


def _overview(parts: dict[str, PerturbationData]) -> list[str]:
    train = parts["train"]
    found = {part: moments(part) for part in parts.values()}
    cells = sum(part.num_cells for part in found)
    zeros = sum(part.num_cells * of_part.zeros for part, of_part in found.items()) / cells
    low, high = min(m.lowest.min() for m in found.values()), max(m.highest.max() for m in found.values())
    lines = [
        f"{cells} cells, {train.num_features} features, {sum(p.num_conditions for p in found)} conditions",
        f"control {train.control!r}: {train.counts[train.index(train.control)]} cells",
        f"values from {low:.4g} to {high:.4g}, {zeros:.0%} of them zero",
    ]
    if train.size_factors is not None:
        lines.append("The values are log-normalised counts: predictions will be whole numbers of counts.")
    elif low >= 0 and all(np.array_equal(x, np.round(x)) for part in found for x in part.blocks()):
        lines.append("All values are whole numbers. If they are raw counts, pass --config.data.normalize=True.")
    return lines


def _absent(train: PerturbationData) -> list[str]:
    """What a dose of 0 made of conditions."""
    found = dict(train.reading.absent) if train.reading else {}
    shown = ", ".join(f"{text} is {name}" for text, name in list(found.items())[:8])
    return [f"A dose of 0 was read as absent: {shown}{', ...' if len(found) > 8 else ''}", ""] if found else []


def _features(train: PerturbationData) -> list[str]:
    """What is measured: first and last feature, the scale, what was done to values, and what was left out, and why."""
    lines = [f"features from {train.features[0]!r} to {train.features[-1]!r}"]
    known = train.reading
    if known is None:
        return lines
    total = "" if known.total is None else f", {known.total:g} a cell"
    where = f"obsm[{known.obsm!r}]" if known.obsm else known.layer
    done = [
        "normalised to log(1 + counts per 10,000)" if known.normalize else "",
        "" if known.arcsinh is None else f"arcsinh(x / {known.arcsinh:g})",
        "spillover taken off" if known.compensate else "",
    ]
    lines.append(
        f"scale found{'' if where is None else f' in {where}'}: {known.scale}{total}; "
        f"{' and '.join(filter(None, done)) or 'taken as they are'}"
    )
    why: dict[str, list[str]] = {}
    for name, reason in known.left_out.items():
        why.setdefault(reason, []).append(name)
    return lines + [f"left out, {reason}: {first_names(names)}" for reason, names in why.items()]


def _perturbations(parts: dict[str, PerturbationData]) -> list[str]:
    """The doses of each perturbation, and whether it was measured alone."""
    labels = np.concatenate([part.labels for part in parts.values()])
    names, order = parts["train"].perturbations, np.concatenate([part.orders for part in parts.values()])
    rows = [("perturbation", "doses", "alone")]
    for column, name in enumerate(names):
        doses = labels[:, column]
        shown = ", ".join(f"{dose:g}" for dose in np.unique(doses[doses != 0]))
        alone = _yes(np.any((order == 1) & (doses != 0)))
        rows.append((name, shown, "stratum" if name in parts["train"].strata else alone))
    return _aligned(rows)


def _conditions(parts: dict[str, PerturbationData]) -> list[str]:
    """One line a condition; of combinations, whether singles, and whether training conditions, identify them."""
    train = parts["train"]
    singles = train.select([name for name, order in zip(train.conditions, train.orders, strict=True) if order <= 1])
    rows = [("condition", "cells", "part", "identified by singles", "by training")]
    found = {"combinations": 0, "identified": 0}
    for name, part in parts.items():
        for condition, count, label, order in zip(part.conditions, part.counts, part.labels, part.orders, strict=True):
            if order <= 1:
                rows.append((condition, str(count), name, "", ""))
                continue
            by_singles = check_guarantee(singles, label).identified
            found["combinations"] += 1
            found["identified"] += by_singles
            by_training = "" if name == "train" else _yes(check_guarantee(train, label).identified)
            rows.append((condition, str(count), name, _yes(by_singles), by_training))
    counts = ", ".join(f"{part.num_conditions} {name}" for name, part in parts.items())
    total = (
        f"{found['combinations']} combinations, {found['identified']} identified by the singles; conditions: {counts}"
    )
    return [*_aligned(rows), "", total]


def _yes(value: bool | np.bool_) -> str:
    return "yes" if value else "no"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
