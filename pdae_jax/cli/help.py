"""What ``--help`` shows: the flags of a command, and the fields of a config with their meaning.

Meanings come from where they are written: the docstrings of the functions that take the fields as arguments.
"""

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from pdae_jax import build
from pdae_jax.evaluation.table import evaluate
from pdae_jax.reporting.results import write_evaluation


def help_of(command: ModuleType, door: str, values: flags.FlagValues, source: str, config: Any) -> str:
    """Write the help of a command; with a config that of its fields, too."""
    lines = [f"{door}: {inspect.getdoc(command)}", "", "Flags:"]
    for name in sorted(values):
        flag = values[name]
        if name == flag.name:
            default = "" if flag.default in (None, False) else f" (default {flag.default_as_str})"
            lines += _entry(f"--{name}", f"{flag.help or ''}{default}")
    if source:
        lines += ["", f"--config=path[:arg] is {source}", "Its fields, each of which is a flag, and their values:"]
    for section, value, meaning in _fields(config) if config is not None else ():
        lines += _entry(f"--config.{section}={value!r}", meaning)
    return "\n".join(lines)


def flags_for(message: str, config: Any) -> str:
    """Name the flags for arguments of Python that a message names, such as ``exclude=``; empty where there are none."""
    if not isinstance(config, ConfigDict):
        return ""
    fields: dict[str, Any] = config.to_dict()
    sections = {name: section for section in ("data", "split", "fit") for name in fields.get(section, ())}
    named = dict.fromkeys(re.findall(r"(?<![\w.])([a-z_]+)=", message))
    known = [f"--config.{sections[name]}.{name}=" for name in named if name in sections]
    return f"On the command line: {', '.join(known)}; lists in double quotes. " if known else ""


def meanings(function: Callable) -> dict[str, str]:
    """Read what the docstring of a function says of each argument."""
    text = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
    entries = re.finditer(r"^    \**(\w+): (.*?)(?=^    \S|\Z)", text[1] if text else "", re.DOTALL | re.MULTILINE)
    return {entry[1]: " ".join(entry[2].split()) for entry in entries}


def _fields(config: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield every field of a config: name, value, meaning."""
    make = build.KNOWN_DATA.get(config.data.get("name"))
    known = {
        "data": build.DATA | (meanings(make) if make else {}),
        "split": build.SPLIT,
        "evaluation": meanings(evaluate) | meanings(write_evaluation),
        "fit": {},
    }
    for section, about in build.SECTIONS.items():
        if section not in known:
            yield section, config[section], about
            continue
        for name in config[section]:
            value = config[section][name]
            shown = value.to_dict() if isinstance(value, ConfigDict) else value
            yield f"{section}.{name}", shown, known[section].get(name, "")


def _entry(name: str, meaning: str) -> list[str]:
    width = min(max(shutil.get_terminal_size().columns, 60), 120)
    return [f"  {name}", *textwrap.wrap(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)]
