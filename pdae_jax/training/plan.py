"""A fit that is asked for, and what is known of it before anything is compiled."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array

from pdae_jax.cells import StoredCells
from pdae_jax.data.checks import check_training_data
from pdae_jax.design.design import Design
from pdae_jax.model.fitted import Fitted
from pdae_jax.randomness import STREAMS, key_of_fit, key_record
from pdae_jax.recipe import Recipe, Resolved
from pdae_jax.runs import folder
from pdae_jax.training.defaults import with_defaults
from pdae_jax.training.devices import Devices, shared_by
from pdae_jax.training.pilot import Pilot, components_for, make_pilot
from pdae_jax.training.resume import goes_on_from, streams_of_folder
from pdae_jax.training.step import neutral_of, with_values
from pdae_jax.types import PerturbationData
from pdae_jax.view.components import Components
from pdae_jax.view.view import View, with_units

Made = TypeVar("Made")


class Request(NamedTuple):
    """One fit that is asked for; the fields are arguments of `fit`."""

    train: PerturbationData
    key: Array
    recipe: Recipe
    validation: PerturbationData | None = None
    source: Mapping[str, str] | None = None
    workdir: str | pathlib.Path | None = None
    config: Mapping[str, Any] = {}
    bootstrap: bool = False  # as many cells of each condition, drawn with replacement by the key
    components: Components | None = None  # found already; None: by the recipe
    streams: int | None = None  # see `key_of_fit`; None: as the run in the workdir has it
    start_from: str | pathlib.Path | None = None
    devices: int | None = None


class Checked(NamedTuple):
    """A request that can be met, and what is known of it before its data are looked at; `check_request` makes it."""

    request: Request  # its sources by the names of their conditions, with the streams of its run
    root: Array  # the key that all that the fit draws comes from
    devices: Devices | None  # that share its steps; None: it has one
    before: str | pathlib.Path | None  # folder of the run that it goes on from, which has found what a fit finds first
    is_kept: bool  # it has a folder, of this process or of another that shares it


class Outcome(NamedTuple):
    """What became of a request."""

    fitted: Fitted | None
    kept_step: int = 0
    steps: int = 0
    error: str = ""

    @property
    def errors(self) -> Mapping[str, Mapping[str, float]]:
        """`Fitted.validation_errors`; none of a fit that failed."""
        return self.fitted.validation_errors if self.fitted else {}


class Plan(NamedTuple):
    """What is known of a fit before anything is compiled: what is asked, and what was found from the data."""

    request: Request  # as in `Checked`, down to `is_kept`
    root: Array
    devices: Devices | None
    before: str | pathlib.Path | None
    is_kept: bool
    recipe: Resolved
    pilot: Pilot

    @property
    def design(self) -> Design:
        """What labels mean to the model."""
        return self.pilot.design

    @property
    def view(self) -> View:
        """How the model sees cells."""
        return self.pilot.view

    @property
    def num_steps(self) -> int:
        """Steps to be taken: all of the schedule, or up to the recipe's `stop_step`."""
        stop = self.recipe.stop_step
        return self.recipe.num_steps if stop is None else min(stop, self.recipe.num_steps)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a run beside its data, as plain values; with the recipe as it was found."""
        return identity_of(self.request, self.recipe) | ({"bootstrap": True} if self.request.bootstrap else {})

    def stopping_at(self, step: int | None) -> "Plan":
        """Return the same with another last step."""
        return self._replace(recipe=self.recipe.override(stop_step=step))


class Shared:
    """What fits have in common that are planned or prepared together: made once, and kept as long as this is.

    It goes by the identity of data sets, which the requests keep alive.
    """

    def __init__(self):
        self._made: dict[Any, Any] = {}

    def once(self, which: Any, make: Callable[[], Made]) -> Made:
        """Return what was made under this name, or make it now."""
        if which not in self._made:
            self._made[which] = make()
        return self._made[which]


def check_request(request: Request) -> Checked:
    """Refuse what can be refused before anything is computed, and begin the folder of a fit.

    Of several processes that share the fit, only the first has a folder.
    """
    train, validation, recipe = request.train, request.validation, request.recipe
    check_training_data(train, validation)
    # of a recipe that was found for certain data, patience may be what it would be with validation conditions
    if recipe.patience and validation is None and not isinstance(recipe, Resolved):
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    source = _named(request.source, train, validation)
    targets = min(recipe.num_targets, len(train.conditions))
    devices = shared_by(request.devices, targets, isinstance(train.x, StoredCells))
    if devices is not None and not devices.writes:
        request = request._replace(workdir=None, start_from=None)
    if request.workdir is not None:
        folder.begin(request.workdir)
    before = goes_on_from(request.workdir, request.start_from)
    streams, is_kept = request.streams or streams_of_folder(request.workdir) or STREAMS, request.workdir is not None
    if devices is not None:
        streams, is_kept = devices.number_of_first(streams), devices.any_of(is_kept)
    request = request._replace(source=source, streams=streams)
    return Checked(request, key_of_fit(request.key, streams), devices, before, is_kept)


def _named(
    source: Mapping[str, str] | None, train: PerturbationData, validation: PerturbationData | None
) -> dict[str, str]:
    """Sources by the names of their conditions."""
    found = {}
    for name, start in (source or {}).items():
        if validation is None or not validation.has(name):
            raise KeyError(f"source names {name!r}, which is no validation condition. Remove it, or correct the name.")
        # "control" is a name for the control everywhere; any other source must be a training condition, or index raises
        row = train.index(train.control if start == "control" else start)
        found[validation.conditions[validation.index(name)]] = train.conditions[row]
    return found


def make_plan(checked: Checked, shared: Shared | None = None) -> Plan:
    """Find what the recipe leaves open: units, components, and what depends on the data.

    Args:
        checked: what is asked.
        shared: with those that are planned together; fits that differ in values of the program have this in common.
    """
    request, shared = checked.request, shared or Shared()
    train, components = request.train, request.components
    recipe = with_units(request.recipe, train)  # of the features: scores of components have no floor
    if components is None and recipe.components is not None:
        components = _components(checked, recipe.components, shared)
    seen = ("pilot", id(train), id(components), recipe.sight)
    pilot = shared.once(seen, lambda: make_pilot(recipe, train, components))
    if not isinstance(recipe, Resolved):
        neutral = neutral_of(recipe)
        found = shared.once(("recipe", id(pilot), neutral), lambda: with_defaults(neutral, pilot))
        recipe = with_values(found, recipe)
    return Plan(*checked, recipe, pilot)


def _components(checked: Checked, number: int, shared: Shared) -> Components | None:
    """The components that a recipe asks for: those of the run that it goes on from, if that has some."""
    before, train = checked.before, checked.request.train
    there = None if before is None or not (pathlib.Path(before) / folder.COMPONENTS_FILE).exists() else before
    which = ("components", id(train), number, there)
    components = shared.once(which, lambda: components_for(number, train, there))
    if checked.devices is not None:  # the signs of directions are not the same everywhere
        components = Components(*(np.asarray(part) for part in checked.devices.of_first(components)))
    return components


def planned(request: Request, components: Components | None) -> Plan:
    """Return the plan of a run whose recipe was found, which a model of it is read back with."""
    recipe, root = Resolved(**dataclasses.asdict(request.recipe)), key_of_fit(request.key, request.streams or STREAMS)
    return Plan(request, root, None, request.workdir, True, recipe, make_pilot(recipe, request.train, components))


def identity_of(request: Request, recipe: Recipe) -> dict[str, Any]:
    """Say what decides a run beside its data, as plain values; with the recipe as it was found."""
    identity = {"recipe": recipe.to_dict(), **key_record(request.key), "source": request.source}
    return identity if request.streams == 1 else {**identity, "streams": request.streams}
