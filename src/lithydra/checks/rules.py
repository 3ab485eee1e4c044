"""Rules for values: `value in rule` says whether a value is valid, `str(rule)` what is allowed."""

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

LARGEST = 2**63 - 1
LONGEST_SHOWN = 80  # characters
LONGEST_NAME, LONGEST_PATH = 255, 3000  # bytes, of what Linux takes (4,096 the path) with room for a run's files


@dataclass(frozen=True)
class Number:
    """A number between bounds; `whole` refuses fractions, `odd` even ones. A bound that is left out is None."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False
    odd: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return (
            self.holds(value)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.odd or value % 2 == 1)
        )

    @staticmethod
    def holds(value: int | float) -> bool:
        """Whether torch and numpy have a number of this size: whole ones go to 64 bits."""
        return -LARGEST <= value <= LARGEST if isinstance(value, int) else math.isfinite(value)

    def __str__(self) -> str:
        bounds = [
            ("at least", self.least),
            ("at most", self.most),
            ("above", self.above),
            ("below", self.below),
        ]
        kind = "an odd number" if self.odd else "a whole number" if self.whole else "a number"
        return " ".join([kind, " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)]).strip()


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    options: tuple[object, ...]

    def __contains__(self, value: object) -> bool:
        return any(value is option or (type(value) is type(option) and value == option) for option in self.options)

    def __str__(self) -> str:
        options = dict.fromkeys(shown(option) or "''" for option in self.options)  # 16 and '16' look alike
        return ("one of " if len(options) > 1 else "") + ", ".join(options)


@dataclass(frozen=True)
class ListOf:
    """A list, each item of which obeys `item`."""

    item: Any
    min_length: int = 0
    max_length: int | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, list) or len(value) < self.min_length:
            return False
        fits = self.max_length is None or len(value) <= self.max_length
        return fits and (self.item is Any or all(x in self.item for x in value))

    def __str__(self) -> str:
        bound = f", at least {self.min_length} of them" if self.min_length else ""
        bound = f", {self.max_length} of them" if self.max_length else bound
        return "a list" if self.item is Any else f"a list, each item {self.item}{bound}"


@dataclass(frozen=True)
class Text:
    """A piece of text that is not empty."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "a piece of text"


@dataclass(frozen=True)
class Metric:
    """The name of a metric that may choose: never one of the test split."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and value != "" and value.isprintable() and not value.startswith("test/")

    def __str__(self) -> str:
        return "the name of a metric of validation or training, as val/acc"


@dataclass(frozen=True)
class Threshold:
    """A metric and the number that it is to reach."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and self.parts(value) is not None

    def __str__(self) -> str:
        return "a metric, >= or <=, and a number, as val/acc >= 0.9"

    def parts(self, text: str) -> tuple[str, str, float] | None:
        """Metric, sign and number; None where the text is not of this form."""
        form = re.fullmatch(r"\s*(\S+?)\s*(>=|<=)\s*(\S+)\s*", text)
        with suppress(ValueError):
            return (form[1], form[2], float(form[3])) if form else None
        return None


@dataclass(frozen=True)
class FilePath:
    """A path that a file system takes."""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, str) or not value or "\0" in value:
            return False
        encoded = os.fsencode(value)
        return len(encoded) <= LONGEST_PATH and all(len(name) <= LONGEST_NAME for name in encoded.split(b"/"))

    def __str__(self) -> str:
        return f"a path, each name in it at most {LONGEST_NAME} bytes"


@dataclass(frozen=True)
class Group:
    """A group of settings."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "a group of settings"


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
TEXT = Text()
PATH = FilePath()
FLAG = Choice((True, False))
METRIC = Metric()
THRESHOLD = Threshold()
MODE = Choice(("min", "max"))  # whether less or more is better
SEED = Number(least=0, most=2**32 - 1, whole=True)
WHOLE = Number(least=0, whole=True)
COUNT = Number(least=1, whole=True)
ODD = Number(least=1, whole=True, odd=True)
POSITIVE = Number(above=0)
NOT_NEGATIVE = Number(least=0)
FRACTION = Number(least=0, below=1)
PROBABILITY = Number(least=0, most=1)


def optional(rule: Any) -> AnyOf:
    return AnyOf((NULL, rule))


def shown(value: object) -> str:
    """A value as it is typed, in one line that is not long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, list):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = str(value)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
