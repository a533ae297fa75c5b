"""What fits start from, made once for all that differ in values of the compiled program only."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.recipe import Recipe, Resolved
from pdae_jax.training.defaults import resolve_recipe
from pdae_jax.training.loop import with_start_errors
from pdae_jax.training.pilot import make_pilot
from pdae_jax.training.prepare import Parts, kernel_of, prepare, steps_to_take
from pdae_jax.training.requests import Request
from pdae_jax.training.step import settings_of
from pdae_jax.training.values import VALUES, neutral_of
from pdae_jax.view.components import Components
from pdae_jax.view.sampler import DeviceData, bootstrap_rows
from pdae_jax.view.stream import Streamed

_BOOTSTRAP = 3  # folded into the key of a fit; `prepare` splits it into three, which are those of 0, 1 and 2


class Starts:
    """Starts that were made. They go by the identity of data sets, which the requests keep alive."""

    def __init__(self):
        self._parts: dict[Any, Parts] = {}
        self._resolved: dict[Any, Resolved] = {}
        self._same_data: dict[Any, Parts] = {}

    def parts(self, request: Request, components: Components | None) -> Parts:
        """As `prepare`, with cells of its own for a bootstrap; the errors of the start are in the state."""
        neutral = neutral_of(request.recipe)
        key = tuple(np.ravel(jax.random.key_data(request.root)).tolist())
        sources = tuple(sorted((request.source or {}).items()))
        which = (id(request.train), id(request.validation), id(components), key, sources, neutral)
        if which not in self._parts:
            data = (id(request.train), id(components))
            parts = prepare(
                request.root,
                request.train,
                request.validation,
                neutral,
                request.source,
                components=components,
                like=self._same_data.get(data),
            )
            self._same_data.setdefault(data, parts)
            self._parts[which] = parts._replace(state=with_start_errors(parts.state, parts.frame))
        parts = _with_values(self._parts[which], request.recipe)
        return parts._replace(data=_resampled(parts.data, request.root)) if request.bootstrap else parts

    def resolved(self, request: Request, components: Components | None) -> Resolved:
        """The recipe with what depends on the data filled in."""
        neutral = neutral_of(request.recipe)
        which = (id(request.train), neutral)
        if which not in self._resolved:
            self._resolved[which] = resolve_recipe(
                neutral, request.train, make_pilot(neutral, request.train, components)
            )
        return _valued(self._resolved[which], request.recipe)


def _resampled(data: DeviceData | Streamed, key: Array) -> DeviceData | Streamed:
    """The same data, of which as many cells are drawn with replacement."""
    index = data.index if isinstance(data, Streamed) else data
    index = index._replace(rows=bootstrap_rows(jax.random.fold_in(key, _BOOTSTRAP), index))
    return data._replace(index=index) if isinstance(data, Streamed) else index


def _valued(resolved: Resolved, recipe: Recipe) -> Resolved:
    """A neutral recipe that was resolved, with the values of one of those it stands for."""
    values = {name: getattr(recipe, name) for name in (*VALUES, "patience") if getattr(recipe, name) is not None}
    return resolved.override(**values, stop_step=recipe.stop_step, beta=recipe.beta, bandwidths=recipe.bandwidths)


def _with_values(parts: Parts, recipe: Recipe) -> Parts:
    """What `prepare` makes of a recipe, from what it made of its `neutral_of` one."""
    own, settings = _valued(parts.frame.recipe, recipe), parts.state.train.settings
    assert settings is not None
    kernel = np.asarray(kernel_of(own, None).parameters)
    if own.kernel != "energy":  # bandwidths are multiples of a median distance, the neutral ones of 1
        kernel = kernel * np.asarray(settings.kernel)
    train = parts.state.train._replace(settings=settings_of(own, kernel))
    return parts._replace(
        frame=parts.frame._replace(recipe=own),
        num_steps=steps_to_take(own),
        state=parts.state._replace(train=train),
    )
