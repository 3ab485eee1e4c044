"""The signals that end a run, and what they do before there is one. Torch is not imported here."""

import os
import signal
import sys
from types import FrameType

# Exit codes as of a process that the signal ended; SIGUSR1 is how schedulers announce a SIGTERM.
# Windows has none.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if (usr1 := getattr(signal, "SIGUSR1", None)) is not None:
    EXIT_CODES[usr1] = 143

# Of a process's exit code: what has ended it, by its handler or without one.
SIGNALS_OF = {130: signal.SIGINT, 143: signal.SIGTERM} | {-number: number for number in EXIT_CODES}


def end_at_once_on_signal() -> None:
    """Until a run takes the signals over, they end the process at once: there is nothing to save."""
    for number in EXIT_CODES:
        signal.signal(number, _end)


def stop_on_signal() -> None:
    """For what goes on until someone stops it: that is its proper end, so the exit code is 0."""
    for number in EXIT_CODES:
        signal.signal(number, lambda *_: os._exit(0))


def _end(number: int, frame: FrameType | None) -> None:
    # Not an exception: one that is raised while a library is imported may be swallowed there.
    name = signal.Signals(number).name
    print(f"error: Stopped by {name} before the run began. The same command starts it.", file=sys.stderr, flush=True)
    os._exit(EXIT_CODES[signal.Signals(number)])
