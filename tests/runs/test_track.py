"""Progress: it moves on a terminal, is plain lines in a log, and never breaks the work."""

import io
import math
import os
import pty
import re
import sys
import time

import pytest

from pdae_jax.evaluation.table import _collected
from pdae_jax.runs.track import BarProgress, LineProgress, SilentProgress, make_progress, stage


class Terminal(io.TextIOWrapper):
    """A stream that is a terminal of a size, and what was written to it."""

    def __init__(self, columns, rows):
        self.master, slave = pty.openpty()
        super().__init__(os.fdopen(slave, "wb", buffering=0), write_through=True)
        os.set_blocking(self.master, False)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self):
        super().close()
        if self.master is not None:
            os.close(self.master)
            self.master = None

    def shown(self):
        return os.read(self.master, 1 << 20).decode()


@pytest.mark.parametrize("size", [(100, 30), (0, 0)])
@pytest.mark.parametrize("show", [None, True])
def test_a_bar_moves_on_a_terminal_though_there_is_no_news(size, show, monkeypatch, request):
    stream = Terminal(*size)
    request.addfinalizer(stream.close)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(BarProgress, "interval", 0.02)
    bar = make_progress(show, "fit")
    bar.update(0, 10, math.nan)
    time.sleep(0.3)
    before = stream.shown()
    time.sleep(0.3)
    assert before.count("\rfit: ") > 3 and stream.shown().count("\rfit: ") > 3
    bar.update(10, 10, 0.25)
    bar.close()
    assert "10/10" in (last := stream.shown()) and "loss=0.25" in last
    with stage(show, "Reading cells.csv"):
        time.sleep(0.1)
    assert stream.shown().count("Reading cells.csv") > 2


def test_a_log_gets_plain_lines(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(LineProgress, "interval", 0.05)
    with stage(True, "Reading cells.csv"):
        assert stream.getvalue() == "Reading cells.csv\n"  # at once
        time.sleep(0.3)
    bar = make_progress(True, "evaluate", "condition")
    bar.update(0, 4, math.nan)
    bar.update(3, 4, 0.5)
    time.sleep(0.3)
    bar.update(4, 4, 0.5)
    bar.close()
    bar.close()
    lines = stream.getvalue().splitlines()
    assert lines.count("Reading cells.csv") >= 3
    assert "evaluate: 0 of 4 conditions" in lines and "evaluate: 3 of 4 conditions, loss 0.5" in lines
    assert [line for line in lines if line.startswith("evaluate: 4 of 4")] == [lines[-1]]
    assert "\r" not in stream.getvalue()


def test_a_log_gets_a_line_each_half_minute_and_a_terminal_moves_each_second():
    assert (BarProgress.interval, LineProgress.interval) == (1.0, 30.0)


@pytest.mark.parametrize("show", [None, True, False])
def test_without_anybody_who_looks_there_is_silence(show, monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        bar = make_progress(show)
        assert isinstance(bar, SilentProgress)
        with stage(show, "Reading"):
            bar.update(0, 1, math.nan)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    make_progress(None).update(0, 1, math.nan)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("kind", [BarProgress, LineProgress])
def test_a_terminal_that_goes_away_does_not_end_the_work(kind):
    stream = io.StringIO()
    bar = kind("fit", stream=stream)
    bar.update(0, 3, math.nan)
    stream.close()
    bar.update(1, 3, 0.5)
    bar.update(3, 3, 0.5)
    bar.close()


def test_an_evaluation_that_is_stopped_says_what_is_lost():
    def found():
        yield [{"value": 1.0}]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=re.escape("Stopped after 1 of 3 conditions. Their rows are lost")):
        _collected(found(), 3, False)
    assert _collected(iter([[1], [2, 3]]), 2, False) == [1, 2, 3]
