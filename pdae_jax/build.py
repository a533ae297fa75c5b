"""ConfigDict -> data, recipe, key. The only module of the package that reads a config."""

import contextlib
import dataclasses
import difflib
import inspect
import logging
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from pdae_jax.data import datasets
from pdae_jax.data.norman import norman
from pdae_jax.data.norman_pairs import norman_pairs
from pdae_jax.data.own_data import choose_held_out, own_data
from pdae_jax.data.simulate import simulate
from pdae_jax.data.split_column import new_conditions
from pdae_jax.design.protocols import HeldOut, held_out
from pdae_jax.design.split import hold_out
from pdae_jax.evaluation.compositional import COMPARATORS
from pdae_jax.evaluation.identification import Truth, truth_of
from pdae_jax.labels import as_name
from pdae_jax.recipe import Recipe
from pdae_jax.reporting import overview
from pdae_jax.settings import Whole
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData

SECTIONS = {
    "seed": "of everything random in the run",
    "replicas": "fits of an ensemble, 1 for a single fit",
    "data": "name, and the options of that data set",
    "split": "names of held-out conditions, or the fractions to choose",
    "fit": "fields of the recipe",
    "evaluation": "options of evaluate, and comparators that are trained for it",
}
DATA = {
    "name": "of the data set",
    "test_path": "another file, or sheet, with the test conditions, which is read as the first",
}
SPLIT = {
    "column": "column that says of each cell train, validation or test; of a condition all cells the same",
    "test": "conditions to hold out, \"('A+B','A+C')\"; they choose nothing, only judge",
    "validation": "conditions that choose the last step and test additivity",
    "test_fraction": "share of the combinations of measured singles to hold out for the test, where none are named",
    "validation_fraction": "share of the remaining ones for validation, where none are named",
    "protocol": "a split of the field, see design/protocols.py; stratum holds out what perturbations do in one",
    "strata": "of the protocol stratum: those to choose from",
    "seed": "of the choice",
}
EVALUATION = ("num_samples", "source", "baselines", "metrics", "splits", "most_in_sample", "comparators")
DATASETS = {
    "bodenmiller": datasets.bodenmiller,
    "norman": norman,
    "norman_devel": datasets.norman_devel,
    "norman_pairs": norman_pairs,
    "mapk_rnai": datasets.mapk_rnai,
    "own_data": own_data,
}
KNOWN_DATA = {"simulated": simulate, **DATASETS}


class Experiment(NamedTuple):
    """Everything a config defines."""

    key: Array  # of the fit
    train: PerturbationData
    validation: PerturbationData | None
    test: PerturbationData | None  # None: nothing is held out, all conditions train
    source: dict[str, str]  # validation condition -> training condition whose cells are translated to it
    recipe: Recipe
    evaluation: dict[str, Any]
    truth: Truth | None  # of a simulated world

    def describe(self, warnings: Sequence[str] = ()) -> str:
        """Describe what was read, and would be held out, in words; see `pdae_jax.describe`."""
        return overview.describe(self.train, self.validation, self.test, warnings=warnings)


def dry_run(config: Any) -> str:
    """Read what a config says, train and write nothing, and return what ``pdae-jax run --dry_run`` prints.

    Raises:
        KeyError, TypeError, ValueError: as `experiment`.
    """
    with _warnings_heard() as warnings:
        found = experiment(config)
    return found.describe(warnings)


@contextlib.contextmanager
def _warnings_heard() -> Iterator[list[str]]:
    """Collect the warnings that the library logs inside, in order."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def experiment(config: Any) -> Experiment:
    """Build everything a config defines; nothing is trained yet.

    Raises:
        KeyError: a section, option, data set or condition that is not known; names it and the nearest one.
        TypeError: a recipe field that is not known.
        ValueError: a number of replicas below 1.
    """
    _check_names("The config", config, SECTIONS)
    _check_names("config.split", config.split, SPLIT)
    _check_names("config.evaluation", config.evaluation, EVALUATION)
    _check_names("config.evaluation.comparators", config.evaluation.get("comparators", ()), COMPARATORS)
    Whole(1, "1 is a single fit").checked("config.replicas", config.replicas)
    Whole(-(2**31)).checked("config.seed", config.seed)
    key_data, key_fit = jax.random.split(jax.random.key(config.seed))
    data, truth, further = _load(key_data, config)
    chosen = _of_protocol(config.split, data)
    train, validation, test = _split(config.split, data, chosen, further)
    evaluation = config.evaluation.to_dict()
    if chosen and chosen.source and evaluation.get("source", "control") == "control":  # cells of a stratum start in it
        evaluation["source"] = dict(chosen.source)
    source = _sources(evaluation.get("source", "control"), train, validation, test)
    return Experiment(key_fit, train, validation, test, source, recipe(config.fit), evaluation, truth)


def _load(key: Array, config: Any) -> tuple[PerturbationData, Truth | None, PerturbationData | None]:
    """The data, their truth, and the test conditions that a file of their own has."""
    path, column = config.data.get("test_path"), config.split.get("column")
    given = {name: config.split.get(name) for name in ("test", "protocol", "column") if config.split.get(name)}
    ways = [*(["config.data.test_path"] if path else []), *(f"config.split.{name}" for name in given)]
    if len(ways) > 1 and (path or column):
        raise ValueError(f"{ways[0]} and {ways[1]} both say what is held out. Leave one of the two out.")
    if (path or column) and config.data.name != "own_data":
        raise ValueError(f"{ways[0]} is of a file of your own, and not of the data {config.data.name!r}.")
    options = {name: value for name, value in config.data.to_dict().items() if name != "test_path"}
    data, truth = load_data(key, ConfigDict(options), **({"split": column} if column else {}))
    if not path:
        return data, truth, None
    options["sheet" if options.get("sheet") else "path"] = path
    found, _ = load_data(key, ConfigDict(options | {"features": (), "highly_variable": None, "store": None}), like=data)
    return data, truth, new_conditions(found, data, path)


def _split(
    section: Any, data: PerturbationData, chosen: HeldOut | None, further: PerturbationData | None
) -> tuple[PerturbationData, PerturbationData | None, PerturbationData | None]:
    """Training, validation and test conditions, by name, by a fraction, or as a protocol, column or file says."""
    parts = data.reading.parts if data.reading else {}
    if chosen:
        names, unseen = chosen.test, chosen.validation
        train, _ = hold_out(data, [*names, *chosen.left_out], of_all_strata=not chosen.source)
        test = data.select(names)
    elif further is not None:
        train, test, unseen = data, further, _held_out(section, "validation", data)
    else:
        said = {part: [name for name in data.conditions if parts.get(name) == part] for part in ("test", "validation")}
        names = said["test"] if parts else _held_out(section, "test", data)
        # singles only, or it is asked to hold out nothing
        nothing = not names and (parts or section.get("test_fraction") is not None)
        train, test = (data, None) if nothing else hold_out(data, conditions=names, of_all_strata=not parts)
        unseen = said["validation"] or _held_out(section, "validation", train)
    apart = not parts and (chosen is None or not chosen.source)  # else the stratum is the question
    train, validation = hold_out(train, conditions=unseen, of_all_strata=apart) if unseen else (train, None)
    return train, validation, test


def _of_protocol(section: Any, data: PerturbationData) -> HeldOut | None:
    """Return the conditions that a protocol of the field holds out; None where the section names none."""
    if not section.get("protocol"):
        return None
    given = [part for part in ("test", "validation") if section.get(part)]
    if given:
        raise ValueError(
            f"config.split.protocol={section.protocol!r} chooses the conditions, and config.split.{given[0]} names "
            f"some. Leave one of the two out."
        )
    return held_out(data, section.protocol, section.get("seed", 0), tuple(section.get("strata", ())))


def _held_out(section: Any, part: str, data: PerturbationData) -> list[str]:
    """Names of the test or validation conditions: those given, else chosen where the section has a fraction."""
    given, fraction = section.get(part, ()), section.get(f"{part}_fraction")
    given = [as_name(name, data.conditions) for name in (given if isinstance(given, tuple | list) else [given])]
    if given or not fraction:
        return given
    chosen = list(choose_held_out(data, fraction, section.get("seed", 0)))
    if part == "test" and not chosen and np.any(data.orders > 1):
        raise ValueError(
            f"No conditions to hold out: no combination in the data has all its perturbations measured alone. Name "
            f"some in config.split.test; there are {first_names([c for c in data.conditions if c != data.control])}. "
            f"Or train on all: config.split.test_fraction=0."
        )
    return chosen


def _sources(
    source: str | Mapping[str, str],
    train: PerturbationData,
    validation: PerturbationData | None,
    test: PerturbationData | None,
) -> dict[str, str]:
    """Sources of the validation conditions; ``nearest`` and ``all`` leave them to the control. Checks all names."""
    unseen = validation.conditions if validation else ()
    everywhere = (*train.conditions, *unseen, *(test.conditions if test else ()))
    rules = ("control", "nearest", "all")
    mapping = dict.fromkeys(unseen, source) if isinstance(source, str) else source
    for name in mapping:
        if not any(data is not None and data.has(name) for data in (train, validation, test)):
            raise KeyError(f"config.evaluation.source names {name!r}; {_nearest(name, everywhere)}.")
    for start in [source] if isinstance(source, str) else mapping.values():
        if start not in rules and not train.has(start):
            raise KeyError(f"Unknown source {start!r}; {_nearest(start, (*rules, *train.conditions))}.")
    if validation is None:
        return {}
    return {c: s for c, s in mapping.items() if validation.has(c) and train.has(s)}


def load_data(key: Array, section: Any, **more: Any) -> tuple[PerturbationData, Truth | None]:
    """Load the data set of a config section: simulated with a key, and its truth, or one of the named ones.

    Args:
        key: of a simulated world.
        section: name, and options of the function that makes the data.
        **more: options that are no fields of a section.
    """
    options = {name: value for name, value in section.to_dict().items() if name != "name"}
    if section.name not in KNOWN_DATA:
        raise KeyError(f"Unknown data set {section.name!r}; {_nearest(section.name, KNOWN_DATA)}.")
    make = KNOWN_DATA[section.name]
    _check_names("config.data", options, [name for name in inspect.signature(make).parameters if name != "key"])
    if make is not simulate:
        return make(**options, **more), None
    simulation = simulate(key, **options)
    return simulation.data, truth_of(simulation)


def recipe(section: Any) -> Recipe:
    """Return the recipe of a config section; misspelt fields are refused."""
    return Recipe().override(**section.to_dict())


def recipe_config(**changes: Any) -> ConfigDict:
    """Return the default recipe as a config section, with changes: the start of every config's ``fit``."""
    section = ConfigDict()
    for name, value in dataclasses.asdict(Recipe().override(**changes)).items():
        if value is None:  # a field that may be set later, with its type
            section[name] = _placeholder(name)
        else:
            section[name] = value
    return section


def _placeholder(name: str) -> Any:
    from ml_collections import config_dict

    optional = typing.get_type_hints(Recipe)[name]
    return config_dict.placeholder(next(kind for kind in typing.get_args(optional) if kind is not type(None)))


def _check_names(where: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise KeyError(f"{where} has an unknown key {name!r}; {_nearest(name, known)}.")


def _nearest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2)
    return f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
