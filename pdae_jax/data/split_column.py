"""A column of the cells that says which conditions train, validate and test."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from absl import logging

from pdae_jax.data.conditions import Conditions
from pdae_jax.labels import count_perturbations
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData

#: What a column may say, in any case, and which part it is.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "ood"), "test"),
}


def parts_of_conditions(values: Sequence[Any], table: Conditions, column: str) -> dict[str, str]:
    """Find which part each condition is, from a column with one of `WORDS` for each cell.

    Args:
        values: of the column.
        table: the conditions of the cells.
        column: its name, for messages.

    Returns:
        Condition -> ``train``, ``validation`` or ``test``. Unperturbed cells train, whatever the column says of them:
        those of the control, and of each stratum.

    Raises:
        ValueError: another value; a condition in two parts.
    """
    words = [str(value).strip().casefold() for value in values]
    for row, word in enumerate(words):
        if word not in WORDS:
            raise ValueError(
                f"Column {column!r} has the value {values[row]!r} in row {row}. Write one of {', '.join(WORDS)}."
            )
    orders = count_perturbations(table.labels, table.perturbations, table.strata)
    found: dict[str, Counter[str]] = {name: Counter() for name in table.names}
    for row, word in zip(table.index.tolist(), words, strict=True):
        found[table.names[row]][WORDS[word]] += 1
    parts, moved = {}, 0
    for (name, counts), order in zip(found.items(), orders, strict=True):
        if order == 0:
            moved += counts.total() - counts["train"]
            parts[name] = "train"
        elif len(counts) > 1:
            shown = " and ".join(f"{number} cells in {part}" for part, number in counts.most_common())
            raise ValueError(
                f"Column {column!r} has {shown} of the condition {name!r}. Whole conditions are held out: give all its "
                f"cells one part."
            )
        else:
            (parts[name],) = counts
    if moved:
        logging.warning("%d unperturbed cells train, although %r says otherwise.", moved, column)
    return parts


def new_conditions(found: PerturbationData, train: PerturbationData, path: str) -> PerturbationData:
    """Keep the conditions of a test file that are not in the training data.

    Raises:
        ValueError: there are none.
    """
    names = [name for name, label in zip(found.conditions, found.labels, strict=True) if label.any()]
    trained = [
        name for name in names if train.has(dict(zip(found.perturbations, found.label(name).tolist(), strict=True)))
    ]
    new = [name for name in names if name not in trained]
    if not new:
        raise ValueError(
            f"Nothing in config.data.test_path={path!r} is new: {first_names(names)} are trained on. Pass a file with "
            f"other conditions, or leave it out."
        )
    if trained:
        logging.warning("Conditions of %s that are trained on are not judged: %s", path, first_names(trained))
    return found.select(new)
