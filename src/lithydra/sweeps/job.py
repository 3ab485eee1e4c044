"""One job of a sweep, under whatever launcher: goes on where the job stands and writes down how it ended."""

import logging
import shutil
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lithydra.errors import LithydraError
from lithydra.run.config import frozen, trainable
from lithydra.run.directory import RunDir, now
from lithydra.run.locks import wait_until_free
from lithydra.sweeps.directory import ENDED, FAILED, Job, SweepDir

log = logging.getLogger(__name__)

LAST_SECONDS = 60  # that a job of a killed command may take to save and end


def run_job(directory: Path, name: str, command: DictConfig) -> float | None:
    """Train a job of the sweep in `directory` from its frozen config, unless it has ended before.

    Args:
        command: The config that the command line gives by itself.

    Returns:
        Its objective: the monitored metric at the best epoch. None where there is none; status.json says why.
    """
    sweep = SweepDir(directory)
    job = sweep.job(name)
    trainable(sweep.config(job), f"sweep.job={name}", frozen(command), command)
    if begin(sweep, job):
        carry_out(sweep, job)
    return sweep.objective(job, sweep.read()) if sweep.state(job) == "finished" else None


def begin(sweep: SweepDir, job: Job) -> bool:
    """Whether the job is to run. What a run that never came to a checkpoint has left is removed."""
    run = sweep.run(job)
    if not wait_until_free(run, LAST_SECONDS):
        log.error("%s: in use by another process", run.path)
        return False
    if sweep.state(job) in ENDED or _stopped(sweep):
        return False
    if not _has_checkpoint(run):
        shutil.rmtree(run.path, ignore_errors=True)
    run.path.mkdir(parents=True, exist_ok=True)
    return True


def carry_out(sweep: SweepDir, job: Job) -> int:
    """Train; returns the exit code that a single run would have. Only what ends the process leaves as an exception."""
    from lithydra.training.train import train  # imports torch, which only the process that trains should

    run = sweep.run(job)
    config: DictConfig = OmegaConf.create(sweep.config(job))  # pyright: ignore[reportAssignmentType]
    resume = _has_checkpoint(run)
    config.run, config.resume = (None, str(run.path)) if resume else (str(run.path), None)
    command, sys.argv = sys.argv, ["train.py", *job.overrides]
    before = _times(run)
    try:
        train(config, dict(job.choices), list(job.overrides))
    except (KeyboardInterrupt, SystemExit):  # what a queue stops, it starts again
        if run.status.exists():
            run.update_status(state="interrupted", error=None)
        raise
    except Exception as error:
        if _times(run) == before:
            _record(run, sweep, job, error)
        return error.exit_code if isinstance(error, LithydraError) else 1
    finally:
        sys.argv = command
    return 0


def fail(sweep: SweepDir, job: Job, message: str) -> None:
    """Write down a failure that the job itself could not."""
    run = sweep.run(job)
    run.path.mkdir(parents=True, exist_ok=True)
    _complete(run, sweep, job)
    run.update_status(state="failed", error=message, finished=now())


def settle(sweep: SweepDir, job: Job) -> None:
    """A job whose process has ended while its status says that it runs was killed."""
    run = sweep.run(job)
    if sweep.state(job) == "running" and wait_until_free(run, 1) and sweep.state(job) == "running":
        run.update_status(state="failed", error="its process ended without a word (killed from outside?)")


def retry(sweep: SweepDir, job: Job) -> None:
    """A failed job resumes from its last checkpoint; a diverged one starts anew, as it would lead there again."""
    run = sweep.run(job)
    if sweep.state(job) == "diverged":
        shutil.rmtree(run.path)
    else:
        run.update_status(state="interrupted")


def _times(run: RunDir) -> tuple[str | None, str | None]:
    """When the run began and ended: these differ once it keeps its own record."""
    status = run.read_status()
    return status.get("started"), status.get("finished")


def _record(run: RunDir, sweep: SweepDir, job: Job, error: Exception) -> None:
    """What fails before the run has begun to keep its own record still gets one, and is said in the job's log."""
    log.error("%s", error, exc_info=not isinstance(error, LithydraError))
    run.path.mkdir(parents=True, exist_ok=True)
    _complete(run, sweep, job)
    state = error.state if isinstance(error, LithydraError) else "failed"
    run.update_status(state=state, error=str(error) or type(error).__name__, finished=now())


def _complete(run: RunDir, sweep: SweepDir, job: Job) -> None:
    if not run.config.exists():
        run.write_config(sweep.config(job))


def _stopped(sweep: SweepDir) -> bool:
    """With sweep.on_error=stop, the first failure among this command's jobs keeps the others from starting."""
    plan = sweep.read()
    if plan.invocation.get("on_error") != "stop":
        return False
    names = set(plan.invocation.get("jobs", []))
    return any(sweep.state(job) in FAILED for job in plan.jobs if job.name in names)


def _has_checkpoint(run: RunDir) -> bool:
    return run.config.exists() and any(path.exists() for path in (run.last, run.previous, run.best))
