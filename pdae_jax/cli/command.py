"""How a command is called: its flags are read, its help is shown, and what goes wrong is said in one message."""

import contextlib
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from absl import app, flags, logging
from ml_collections import config_flags

from pdae_jax.cli.configs import leave_open, located, open_fields, read_config, split_config
from pdae_jax.cli.help import flags_for, help_of
from pdae_jax.runs.folder import FolderInUse

INTERRUPTED = 130  # status of a process that Ctrl-C has ended, as shells have it
MISUSED = 2  # status where the flags themselves are wrong
# what input, files and machines cause; anything else is a fault of ours
_EXPECTED = (
    *(ValueError, TypeError, KeyError, OSError, ImportError, FloatingPointError, MemoryError, NotImplementedError),
    FolderInUse,
)


class Call(NamedTuple):
    """Keep how a command was called."""

    door: tuple[str, ...]  # ``("pdae-jax", "run")``, or ``("python", "experiments/run.py")``
    arguments: tuple[str, ...]
    rest: tuple[str, ...] = ()  # those that are no flags
    source: str = ""  # of the config, path[:arg]

    @property
    def text(self) -> str:
        """Write the command line."""
        return shlex.join([*self.door, *self.arguments])

    @property
    def record(self) -> dict[str, str]:
        """Return what a run folder keeps of it."""
        return {"file": self.source, "command": self.text}

    def door_of(self, command: str) -> list[str]:
        """Name the door of another command, beside this one."""
        first, own = self.door
        return [first, str(pathlib.Path(own).with_name(f"{command}.py")) if own.endswith(".py") else command]


def execute(command: ModuleType, call: Call, config: str | None = None) -> int:
    """Run a command, and return the status of its process.

    Args:
        command: a module with a docstring, `define` (adds its flags) and `main`, called with their values.
        call: the door, and what follows it on the command line.
        config: the config where the command line has none; default that of the command.
    """
    found = None
    debug = any(re.fullmatch("--?debug(=(true|1))?", each) for each in call.arguments)
    try:
        with _ended_at_once_by_a_second_interrupt():
            found = _parsed(command, call, config or getattr(command, "CONFIG", None))
            if found is not None:
                logging.set_verbosity(logging.WARNING)
                command.main(*found)
        return 0
    except KeyboardInterrupt as error:
        _say(str(error) or "Stopped. The same command goes on from what is saved, or begins again.")
        return INTERRUPTED
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (flags.Error, app.UsageError) as error:
        _say(f"{error}\nSee {shlex.join(call.door)} --help.")
        return MISUSED
    except _EXPECTED as error:
        if debug:
            raise
        said = message_of(error)
        _say(f"{said}\n({flags_for(said, getattr(found and found[0], 'config', None))}--debug shows where.)")
        return 1
    except Exception:
        traceback.print_exc()
        _say("This should not happen, whatever the input. Please report it, with the lines above and your command.")
        return 1


def message_of(error: BaseException) -> str:
    """Say what an error says, without the quotes of a ``KeyError``, with its notes; its type where it says nothing."""
    if error.args and isinstance(error.args[0], BaseException):
        return message_of(error.args[0])
    if isinstance(error, KeyError) and error.args:
        said = str(error.args[0])
    elif isinstance(error, OSError) and error.strerror and not error.filename:
        said = str(error.strerror)
    else:
        said = str(error)
    return "\n".join([said or type(error).__name__, *getattr(error, "__notes__", ())])


def _parsed(command: ModuleType, call: Call, default: str | None) -> tuple[flags.FlagValues, Call] | None:
    """Read the flags, and return them with the call as it was understood; None where only help was asked for."""
    named, arguments = split_config(call.arguments)
    source = located(named or default or "")
    config = read_config(source) if source and hasattr(command, "CONFIG") else None
    values = flags.FlagValues()
    flags.DEFINE_bool("debug", False, "show where an error came from", flag_values=values)
    command.define(values)
    if any(re.fullmatch("--?(h|help|helpshort|helpfull)", each) for each in arguments):
        print(help_of(command, shlex.join(call.door), values, source, config))
        return None
    still_open = [] if config is None else open_fields(config.to_dict())
    try:
        if config is not None:
            config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=[*call.door, *arguments])
        elif hasattr(command, "CONFIG"):
            flags.DEFINE_string("config", None, "", flag_values=values)
        rest = tuple(values([shlex.join(call.door), *arguments])[1:])
        if config is not None:
            leave_open(values, still_open)
    except AttributeError as error:  # of a field that the config does not have
        raise app.UsageError(f"The config {source} has no such field: {message_of(error)}") from error
    if rest and not hasattr(command, "REST"):
        raise app.UsageError(f"{rest[0]!r} is no flag. A file of your own is passed as --config.data.path={rest[0]}.")
    return values, call._replace(rest=rest, source=source)


@contextlib.contextmanager
def _ended_at_once_by_a_second_interrupt() -> Iterator[None]:
    """Say that Ctrl-C was heard, even while a compiled program runs; the second one does not wait for its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def watch() -> None:
        count = 0
        while signals := os.read(heard, 1):
            count += signals[0] == signal.SIGINT
            if count == 1:
                _say("\nStopping at the next chance. Press Ctrl-C again to end at once.")
            elif count > 1:
                os._exit(INTERRUPTED)
        os.close(heard)

    threading.Thread(target=watch, daemon=True).start()
    before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(told)


def _say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens
        print(message, file=sys.stderr, flush=True)
