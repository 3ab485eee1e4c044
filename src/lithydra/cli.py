"""The command line: one main() for all verbs, with one-line errors and the exit codes of the README.

Nothing here imports torch: `--help` and a typo cost what importing Hydra costs.
"""

import atexit
import gc
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from lithydra.checks.messages import MENDABLE, one_line
from lithydra.errors import LithydraError, first_line
from lithydra.files import as_json
from lithydra.overrides import CONF, name_paths, quote_paths, refuse_arguments, sweep_first
from lithydra.run.signals import EXIT_CODES, end_at_once_on_signal
from lithydra.verbs.help import print_help
from lithydra.verbs.table import DIRECTORY_OF, VERBS, do, wait_briefly

JSON = "--json"  # the result as one JSON object on stdout, all else on stderr


def main(verb: str) -> NoReturn:
    """`python train.py` and `python scripts/VERB.py`: compose the verb's config, do its task with it, and exit.

    Exit codes: 0 done, 1 a run failed, 2 bad input, 3 diverged, 130 or 143 interrupted. What a person can mend is one
    line on stderr; `HYDRA_FULL_ERROR=1` adds the traceback. A bug has its traceback, once, and names the run directory.
    """
    from dotenv import load_dotenv

    load_dotenv(".env")
    wait_briefly()
    end_at_once_on_signal()
    json_asked = JSON in sys.argv[1:]
    sys.argv[1:] = sweep_first([argument for argument in sys.argv[1:] if argument != JSON])
    errors: list[Exception] = []

    def guarded(config: DictConfig) -> Any:
        # Hydra puts a line of its own before an error that leaves the task; a sweep needs it to leave all the same.
        try:
            wants_json = json_asked or (verb == "runs" and config.format == "json")
            return _answer(verb, config) if wants_json else do(verb, config, own_process=True)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if not isinstance(error, MENDABLE):
                where = f"; run directory {config.run}" if config.get("run") else ""
                traceback.print_exc()
                print(f"error: {type(error).__name__}: {first_line(error, lines=2)}{where}", file=sys.stderr)
            errors.append(error)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        place = DIRECTORY_OF.get(verb)
        sys.argv[1:] = quote_paths(name_paths(sys.argv[1:], place) if place else sys.argv[1:])
        refuse_arguments(verb, json_asked)
        if verb != "train" and {"--help", "-h"} & {*sys.argv[1:]}:
            print_help(verb, VERBS[verb][0])
            sys.exit(0)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=VERBS[verb][0])(guarded)()
    except MENDABLE as error:
        errors.append(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_CODES[signal.SIGINT])
    code = _exit_code(errors[0], traceback_wanted) if errors else 0
    if sys._getframe(1).f_back is not None or _ends_as_usual():
        sys.exit(code)
    _leave(code)


def _answer(verb: str, config: DictConfig) -> None:
    """Do the work, and print what it found as one JSON object."""
    with _stdout_apart() as stdout:
        found = do(verb, config, own_process=True)
        stdout.write(json.dumps({"verb": verb, **as_json(found)}, indent=2, allow_nan=False) + "\n")


@contextmanager
def _stdout_apart() -> Iterator[IO[str]]:
    """Gives stdout; what is printed meanwhile, by libraries and other processes too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", closefd=False) as stdout:
            yield stdout
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _exit_code(error: Exception, traceback_wanted: bool) -> int:
    """Print an error that a person can mend; others are printed already."""
    if not isinstance(error, MENDABLE):
        return 1
    if traceback_wanted:
        traceback.print_exception(error)
    for line in one_line(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, LithydraError) else 2


def _ends_as_usual() -> bool:
    """Whether a GPU or other processes are to be let go of, or a prompt follows; without torch, the end is quick."""
    torch = sys.modules.get("torch")
    if torch is None or sys.flags.inspect or torch.cuda.is_initialized():
        return True
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _leave(code: int) -> NoReturn:
    """End the process without taking it apart.

    To free the half a million objects of torch and lightning one by one takes Python one to two seconds, and then the
    memory is given back anyway. All else of an end is done, as multiprocessing does it where it ends its processes.
    Not for a script that something waits for, as a profiler does.
    """
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    kinds = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    for file in (found for found in gc.get_objects() if type(found) in kinds):
        with suppress(OSError, ValueError):  # nobody reads any more, or it is closed
            file.flush()
    os._exit(code)
