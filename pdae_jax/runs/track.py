"""What a run leaves behind while it trains: one JSON object per logged step, and progress on stderr."""

import contextlib
import json
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from pdae_jax.runs.files import append_line, damaged, write_text


@runtime_checkable
class Progress(Protocol):
    """Told how far the work is; may show it, in a notebook say, or in a window.

    A fit that first chooses how long to train tells it of two loops, one after the other.
    """

    def update(self, step: int, num_steps: int, loss: float) -> None:
        """Show where the loop is, at the start and after every chunk; `loss` is NaN where there is none."""
        ...

    def close(self) -> None:
        """End the progress of the loop."""
        ...


class SilentProgress:
    """Shows nothing."""

    def update(self, step: int, num_steps: int, loss: float) -> None:
        pass

    def close(self) -> None:
        pass


class _Shown:
    """Something that moves on stderr while the work goes on, whether or not there is news; it never breaks the work."""

    interval: float  # seconds between two signs of life

    def __init__(self, name: str, unit: str, stream: Any):
        self.name, self.unit, self._stream = name, unit, stream
        self._began, self._done, self._ticks = time.perf_counter(), threading.Event(), None

    def _show(self, do: Callable[[], Any]) -> None:
        """Do it, and go on in silence where the terminal has gone away."""
        with contextlib.suppress(OSError, ValueError):
            do()

    def _start(self) -> None:
        self._ticks = threading.Thread(target=self._run, daemon=True)  # XLA compiles outside Python's lock
        self._ticks.start()

    def _run(self) -> None:
        while not self._done.wait(self.interval):
            self._show(self.tick)

    def _stop(self) -> None:
        self._done.set()
        if self._ticks is not None:
            self._ticks.join()

    def tick(self) -> None:
        """A sign of life."""
        raise NotImplementedError

    @property
    def seconds(self) -> str:
        """Time since the start, in words."""
        minutes, seconds = divmod(round(time.perf_counter() - self._began), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


class BarProgress(_Shown):
    """A tqdm bar on a terminal: loss, steps per second, time left. It moves every second."""

    interval = 1.0

    def __init__(self, name: str = "fit", unit: str = "step", stream: Any = None):
        super().__init__(name, unit, stream or sys.stderr)
        self._bar: Any = None

    def update(self, step: int, num_steps: int, loss: float) -> None:
        if self._bar is None:
            self._show(lambda: self._open(total=num_steps, initial=step, unit=self.unit))
            return
        if not math.isnan(loss):
            self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.total = num_steps  # fewer, where some of the work turned out not to be needed
        self._show(lambda: self._bar.update(step - self._bar.n))

    def close(self) -> None:
        self._stop()
        if self._bar is not None:
            self._show(self._bar.close)

    @contextlib.contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Show what is done before or after, with its time; it leaves the terminal as it was."""
        shown = BarProgress(words, stream=self._stream)
        shown._show(lambda: shown._open(total=None, leave=False, bar_format="{desc}: {elapsed}"))
        with contextlib.closing(shown):
            yield

    def tick(self) -> None:
        self._bar.refresh()

    def _open(self, **options: Any) -> None:
        from tqdm import tqdm

        unknown = self._stream.isatty() and not all(os.get_terminal_size(self._stream.fileno()))
        # a terminal that does not know its size says that it is 0 by 0, and there tqdm shows nothing
        size: dict[str, Any] = {"ncols": 80, "nrows": 24} if unknown else {"dynamic_ncols": True}
        self._bar = tqdm(desc=self.name, file=self._stream, **size, **options)
        self._start()


class LineProgress(_Shown):
    """Plain lines for a log: at the start, every half minute, and at the end."""

    interval = 30.0

    def __init__(self, name: str = "fit", unit: str = "step", stream: Any = None):
        super().__init__(name, unit, stream or sys.stderr)
        self._state: tuple[int, int, float] | None = None

    def update(self, step: int, num_steps: int, loss: float) -> None:
        first, self._state = self._state is None, (step, num_steps, loss)
        if first:
            self._show(self.tick)
            self._start()

    def close(self) -> None:
        if self._done.is_set():
            return
        self._stop()
        if self._state is not None:
            self._show(self.tick)

    @contextlib.contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Show what is done before or after: a line, and one every half minute."""
        shown = LineProgress(words, stream=self._stream)
        shown._show(shown.tick)
        shown._start()
        with contextlib.closing(shown):
            yield

    def tick(self) -> None:
        line = self.name
        if self._state is not None:
            step, num_steps, loss = self._state
            line += f": {step} of {num_steps} {self.unit}s" + ("" if math.isnan(loss) else f", loss {loss:.4g}")
        passed = f", {self.seconds}" if time.perf_counter() - self._began >= 1 else ""
        self._stream.write(f"{line}{passed}\n")
        self._stream.flush()


def make_progress(show: bool | Progress | None, name: str = "fit", unit: str = "step") -> Progress:
    """Make a bar on a terminal or in a notebook, and lines in a log, if `show`; a `Progress` as it is.

    None: only where stderr is a terminal. Nothing is shown where there is no stderr, as in a daemon.
    """
    if isinstance(show, Progress):
        return show
    stream = sys.stderr
    if show is False or stream is None or getattr(stream, "closed", False):
        return SilentProgress()
    terminal = stream.isatty()
    if terminal or (show and "ipykernel" in type(stream).__module__):
        return BarProgress(name, unit, stream)
    return LineProgress(name, unit, stream) if show else SilentProgress()


def stage(show: bool | Progress | None, words: str) -> contextlib.AbstractContextManager[None]:
    """Show what is done before or after a loop, where `make_progress` shows the loop; users' own are not told."""
    progress = make_progress(show)
    return progress.stage(words) if isinstance(progress, BarProgress | LineProgress) else contextlib.nullcontext()


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
    """Read the entries of a ``metrics.jsonl``; a last line cut short by a crash is left out, and no file is no
    entry.
    """
    if not path.exists():  # of a run that takes no step
        return []
    lines = path.read_text(errors="replace").splitlines()
    entries = []
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError(f"line {number + 1} is no entry: {line[:50]!r}")
            entries.append(entry)
        except ValueError as error:
            if number + 1 < len(lines):
                raise damaged(path, error) from error
    return entries
