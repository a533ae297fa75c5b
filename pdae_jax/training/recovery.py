"""What a run goes on from after it was broken off, and what it does when it is told to stop."""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from absl import logging

from pdae_jax.randomness import key_record
from pdae_jax.recipe import Recipe
from pdae_jax.runs import folder
from pdae_jax.runs.track import History
from pdae_jax.training.prepare import LoopState, Parts, step_of
from pdae_jax.training.reduction import save_components
from pdae_jax.training.requests import Request
from pdae_jax.types import PerturbationData

STOPPED = 128 + signal.SIGTERM  # status of a process that was told to stop, as shells have it


class Stop:
    """Whether a process was told to stop, and by which signal."""

    def __init__(self):
        self.signal: int | None = None

    def is_set(self) -> bool:
        """Whether it was."""
        return self.signal is not None

    def end(self, saved: str) -> NoReturn:
        """End the fit, which is saved: ``KeyboardInterrupt`` after Ctrl-C, else the status of SIGTERM."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(f"Stopped, and saved {saved}. The same call goes on from there.")
        raise SystemExit(STOPPED)


# what a signal does where nobody has said otherwise
_PLAIN: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


@contextlib.contextmanager
def told_to_stop(saves: bool) -> Iterator[Stop]:
    """Set by Ctrl-C, and by SIGTERM, which schedulers send before they kill; only where there is a folder to save to.

    A second Ctrl-C ends at once. A handler that somebody else has installed stays, and other threads than the main one
    cannot have any.
    """
    stop, plain = Stop(), {}
    if saves and threading.current_thread() is threading.main_thread():
        plain = {number: before for number, before in _PLAIN.items() if signal.getsignal(number) == before}

    def tell(number: int, _: Any) -> None:
        stop.signal = number
        if number == signal.SIGINT:
            signal.signal(number, plain[number])

    for number in plain:
        signal.signal(number, tell)
    try:
        yield stop
    finally:
        for number, before in plain.items():
            signal.signal(number, before)


def open_run(
    parts: Parts,
    identity: dict[str, Any],
    train: PerturbationData,
    validation: PerturbationData | None,
    workdir: str | pathlib.Path | None,
    config: dict[str, Any],
) -> tuple[folder.RunFolder | None, LoopState, History]:
    """The folder of a run, made where there is none; the state to go on from, and what was logged up to it."""
    run, state = None, parts.state
    if workdir is not None:
        run = folder.RunFolder(pathlib.Path(workdir), identity, config, train, validation)
        try:
            save_components(run.path, parts.frame.view.components)
            if run.checkpoints.latest_step() is not None:
                state = run.checkpoints.restore(state, repair=True)
                logging.info("Resuming %s at step %d.", run.path, step_of(state))
            return run, state, History(run.path / folder.METRICS_FILE, resume_step=step_of(state))
        except BaseException:
            run.close()
            raise
    return run, state, History()


def stop_of_folder(workdir: str | pathlib.Path | None) -> int | None:
    """What the run in a folder has chosen already; None where there is none."""
    file = pathlib.Path(workdir) / folder.CONFIG_FILE if workdir is not None else None
    if file is None or not file.exists():
        return None
    return folder.read_config(file.parent)["identity"]["recipe"].get("stop_step")


def streams_of_folder(workdir: str | pathlib.Path | None) -> int | None:
    """How the run in a folder has its keys (`randomness.key_of_fit`), or a fit that chooses for it; None for no run."""
    path = pathlib.Path(workdir) if workdir is not None else None
    for each in () if path is None else (path, *sorted((path / folder.CHOICE_FOLDER).glob("*"))):
        if (each / folder.CONFIG_FILE).exists():
            return folder.read_config(each)["identity"].get("streams", 1)
    return None


def identity_of(request: Request, recipe: Recipe) -> dict[str, Any]:
    """What decides a run beside its data, as plain values; with the recipe as it was found."""
    identity = {"recipe": recipe.to_dict(), **key_record(request.key), "source": request.source}
    return identity if request.streams == 1 else {**identity, "streams": request.streams}
