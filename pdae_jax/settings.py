"""What a setting may be: kinds of values, each of which returns a plain value or says what is wrong, with its name."""

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np


class Kind(Protocol):
    """The values that a setting may have."""

    def checked(self, name: str, value: Any) -> Any:
        """Return the value as a plain one; ``TypeError`` or ``ValueError`` with the name, what was found and the
        fix.
        """
        ...


class Whole(NamedTuple):
    """A whole number; one of NumPy, or a float that is whole, becomes an ``int``."""

    least: int = 1
    why: str = ""  # not less, for the message

    def checked(self, name: str, value: Any) -> int:
        value = plain_number(value)
        if not _is_number(value) or value != value or math.isinf(value) or value != int(value):
            raise TypeError(f"{name}={value!r}, but it must be a whole number, {self.least} or greater.")
        if value < self.least:
            more = "greater than 0" if self.least == 1 else f"{self.least} or greater"
            raise ValueError(f"{name}={value!r}, but it must be {more}{self.why and f': {self.why}'}.")
        return int(value)


class Real(NamedTuple):
    """A number in a range; infinity too where the range has no upper end."""

    low: float = 0.0
    high: float = math.inf
    ends: tuple[bool, bool] = (True, True)  # whether they belong to the range
    why: str = ""

    def checked(self, name: str, value: Any) -> float | int:
        value = plain_number(value)
        if not _is_number(value):
            raise TypeError(f"{name}={value!r}, but it must be a number, {self._range}.")
        low = value >= self.low if self.ends[0] else value > self.low
        high = value <= self.high if self.ends[1] else value < self.high
        if not (low and high):  # NaN is in no range
            raise ValueError(f"{name}={value!r}, but it must be {self._range}{self.why and f': {self.why}'}.")
        return value

    @property
    def _range(self) -> str:
        low = f"{self.low:g} or greater" if self.ends[0] else f"greater than {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low}, and {f'at most {self.high:g}' if self.ends[1] else f'below {self.high:g}'}"


class Flag(NamedTuple):
    """True or False."""

    def checked(self, name: str, value: Any) -> bool:
        value = plain_number(value)
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}, but it must be True or False.")
        return value


class OneOf(NamedTuple):
    """One of some words."""

    words: tuple[str, ...]

    def checked(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(f"{name}={value!r} is not known; pass one of {', '.join(self.words)}.")
        return str(value)


class Several(NamedTuple):
    """A tuple of values of one kind."""

    each: Kind
    least: int = 0
    example: str = ""

    def checked(self, name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
            example = f"({value!r},)" if _is_number(value) else self.example
            raise TypeError(f"{name}={value!r} is no tuple. Pass {name}={example}.")
        values = tuple(self.each.checked(f"{name}[{number}]", each) for number, each in enumerate(value))
        if len(values) < self.least:
            raise ValueError(f"{name} is empty. Pass at least {self.least}, {name}={self.example}.")
        return values


def plain_number(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
