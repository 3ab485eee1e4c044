"""What a setting may be. `value in rule` tells whether it is; `str(rule)` says what is allowed."""

import math
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A number between bounds; `whole` refuses fractions. A bound that is left out is None."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = [
            ("at least", self.least),
            ("at most", self.most),
            ("above", self.above),
            ("below", self.below),
        ]
        kind = "a whole number" if self.whole else "a number"
        return " ".join([kind, " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)]).strip()


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    options: tuple[object, ...]

    def __contains__(self, value: object) -> bool:
        return any(value is option or (type(value) is type(option) and value == option) for option in self.options)

    def __str__(self) -> str:
        return "one of " + ", ".join(
            "null" if o is None else str(o).lower() if isinstance(o, bool) else str(o) for o in self.options
        )


@dataclass(frozen=True)
class ListOf:
    """A list, each item of which obeys `item`."""

    item: Any
    min_length: int = 0
    max_length: int | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, list) or len(value) < self.min_length:
            return False
        return (self.max_length is None or len(value) <= self.max_length) and all(x in self.item for x in value)

    def __str__(self) -> str:
        bound = f", at least {self.min_length} of them" if self.min_length else ""
        bound = f", {self.max_length} of them" if self.max_length else bound
        return f"a list, each item {self.item}{bound}"


@dataclass(frozen=True)
class Text:
    """A piece of text that is not empty."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "a piece of text"


@dataclass(frozen=True)
class DirectoryName:
    """A name for a directory on any file system."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9=,.+_-]{0,149}", value) is not None

    def __str__(self) -> str:
        return "a name of letters, digits and =,.+_-"


@dataclass(frozen=True)
class AnyOf:
    """What any of some rules allows."""

    rules: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return any(value in rule for rule in self.rules)

    def __str__(self) -> str:
        return ", or ".join(str(rule) for rule in self.rules)


NULL = Choice((None,))
FLAG = Choice((True, False))
SEED = Number(least=0, most=2**32 - 1, whole=True)
COUNT = Number(least=1, whole=True)
POSITIVE = Number(above=0)
NOT_NEGATIVE = Number(least=0)
FRACTION = Number(least=0, below=1)
PROBABILITY = Number(least=0, most=1)


def optional(rule: Any) -> AnyOf:
    return AnyOf((NULL, rule))
