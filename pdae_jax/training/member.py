"""A fit that trains: its folder, its state, and what is done after every chunk of its steps."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.store import fingerprint
from pdae_jax.runs.track import History
from pdae_jax.training.pilot import save_components
from pdae_jax.training.plan import Outcome, Plan
from pdae_jax.training.prepare import Program
from pdae_jax.training.state import LoopState, evaluated, fitted_of, out_of_patience, step_of
from pdae_jax.training.step import VALUES, Metrics, TrainState, neutral_of


@dataclasses.dataclass(eq=False)
class Member:
    """A fit, as the host sees it; it knows steps, states and errors and nothing of the model, as comparators do too."""

    program: Program
    state: LoopState  # while it has a place, `state.train` is that of its last evaluation or checkpoint
    history: History
    run: folder.RunFolder | None = None
    step: int = 0
    error: str = ""

    @property
    def finished(self) -> bool:
        """By its last step, its patience or an error."""
        done = self.step >= self.program.num_steps or out_of_patience(self.state, self.program.plan.recipe)
        return bool(self.error) or done

    @property
    def _is_evaluated(self) -> bool:
        due = self.step % self.program.plan.recipe.eval_every == 0 or self.step == self.program.num_steps
        return self.program.frame.validator is not None and due

    @property
    def _is_saved(self) -> bool:
        return self.step % self.program.plan.recipe.checkpoint_every == 0 or self.finished

    def advance(self, train: Callable[[], TrainState], metrics: Metrics, length: int, seconds: float) -> None:
        """Log a chunk of steps, evaluate, keep, save; an error ends the member, not the others.

        Args:
            train: the state after it.
            metrics: means over its steps.
            length: of the chunk, in steps.
            seconds: it took.
        """
        try:
            entry = entry_of(metrics, self.step, length, seconds)
            self.step += length
            if self._is_evaluated or self._is_saved:
                self.state = self.state._replace(train=train())
            if self._is_evaluated:
                found = evaluated(self.state, self.step, self.program.frame)
                self.state, entry["validation_energy_distance"] = found
        except FloatingPointError as error:
            self.error = str(error)
            return
        self.history.append(entry)
        if self._is_saved:
            self.save()

    def save(self, train: TrainState | None = None) -> None:
        """Write a checkpoint, where there is a folder; of the state of another moment where one is given."""
        if train is not None:
            self.state = self.state._replace(train=train)
        if self.run:
            devices = self.program.devices
            self.run.checkpoints.save(self.step, self.state if devices is None else devices.one_copy(self.state))

    def close(self) -> None:
        """Free the folder."""
        if self.run is not None:
            self.run.close()

    @property
    def outcome(self) -> Outcome:
        """What has become of it."""
        if self.error:
            return Outcome(None, steps=self.step, error=self.error)
        devices, path = self.program.devices, self.run.path if self.run else None
        state = self.state if devices is None else devices.one_copy(self.state)
        fitted = fitted_of(self.program.frame, state, self.history.entries, path)
        return Outcome(fitted, fitted.kept_step or 0, self.step)


def open_member(program: Program) -> Member:
    """Begin a fit, or go on with it: from the newest checkpoint of its folder, or from that of another run.

    Raises:
        ValueError: the folder holds another run, or the run to start from has other data or structure.
        FolderInUse: another process works in the folder.
    """
    request, identity, config = program.plan.request, program.plan.identity, dict(program.plan.request.config)
    state, devices, run, history = program.state, program.devices, None, History()
    if request.start_from is not None:
        state, identity["start"] = _started(program.plan, state)
        config["start_from"] = str(request.start_from)
    try:
        if request.workdir is not None:
            run = folder.RunFolder(pathlib.Path(request.workdir), identity, config, request.train, request.validation)
            state, history = _restored(run, program.plan, state)
        if devices is not None:
            state = devices.everywhere(state)
        member = Member(program, state, history, run, step_of(state))
        if run and run.checkpoints.latest_step() is None and (member.step or member.finished):
            member.save()  # of another run, which is not needed from now on; or nothing is trained, and this is it
    except BaseException:
        if run is not None:
            run.close()
        raise
    return member


def _restored(run: folder.RunFolder, plan: Plan, state: LoopState) -> tuple[LoopState, History]:
    """The state of the newest checkpoint, or the one given, and what was logged up to it."""
    save_components(run.path, plan.view.components)
    if run.checkpoints.latest_step() is not None:
        state = run.checkpoints.restore(state, repair=True)
        logging.info("Resuming %s at step %d.", run.path, step_of(state))
    return state, History(run.path / folder.METRICS_FILE, resume_step=step_of(state))


def _started(plan: Plan, state: LoopState) -> tuple[LoopState, dict[str, Any]]:
    """The state of the run that a fit starts from; and for the identity the hash of its config and the step.

    The values of the step are those of the given state, and so is the key that batches are drawn with. A fit whose own
    folder has a checkpoint goes on from that, and the other run may be gone. ``ValueError``: it has other data or
    structure.
    """
    request = plan.request
    assert request.start_from is not None
    path = pathlib.Path(request.start_from)
    if plan.before != path:
        assert request.workdir is not None
        start = folder.read_config(pathlib.Path(request.workdir))["identity"].get("start", {})
        there = (path / folder.CONFIG_FILE).exists()
        return state, {**start, "hash": folder.read_config(path)["hash"]} if there else start
    record = folder.read_config(path)
    _check_same(path, record["identity"], plan)
    checkpoints = folder.Checkpoints(path / folder.CHECKPOINT_FOLDER, run=record["hash"], read_only=True)
    with contextlib.closing(checkpoints):
        found = checkpoints.restore(state)
    found = found._replace(train=found.train._replace(key=state.train.key, settings=state.train.settings))
    return found, {"hash": record["hash"], "step": step_of(found)}


def _check_same(path: pathlib.Path, identity: dict[str, Any], plan: Plan) -> None:
    """``ValueError`` that names what a fit cannot take over."""
    request, recipe = plan.request, plan.recipe
    data = {"train": fingerprint(request.train), "validation": fingerprint(request.validation)}
    changed = [f"the {name} data are others" for name, value in data.items() if identity["data"][name] != value]
    if identity["source"] != request.source:
        changed.append(f"source is {identity['source']} there, {request.source} here")
    other = Recipe.from_dict(identity["recipe"])
    there, here = neutral_of(other), neutral_of(recipe)
    changed += [
        f"{name} is {getattr(other, name)!r} there, {getattr(recipe, name)!r} here"
        for name in (field.name for field in dataclasses.fields(Recipe))
        if getattr(there, name) != getattr(here, name)
    ]
    if changed:
        raise ValueError(
            f"start_from={str(path)!r} cannot be gone on from: {'; '.join(changed)}. Pass the data and the recipe of "
            f"that run; only {', '.join(VALUES)}, patience, beta and bandwidths may be others, and no weight of the "
            f"loss from or to 0."
        )


def entry_of(metrics: Metrics, step: int, length: int, seconds: float) -> dict[str, Any]:
    """Make the entry of `length` steps after `step`; ``FloatingPointError`` where they went wrong."""
    _check_finite(metrics, step, step + length)
    return {
        "step": step + length,
        **{name: float(np.mean(value)) for name, value in metrics.loss._asdict().items()},
        "gradient_norm": float(np.mean(metrics.gradient_norm)),
        "steps_per_second": length / seconds,
    }


def _check_finite(metrics: Metrics, first: int, last: int) -> None:
    bad = [name for name, value in metrics.loss._asdict().items() if not np.all(np.isfinite(value))]
    if bad or not np.all(np.isfinite(metrics.gradient_norm)):
        raise FloatingPointError(
            f"Between steps {first} and {last} these became NaN or infinite: {', '.join(bad) or 'the gradient'}. "
            f"Lower learning_rate, or look for extreme values in the data; checkpoints before step {first} are kept."
        )
