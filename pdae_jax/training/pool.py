"""Members of a population in the places of one compiled program: taken, freed, taken by the next."""

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.randomness import is_exact_side_by_side
from pdae_jax.runs.folder import RunFolder
from pdae_jax.runs.track import History
from pdae_jax.training import loop
from pdae_jax.training.devices import own_devices
from pdae_jax.training.prepare import LoopState, Parts, step_of
from pdae_jax.training.recovery import Stop
from pdae_jax.training.step import TrainState, make_train_steps
from pdae_jax.view.sampler import DeviceData
from pdae_jax.view.stream import Streamed, pieces

_MEMORY = 0.5  # share of an accelerator's that members may take


@dataclasses.dataclass(eq=False)
class Member:
    """One fit of a population, as the host sees it."""

    parts: Parts
    state: LoopState  # while it has a place, `state.train` is that of its last evaluation or checkpoint
    history: History
    run: RunFolder | None
    step: int
    error: str = ""

    @property
    def finished(self) -> bool:
        """By its last step, its patience or an error."""
        return (
            bool(self.error) or self.step >= self.parts.num_steps or loop.stopped(self.state, self.parts.frame.recipe)
        )

    def advance(self, train: Callable[[], TrainState], metrics: Any, length: int, seconds: float) -> None:
        """What `run_steps` does after a chunk: log, evaluate, keep, save; an error ends the member, not the others."""
        try:
            entry = loop.entry_of(metrics, self.step, length, seconds)
            self.step += length
            evaluated = loop.is_evaluated(self.parts, self.step)
            if evaluated or loop.is_saved(self.parts, self.state, self.step):
                self.state = self.state._replace(train=train())
            if evaluated:
                found = loop.evaluated(self.state, self.step, self.parts.frame)
                self.state, entry["validation_energy_distance"] = found
        except FloatingPointError as error:
            self.error = str(error)
            return
        self.history.append(entry)
        if self.run and loop.is_saved(self.parts, self.state, self.step):
            self.run.checkpoints.save(self.step, self.state)

    def save(self, train: TrainState) -> None:
        """Keep where it is, as it is told to stop."""
        self.state = self.state._replace(train=train)
        if self.run:
            self.run.checkpoints.save(self.step, self.state)

    def close(self) -> None:
        """The folder of a member that ended holds its result, and is free."""
        if self.run is None:
            return
        try:
            if self.finished and self.run.checkpoints.latest_step() is None and not self.error:
                self.run.checkpoints.save(self.step, self.state)
        finally:
            self.run.close()


def run_pool(members: Sequence[Member], places: int, told: Callable[[float], None], stop: Stop | None = None) -> None:
    """Train members that share a step and the length of its chunks, as many at once as there are places.

    Args:
        members: in whatever state; those that have ended are left alone.
        places: how many train at once, a multiple of the number of devices.
        told: of the mean loss, after every chunk of steps.
        stop: when it is set, members are saved after the chunk, and the fit ends (`recovery.told_to_stop`).
    """
    waiting = deque(member for member in members if not member.finished)
    pool: _Pool | None = None
    while waiting or (pool and pool.taken):
        if pool is None:
            pool = _Pool(waiting, places)
        pool.fill(waiting)
        pool.advance(told)
        if stop is not None and stop.is_set():
            pool.save()
            folders = {str(member.run.path.parent) for member in pool.taken.values() if member.run}
            stop.end(f"the {len(pool.taken)} fits in work, in {', '.join(sorted(folders))}")
        if not waiting:
            pool.shrink()


class _Pool:
    """Places, and the states of the members that have them along a leading axis; of one place without that axis."""

    def __init__(self, waiting: Sequence[Member], places: int):
        self.taken: dict[int, Member] = {}
        self._places = places
        self._devices = own_devices() if places > 1 else None
        first = waiting[0].parts
        self._own = own_arrays(waiting)
        self._step = first.step
        self._stack = self._stacked(first.state.train)
        self._data: Any = None
        self._compiled: dict[tuple[int, int], Callable] = {}
        self._slowest = 0.0  # seconds of the first chunk of a program, which is mostly its compilation
        self._seconds = float("inf")  # of a chunk

    def fill(self, waiting: "deque[Member]") -> None:
        """Give free places to members that wait."""
        later = deque()
        free = [place for place in range(self._places) if place not in self.taken]
        while free and waiting:
            member = waiting.popleft()
            if not self._keeps_time(member):
                later.append(member)
                continue
            place = free.pop(0)
            self.taken[place] = member
            self._put(place, member)
        waiting.extendleft(reversed(later))

    def _keeps_time(self, member: Member) -> bool:
        """Whether a member's chunks end where those of the others do: one whose last is shorter starts with them."""
        whole = member.parts.num_steps % member.parts.frame.recipe.log_every == 0
        return whole or all(other.step == member.step for other in self.taken.values())

    def _put(self, place: int, member: Member) -> None:
        data = member.parts.data
        if self._places == 1:
            # a copy: steps donate their state, and members may share that of the start
            self._stack, self._data = jax.tree.map(jnp.copy, member.state.train), data
            return
        assert self._devices is not None
        member.state = self._devices.everywhere(member.state)  # what was restored is on one of them
        self._stack = _set(self._stack, place, member.state.train)
        if isinstance(data, Streamed):
            self._data = data
            return
        leaves, tree = jax.tree.flatten(data)
        if self._data is None:
            put = (self._stacked if own else self._devices.everywhere for own in self._own)
            now = [each(leaf) for each, leaf in zip(put, leaves, strict=True)]
        else:
            now = jax.tree.leaves(self._data)
        own_leaves = zip(self._own, now, leaves, strict=True)
        self._data = jax.tree.unflatten(tree, [_set(old, place, leaf) if own else old for own, old, leaf in own_leaves])

    def _stacked(self, tree: Any) -> Any:
        """The same for all places."""
        return self._spread(_repeated(tree, self._places))

    def _spread(self, tree: Any) -> Any:
        """Members over devices."""
        return tree if self._devices is None else self._devices.spread(tree)

    def advance(self, told: Callable[[float], None]) -> None:
        """One chunk of steps for all; members that end leave."""
        members = [self.taken.get(place) for place in range(self._places)]
        some = next(iter(self.taken.values()))
        length = min(some.parts.frame.recipe.log_every, *(m.parts.num_steps - m.step for m in self.taken.values()))
        began, found = time.perf_counter(), []
        steps = np.array([some.step if member is None else member.step for member in members])
        self._stack = self._spread(self._stack)
        for piece in pieces(self._data, self._stack.key, steps if self._places > 1 else some.step, length):
            self._stack, metrics = self._steps(piece.num_steps)(self._stack, piece.data)
            found.append(jax.device_get(metrics))
        seconds = time.perf_counter() - began
        self._slowest, self._seconds = max(self._slowest, seconds), min(self._seconds, seconds)
        metrics = jax.tree.map(lambda *values: np.mean(values, axis=0), *found)
        losses = []
        for place, member in list(self.taken.items()):
            own = metrics if self._places == 1 else jax.tree.map(lambda leaf, p=place: leaf[p], metrics)
            member.advance(functools.partial(self._state, place), own, length, seconds)
            losses.append(float(own.loss.total))
            if member.finished:
                member.close()
                del self.taken[place]
        told(float(np.mean(losses)))

    def save(self) -> None:
        """Keep where all are."""
        for place, member in self.taken.items():
            member.save(self._state(place))

    def _state(self, place: int) -> TrainState:
        return jax.tree.map(jnp.copy, self._stack) if self._places == 1 else _take(self._stack, place)

    def _steps(self, length: int) -> Callable:
        if (self._places, length) not in self._compiled:
            step = self._step
            if self._places > 1 and isinstance(self._data, Streamed):
                step = _side_by_side(step, None)
            elif self._places > 1:
                axes = jax.tree.unflatten(jax.tree.structure(self._data), [0 if own else None for own in self._own])
                step = _side_by_side(step, axes)
            self._compiled[self._places, length] = make_train_steps(step, length)
        return self._compiled[self._places, length]

    def shrink(self) -> None:
        """Go on with the places that are taken, where half or more are empty and that saves time."""
        devices = jax.local_device_count()
        fewer = -(-len(self.taken) // devices) * devices
        if not self.taken or 2 * fewer > self._places or not self._saves_time(fewer / self._places):
            return
        members = [self._with_state(place, member) for place, member in self.taken.items()]
        self._places, self._slowest, self._seconds = fewer, 0.0, float("inf")
        self._devices = self._devices if fewer > 1 else None
        self._stack, self.taken = self._stacked(members[0].state.train), {}
        self._data = None if fewer == 1 or any(self._own) else self._data
        self.fill(deque(members))

    def _saves_time(self, share: float) -> bool:
        """Whether the chunks that are left, in this share of their time, save more than compiling took."""
        left = max((m.parts.num_steps - m.step) / m.parts.frame.recipe.log_every for m in self.taken.values())
        return left * self._seconds * (1.0 - share) > self._slowest - self._seconds

    def _with_state(self, place: int, member: Member) -> Member:
        member.state = member.state._replace(train=self._state(place))
        return member


def own_arrays(members: Sequence[Member]) -> tuple[bool, ...]:
    """Which arrays of their data members have for themselves; the others are the same objects in all of them."""
    arrays = zip(*(jax.tree.leaves(member.parts.data) for member in members), strict=True)
    return tuple(any(array is not others[0] for array in others) for others in arrays)


@functools.lru_cache(maxsize=32)
def _side_by_side(step: Callable, axes: Any) -> Callable:
    """The step of many members; `axes` of the data are 0 for the arrays that each has for itself."""
    return jax.vmap(step, in_axes=(0, axes))


def _repeated(tree: Any, number: int) -> Any:
    return tree if number == 1 else jax.tree.map(lambda leaf: jnp.stack([leaf] * number), tree)


# `place` is a value, so that there is one program for all places
_take = jax.jit(lambda tree, place: jax.tree.map(lambda leaf: leaf[place], tree))
_set = jax.jit(
    lambda tree, place, own: jax.tree.map(lambda leaf, value: leaf.at[place].set(value), tree, own), donate_argnums=0
)


def places_for(members: Sequence[Member], at_once: int | None) -> int:
    """How many of these members train at once: a multiple of the devices, but one alone."""
    if not all(is_exact_side_by_side(member.state.train.key) for member in members):
        return 1
    devices = jax.local_device_count()
    if at_once is None:
        at_once = devices if jax.default_backend() == "cpu" else max(devices, _that_fit(members))
    if min(at_once, len(members)) <= 1:
        return 1
    return -(-min(at_once, len(members)) // devices) * devices


def _that_fit(members: Sequence[Member]) -> int:
    """Members that an accelerator has memory for, by what a step keeps of one for its gradient: an estimate.

    Each has its state; the widths of both networks, the cell and its distances for each row that is decoded; and its
    cells, where these are not those of all.
    """
    parts = members[0].parts
    recipe, features = parts.frame.recipe, parts.frame.model.num_features
    rows = recipe.num_sources * recipe.cells_per_source * (recipe.num_targets + 1)
    of_row = 3 * sum(recipe.hidden) + 6 * features + 2 * (recipe.cells_per_source + recipe.cells_per_target)
    numbers = 8 * parts.state.kept.size + rows * of_row
    if isinstance(parts.data, DeviceData):
        arrays = zip(own_arrays(members), jax.tree.leaves(parts.data), strict=True)
        numbers += sum(array.size for own, array in arrays if own)
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    return max(1, int(_MEMORY * limit * jax.local_device_count() / (4 * numbers)))


def step_key(member: Member) -> tuple[Any, ...]:
    """Members with the same key share a pool."""
    recipe, data = member.parts.frame.recipe, member.parts.data
    rest = member.parts.num_steps if member.parts.num_steps % recipe.log_every else 0
    streamed = id(data) if isinstance(data, Streamed) else None
    shapes = None if streamed else tuple(leaf.shape for leaf in jax.tree.leaves(data))
    return (member.parts.step, recipe.log_every, rest, streamed, shapes, step_of(member.state) % recipe.log_every)
