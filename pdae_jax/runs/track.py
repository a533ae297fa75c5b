"""What a run leaves behind while it trains: one JSON object per logged step, and a progress bar."""

import json
import math
import pathlib
import sys
import time
from typing import Any, Protocol, runtime_checkable

from pdae_jax.runs.files import append_line, damaged, write_text


@runtime_checkable
class Progress(Protocol):
    """Told how far the work is; may show it, in a notebook say, or in a window.

    A fit that first chooses how long to train tells it of two loops, one after the other.
    """

    def update(self, step: int, num_steps: int, loss: float) -> None:
        """At the start and after every chunk; `loss` is NaN where there is none."""
        ...

    def close(self) -> None:
        """The loop is done."""
        ...


class SilentProgress:
    """Shows nothing."""

    def update(self, step: int, num_steps: int, loss: float) -> None:
        pass

    def close(self) -> None:
        pass


class BarProgress:
    """A tqdm bar on stderr: loss, steps per second, time left."""

    def __init__(self, name: str = "fit", unit: str = "step"):
        self._bar, self._name, self._unit = None, name, unit

    def update(self, step: int, num_steps: int, loss: float) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=num_steps, initial=step, unit=self._unit, desc=self._name, dynamic_ncols=True)
            return
        if not math.isnan(loss):
            self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.total = num_steps  # fewer, where some of the work turned out not to be needed
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def make_progress(show: bool | Progress | None, name: str = "fit", unit: str = "step") -> Progress:
    """A bar if `show`; None: only when stderr is a terminal; a `Progress` as it is."""
    if isinstance(show, Progress):
        return show
    return BarProgress(name, unit) if (sys.stderr.isatty() if show is None else show) else SilentProgress()


class History:
    """Logged values of a run, in memory and, with a folder, in ``metrics.jsonl``."""

    def __init__(self, path: pathlib.Path | None = None, *, resume_step: int = 0):
        """Entries of an interrupted run beyond `resume_step` are dropped: they will be computed again."""
        self._path = path
        self.entries: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.entries = [entry for entry in read_metrics(path) if entry["step"] <= resume_step]
            write_text(path, "".join(json.dumps(entry) + "\n" for entry in self.entries))

    def append(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        if self._path is not None:
            append_line(self._path, json.dumps(entry))


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The entries of a ``metrics.jsonl``; a last line cut short by a crash is left out, and no file is no entry."""
    if not path.exists():  # of a run that takes no step
        return []
    lines = path.read_text().splitlines()
    entries = []
    for number, line in enumerate(lines):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number + 1 < len(lines):
                raise damaged(path, error) from error
    return entries


class Clock:
    """Seconds since the last reading."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return max(elapsed, math.ulp(1.0))
