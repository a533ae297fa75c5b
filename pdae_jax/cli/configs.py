"""Config files: where they are, and what to say of one that cannot be read."""

import difflib
import importlib.util
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import config_flags

_INSTALLED = pathlib.Path(__file__).with_name("shipped")  # the wheel has those of the repository there
FOLDER = _INSTALLED if _INSTALLED.is_dir() else pathlib.Path(__file__).parents[2] / "experiments" / "configs"


class _OrNone(flags.ArgumentParser):
    """A value, or None: what a field is that is left open."""

    def __init__(self, parser: flags.ArgumentParser):
        self._parser, self.syntactic_help = parser, parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        return self._parser.flag_type()


for _kind, _parser in ((int, flags.IntegerParser()), (float, flags.FloatParser()), (bool, flags.BooleanParser())):
    config_flags.register_flag_parser_for_type(_kind, _OrNone(_parser))


def open_fields(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the flat names of the fields that are None."""
    found = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += open_fields(value, f"{prefix}{name}.")
        elif value is None:
            found.append(prefix + name)
    return found


def leave_open(values: flags.FlagValues, fields: Iterable[str]) -> None:
    """Take the word None for None in these fields, also where they are text."""
    overrides = config_flags.get_override_values(values["config"])
    for name in fields:
        if overrides.get(name) == "None":
            values.config.update_from_flattened_dict({name: None})
            overrides[name] = None


def split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the last config that arguments name, None if they name none; and the other arguments."""
    source, rest, following = None, [], iter(arguments)
    for argument in following:
        if re.fullmatch("--?config", argument):
            source = next(following, "")
        elif re.match("--?config=", argument):
            source = argument.partition("=")[2]
        else:
            rest.append(argument)
    return source, rest


def located(source: str) -> str:
    """Find ``path[:arg]`` of a config that is named by its path, or as one of ours: ``simulated:plane``."""
    path, colon, arg = source.partition(":")
    ours = FOLDER / f"{path}.py"
    return source if pathlib.Path(path).exists() or not ours.is_file() else f"{ours}{colon}{arg}"


def load_config(path: pathlib.Path) -> ModuleType:
    """Import a config file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be imported; names the file and the line.
    """
    if not path.is_file():
        ours = [each.stem for each in sorted(FOLDER.glob("*.py")) if each.stem != "base"]
        near = difflib.get_close_matches(path.stem, ours, n=1) or ours
        raise FileNotFoundError(
            f"No config file {str(path)!r}. Pass the path of one, or a name of ours: {', '.join(near)}."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"The config {str(path)!r} is no Python file. Pass one that ends in .py and has get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"The config {str(path)!r} cannot be imported: {_line(error, path)}{type(error).__name__}: {error}. "
            f"Mend the file."
        ) from error
    return module


def read_config(source: str) -> Any:
    """Make the config of ``path[:arg]``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has no ``get_config``; names the file.
    """
    name, _, arg = source.partition(":")
    path = pathlib.Path(name)
    module = load_config(path)
    if not hasattr(module, "get_config"):
        raise ValueError(
            f"The config {name!r} has no get_config(). Add one that returns a config; see base.get_config."
        )
    try:
        config = module.get_config(*([arg] if ":" in source else []))
    except Exception as error:
        raise ValueError(
            f"The config {source!r} cannot be made: {_line(error, path)}{type(error).__name__}: {error}"
        ) from error
    if config is None:
        raise ValueError(f"get_config() of {name!r} returns nothing. Add `return config`.")
    return config


def _line(error: Exception, path: pathlib.Path) -> str:
    """Say ``line 7, `` where the error passed through the file."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}, "
    trace, found = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = trace.tb_lineno
        trace = trace.tb_next
    return "" if found is None else f"line {found}, "
