"""What a run goes on from after it was broken off, and what it does when it is told to stop."""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from pdae_jax.runs import folder

AnyPath = str | pathlib.Path
STOPPED = 128 + signal.SIGTERM  # status of a process that was told to stop, as shells have it


class Stop:
    """A note that a process was told to stop, and by which signal."""

    def __init__(self):
        self.signal: int | None = None

    def is_set(self) -> bool:
        """Tell whether it was told."""
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


def goes_on_from(workdir: AnyPath | None, parent: AnyPath | None) -> AnyPath | None:
    """Return the folder whose run a fit goes on from: its own where that has a checkpoint, or there is no `parent`.

    Raises:
        FileNotFoundError: no run, or no checkpoint yet, in `parent`.
        ValueError: `parent` is this run itself, or an ensemble.
    """
    if parent is None:
        return workdir
    path = pathlib.Path(parent)
    if workdir is not None and pathlib.Path(workdir).resolve() == path.resolve():
        raise ValueError(f"start_from={str(path)!r} is the workdir itself. Leave it out: the same run goes on anyway.")
    if workdir is not None and has_checkpoint(workdir):
        return workdir
    if (path / folder.CONFIG_FILE).exists() and "num_replicas" in folder.read_config(path)["identity"]:
        raise ValueError(f"start_from={str(path)!r} is an ensemble. Pass the folder of one of its replicas.")
    if not has_checkpoint(path):
        raise FileNotFoundError(
            f"start_from={str(path)!r} has no checkpoint of a run. Pass the workdir of a fit that has saved one."
        )
    return path


def has_checkpoint(path: AnyPath) -> bool:
    """Tell whether there is a run in a folder that has something to go on from."""
    saved = pathlib.Path(path) / folder.CHECKPOINT_FOLDER
    # named by its step once it is complete
    return saved.exists() and any(each.name.isdigit() for each in saved.iterdir())


def stop_of_folder(workdir: AnyPath | None) -> int | None:
    """Return what the run in a folder has chosen already; None where there is none."""
    file = pathlib.Path(workdir) / folder.CONFIG_FILE if workdir is not None else None
    if file is None or not file.exists():
        return None
    return folder.read_config(file.parent)["identity"]["recipe"].get("stop_step")


def streams_of_folder(workdir: AnyPath | None) -> int | None:
    """Find how the run in a folder, or a fit that chooses for it, has its keys (`key_of_fit`); None for no run."""
    path = pathlib.Path(workdir) if workdir is not None else None
    for each in () if path is None else (path, *sorted((path / folder.CHOICE_FOLDER).glob("*"))):
        if (each / folder.CONFIG_FILE).exists():
            return folder.read_config(each)["identity"].get("streams", 1)
    return None
