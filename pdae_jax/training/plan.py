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
from pdae_jax.training.defaults import resolve_recipe
from pdae_jax.training.devices import Devices, shared_by
from pdae_jax.training.pilot import Pilot, make_pilot
from pdae_jax.training.reduction import with_components
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

    @property
    def root(self) -> Array:
        """The key that all that the fit draws comes from."""
        return key_of_fit(self.key, self.streams or STREAMS)

    @property
    def shared(self) -> Devices | None:
        """The devices that share its steps; None: it has one."""
        targets = min(self.recipe.num_targets, self.train.num_conditions)
        return shared_by(self.devices, targets, isinstance(self.train.x, StoredCells))

    @property
    def writes(self) -> bool:
        """Whether this process is the one that has its folder and its bar."""
        return self.shared is None or self.shared.writes

    @property
    def is_kept(self) -> bool:
        """Whether it has a folder, of this process or of another that shares it."""
        own = self.workdir is not None
        return own if self.shared is None else self.shared.any_of(own)

    @property
    def before(self) -> str | pathlib.Path | None:
        """The folder of the run that it goes on from: that has found and chosen what a fit finds and chooses first."""
        return goes_on_from(self.workdir, self.start_from)


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

    request: Request  # checked: its sources by the names of their conditions
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
        """The same with another last step."""
        return self._replace(recipe=self.recipe.override(stop_step=step))


class Shared:
    """What fits have in common that are planned or prepared together: made once, and kept as long as this is.

    It goes by the identity of data sets, which the requests keep alive.
    """

    def __init__(self):
        self._made: dict[Any, Any] = {}

    def once(self, which: Any, make: Callable[[], Made]) -> Made:
        """What was made under this name, or is made now."""
        if which not in self._made:
            self._made[which] = make()
        return self._made[which]


def check_request(request: Request) -> Request:
    """Refuse what can be refused before anything is computed, and begin its folder.

    Returns:
        The request with its sources by the names of their conditions, and the streams of its run. Of several processes
        that share the fit, only the first has a folder.
    """
    train, validation, recipe = request.train, request.validation, request.recipe
    check_training_data(train, validation)
    # of a recipe that was found for certain data, patience may be what it would be with validation conditions
    if recipe.patience and validation is None and not isinstance(recipe, Resolved):
        raise ValueError(f"patience={recipe.patience} needs validation conditions to watch. Pass validation=.")
    request = request._replace(source=_named(request.source, train, validation))
    devices = request.shared
    if not request.writes:
        request = request._replace(workdir=None, start_from=None)
    if request.workdir is not None:
        folder.begin(request.workdir)
    goes_on_from(request.workdir, request.start_from)
    streams = request.streams or streams_of_folder(request.workdir) or STREAMS
    return request._replace(streams=streams if devices is None else devices.number_of_first(streams))


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


def make_plan(request: Request, shared: Shared | None = None) -> Plan:
    """Find what the recipe leaves open: components, units, and what depends on the data.

    Args:
        request: as `check_request` returns it.
        shared: with those that are planned together; fits that differ in values of the program have this in common.
    """
    shared, train, recipe = shared or Shared(), request.train, request.recipe
    components = request.components
    if components is None and recipe.components is not None:
        recipe, components = _with_components(request, shared)
    which = (id(train), id(components))

    def pilot_of(recipe: Recipe) -> Pilot:
        own = ("pilot", which, recipe.nonnegative, recipe.standardize)
        return shared.once(own, lambda: make_pilot(recipe, train, components))

    def resolved(recipe: Recipe) -> Resolved:
        recipe = with_units(recipe, train)
        return resolve_recipe(recipe, train, pilot_of(recipe))

    if not isinstance(recipe, Resolved):
        neutral = neutral_of(recipe)
        recipe = with_values(shared.once(("recipe", which, neutral), lambda: resolved(neutral)), recipe)
    return Plan(request, recipe, pilot_of(recipe))


def _with_components(request: Request, shared: Shared) -> tuple[Recipe, Components | None]:
    """The recipe with its units, and the components that it asks for: those of the run that it goes on from."""
    before, train, recipe = request.before, request.train, request.recipe
    there = None if before is None or not (pathlib.Path(before) / folder.COMPONENTS_FILE).exists() else before
    which = ("components", id(train), recipe.components, recipe.nonnegative, recipe.standardize, there)
    found, components = shared.once(which, lambda: with_components(recipe, train, there))
    if request.shared is not None and components is not None:  # the signs of directions are not the same everywhere
        components = Components(*(np.asarray(part) for part in request.shared.of_first(components)))
    return recipe.override(nonnegative=found.nonnegative, standardize=found.standardize), components


def planned(request: Request, recipe: Recipe, components: Components | None) -> Plan:
    """Of a run whose recipe was found, what a model of it is read back with."""
    recipe = Resolved(**dataclasses.asdict(recipe))
    return Plan(request, recipe, make_pilot(recipe, request.train, components))


def identity_of(request: Request, recipe: Recipe) -> dict[str, Any]:
    """What decides a run beside its data, as plain values; with the recipe as it was found."""
    identity = {"recipe": recipe.to_dict(), **key_record(request.key), "source": request.source}
    return identity if request.streams == 1 else {**identity, "streams": request.streams}
