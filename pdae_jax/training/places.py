"""Places in a compiled program, which members take: one alone, or many side by side; when one ends the next takes it.

On an accelerator fits that share a program run side by side in it. When a member ends, by its last step, its patience
or an error, the next takes its place, and when no more wait and half of the places are empty, the program goes on with
those that are taken, where that saves more time than compiling costs. So a fit that stops early costs nothing
afterwards. A member alone has the step as it is, without an axis of members.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.randomness import is_exact_side_by_side
from pdae_jax.training.devices import own_devices
from pdae_jax.training.member import Member
from pdae_jax.training.resume import Stop
from pdae_jax.training.state import step_of
from pdae_jax.training.step import TrainState, is_small, make_train_steps
from pdae_jax.view.sampler import DeviceData
from pdae_jax.view.stream import Streamed, pieces

_MEMORY = 0.5  # share of an accelerator's that members may take


def train_in_places(
    members: Sequence[Member], places: int, told: Callable[[float], None], stop: Stop | None = None
) -> None:
    """Train members that share a step and the length of its chunks, as many at once as there are places.

    Args:
        members: in whatever state; those that have ended are left alone.
        places: how many train at once, a multiple of the number of devices.
        told: of the mean loss, after every chunk of steps.
        stop: when it is set, members are saved after the chunk, and the fit ends (`resume.told_to_stop`).
    """
    waiting = deque(member for member in members if not member.finished)
    taken = Places(waiting, places) if waiting else None
    while taken is not None and (waiting or taken.members):
        taken.fill(waiting)
        trained = list(taken.members.values())
        loss = taken.advance()
        # before others are told: what they are told of is saved, and a signal they send is heard after the next chunk
        ends = stop is not None and taken.any_of(stop.is_set())
        if ends:
            taken.save()
        told(loss)
        if ends and stop is not None:
            stop.end(_saved(trained))
        if not waiting:
            taken.shrink()


def _saved(members: Sequence[Member]) -> str:
    """Return what is kept of members that are told to stop, in words."""
    folders = sorted({str(member.run.path.parent) for member in members if member.run})
    if len(members) > 1:
        return f"the {len(members)} fits in work, in {', '.join(folders)}"
    (member,) = members
    return f"step {member.step} in {member.run.path if member.run else 'the folder of the first process'}"


class Places:
    """The members that have a place, and their states along a leading axis; of one place without that axis."""

    def __init__(self, waiting: Sequence[Member], places: int):
        self.members: dict[int, Member] = {}
        self._places = places
        self._devices = own_devices() if places > 1 else None
        first = waiting[0].program
        self._shared = first.devices  # that share the steps of each member
        self._own = own_arrays(waiting)
        self._step, self._small = first.step, is_small(first.plan.recipe, first.frame.model)
        self._stack = self._stacked(first.state.train)
        self._data: Any = None
        self._compiled: dict[tuple[int, int], Callable] = {}
        self._slowest = 0.0  # seconds of the first chunk of a program, which is mostly its compilation
        self._seconds = float("inf")  # of a chunk

    def fill(self, waiting: "deque[Member]") -> None:
        """Give free places to members that wait."""
        later = deque()
        free = [place for place in range(self._places) if place not in self.members]
        while free and waiting:
            member = waiting.popleft()
            if not self._keeps_time(member):
                later.append(member)
                continue
            place = free.pop(0)
            self.members[place] = member
            self._put(place, member)
        waiting.extendleft(reversed(later))

    def _keeps_time(self, member: Member) -> bool:
        """Tell whether a member's chunks end where others' do: one whose last is shorter starts with them."""
        whole = member.program.num_steps % member.program.plan.recipe.log_every == 0
        return whole or all(other.step == member.step for other in self.members.values())

    def _put(self, place: int, member: Member) -> None:
        data = member.program.data
        if self._places == 1:
            # a copy: steps donate their state, and members may share that of the start
            self._stack, self._data = _copied(member.state.train), data
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

    def any_of(self, flag: bool) -> bool:
        """Tell whether it is set in any of the processes that share the steps."""
        return flag if self._shared is None else self._shared.any_of(flag)

    def advance(self) -> float:
        """Take one chunk of steps with all; members that end leave. The mean loss."""
        members = [self.members.get(place) for place in range(self._places)]
        some = next(iter(self.members.values()))
        length = min(some.program.plan.recipe.log_every, *(m.program.num_steps - m.step for m in self.members.values()))
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
        for place, member in list(self.members.items()):
            own = metrics if self._places == 1 else jax.tree.map(lambda leaf, p=place: leaf[p], metrics)
            member.advance(functools.partial(self._state, place), own, length, seconds)
            losses.append(float(own.loss.total))
            if member.finished:
                member.close()
                del self.members[place]
        return float(np.mean(losses))

    def save(self) -> None:
        """Keep where all are."""
        for place, member in self.members.items():
            member.save(self._state(place))

    def _state(self, place: int) -> TrainState:
        # of one place the state itself, which the next chunk takes away: it is read before
        return self._stack if self._places == 1 else _take(self._stack, place)

    def _steps(self, length: int) -> Callable:
        if (self._places, length) not in self._compiled:
            step = self._step
            if self._places > 1 and isinstance(self._data, Streamed):
                step = _side_by_side(step, None)
            elif self._places > 1:
                axes = jax.tree.unflatten(jax.tree.structure(self._data), [0 if own else None for own in self._own])
                step = _side_by_side(step, axes)
            self._compiled[self._places, length] = make_train_steps(step, length, self._small)
        return self._compiled[self._places, length]

    def shrink(self) -> None:
        """Go on with the places that are taken, where half or more are empty and that saves time."""
        devices = jax.local_device_count()
        fewer = -(-len(self.members) // devices) * devices
        if not self.members or 2 * fewer > self._places or not self._saves_time(fewer / self._places):
            return
        members = [self._with_state(place, member) for place, member in self.members.items()]
        self._places, self._slowest, self._seconds = fewer, 0.0, float("inf")
        self._devices = self._devices if fewer > 1 else None
        self._stack, self.members = self._stacked(members[0].state.train), {}
        self._data = None if fewer == 1 or any(self._own) else self._data
        self.fill(deque(members))

    def _saves_time(self, share: float) -> bool:
        """Tell whether the chunks that are left, in this share of their time, save more than compiling took."""
        left = max((m.program.num_steps - m.step) / m.program.plan.recipe.log_every for m in self.members.values())
        return left * self._seconds * (1.0 - share) > self._slowest - self._seconds

    def _with_state(self, place: int, member: Member) -> Member:
        member.state = member.state._replace(train=self._state(place))
        return member


def own_arrays(members: Sequence[Member]) -> tuple[bool, ...]:
    """Find which arrays of their data members have for themselves; the others are the same objects in all of them."""
    arrays = zip(*(jax.tree.leaves(member.program.data) for member in members), strict=True)
    return tuple(any(array is not others[0] for array in others) for others in arrays)


@functools.lru_cache(maxsize=32)  # one object for each step: `make_train_steps` knows by it what it has compiled
def _side_by_side(step: Callable, axes: Any) -> Callable:
    """The step of many members; `axes` of the data are 0 for the arrays that each has for itself."""
    return jax.vmap(step, in_axes=(0, axes))


def _repeated(tree: Any, number: int) -> Any:
    return tree if number == 1 else jax.tree.map(lambda leaf: jnp.stack([leaf] * number), tree)


_copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
# `place` is a value, so that there is one program for all places
_take = jax.jit(lambda tree, place: jax.tree.map(lambda leaf: leaf[place], tree))
_set = jax.jit(
    lambda tree, place, own: jax.tree.map(lambda leaf, value: leaf.at[place].set(value), tree, own), donate_argnums=0
)


def places_for(members: Sequence[Member], at_once: int | None) -> int:
    """Find how many of these members train at once: a multiple of the devices, but one alone."""
    if not all(is_exact_side_by_side(member.state.train.key) for member in members):
        return 1
    if any(member.program.devices is not None for member in members):  # which share the steps of each
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
    program = members[0].program
    recipe, features = program.plan.recipe, program.frame.model.num_features
    rows = recipe.num_sources * recipe.cells_per_source * (recipe.num_targets + 1)
    of_row = 3 * sum(recipe.hidden) + 6 * features + 2 * (recipe.cells_per_source + recipe.cells_per_target)
    numbers = 8 * program.state.kept.size + rows * of_row
    if isinstance(program.data, DeviceData):
        arrays = zip(own_arrays(members), jax.tree.leaves(program.data), strict=True)
        numbers += sum(array.size for own, array in arrays if own)
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    return max(1, int(_MEMORY * limit * jax.local_device_count() / (4 * numbers)))


def program_key(member: Member) -> tuple[Any, ...]:
    """Return the key of the program that a member trains in: members with the same key take places together."""
    recipe, data = member.program.plan.recipe, member.program.data
    rest = member.program.num_steps if member.program.num_steps % recipe.log_every else 0
    streamed = id(data) if isinstance(data, Streamed) else None
    shapes = None if streamed else tuple(leaf.shape for leaf in jax.tree.leaves(data))
    return (member.program.step, recipe.log_every, rest, streamed, shapes, step_of(member.state) % recipe.log_every)
