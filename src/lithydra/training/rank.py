"""A further process of a run on several devices: `python -m lithydra.training.rank`, started by the main one.

It is given its job as a line of JSON on stdin, and ends when that is closed: the main process is gone then.
"""

import json
import os
import signal
import sys
import threading
import traceback

from lithydra.errors import LithydraError
from lithydra.run.signals import EXIT_CODES
from lithydra.training.importing import collector_at_rest


def main() -> None:
    for number, code in EXIT_CODES.items():  # until the run takes them over
        signal.signal(number, lambda *_, code=code: os._exit(code))
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    os._exit(_carry_out(job))


def _end_with_the_main_process() -> None:
    os.read(0, 1)
    os._exit(1)


def _carry_out(job: dict) -> int:
    try:
        with collector_at_rest():
            from omegaconf import OmegaConf

            from lithydra.logs import set_up_logging
            from lithydra.training.train import train

        set_up_logging()
        train(OmegaConf.create(job["config"]), job["choices"], job["overrides"])  # pyright: ignore[reportArgumentType]
        return 0
    except LithydraError as error:
        print(f"error: {error}")
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main()
