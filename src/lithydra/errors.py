"""The errors that a person can mend: each is one line, without a traceback, and has its exit code."""

import difflib
from collections.abc import Iterable


class LithydraError(Exception):
    """A failure whose message says all that a person needs.

    `exit_code` is what the process ends with, `state` what status.json says of the run.
    """

    exit_code = 1
    state = "failed"


class ConfigError(LithydraError):
    """Bad input: a setting, a file or a combination that cannot work."""

    exit_code = 2


class DivergedError(LithydraError):
    """A loss or a weight became infinite or NaN; the last checkpoint is of before that."""

    exit_code = 3
    state = "diverged"


class RunInterrupted(LithydraError):
    """A signal asked the run to stop; what it had done is saved."""

    state = "interrupted"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: str, choices: Iterable[str]) -> str:
    """` Did you mean X?`, where X is the choice that `name` looks most like; empty where none is near."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def refuse(problems: Iterable[str]) -> None:
    """Raise one ConfigError with all problems, a line each; return where there is none."""
    if message := "\n".join(problems):
        raise ConfigError(message)


def first_line(error: BaseException, lines: int = 1) -> str:
    """The first lines of an error's message, as one; its class where it has none."""
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:lines]) or type(error).__name__
