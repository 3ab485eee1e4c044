"""What a person sees of a sweep: while it runs, a live table in a terminal, lines elsewhere; at its end, a summary."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lithydra.sweeps.directory import DONE, FAILED, NOT_STARTED, Job, Plan, SweepDir

STYLES = {"finished": "green", "failed": "red", "diverged": "red", "running": "cyan"}
STYLES |= {"pruned": "yellow", "interrupted": "yellow"}
REDRAW_SECONDS = 0.5


class View:
    """Keeps time and states; draws nothing but a line for each job that ends."""

    def __init__(self, sweep: SweepDir, jobs: Sequence[Job], num_slots: int, console: Console) -> None:
        self.sweep, self.jobs, self.num_slots, self.console = sweep, jobs, num_slots, console
        self.plan = sweep.read()
        self.begun = time.monotonic()
        self.starts: dict[str, float] = {}
        self.seconds: dict[str, float] = {}  # of jobs that ended
        self.epochs = {job.name: self._max_epochs(job) for job in jobs}

    def started(self, job: Job) -> None:
        self.starts[job.name] = time.monotonic()

    def ended(self, job: Job) -> None:
        self.seconds[job.name] = time.monotonic() - self.starts.get(job.name, time.monotonic())
        self.say(job)

    def say(self, job: Job) -> None:
        count = f"[{len(self.seconds)}/{len(self.jobs)}]"
        self.console.print(f"{count} {job.name}: {self.outcome(job)}", markup=False)

    def refresh(self) -> None:
        pass

    def outcome(self, job: Job) -> str:
        """How a job ended, in one line."""
        status = self.sweep.status(job)
        state = status.get("state", NOT_STARTED)
        if state in FAILED and status.get("error"):
            return f"{state}: {status['error']}"
        score = self.sweep.objective(job, self.plan)
        parts = [state]
        if score is not None:
            parts.append(f"{self.plan.objective['metric']} {score:.4f}")
        if "epoch" in status:
            parts.append(f"{status['epoch']} epochs")
        return ", ".join([*parts, f"{self.seconds[job.name]:.1f} s"])

    def remaining(self) -> float | None:
        """Seconds until the sweep ends, by the mean of the jobs that ended and the progress of those that run."""
        left = [
            self.job_remaining(job) for job in self.jobs if job.name in self.starts and job.name not in self.seconds
        ]
        known = [*self.seconds.values(), *(s for job in self.jobs if (s := self._estimate(job)) is not None)]
        if not known:
            return None
        mean = sum(known) / len(known)
        waiting = len(self.jobs) - len(self.starts)
        return (sum(mean if s is None else s for s in left) + waiting * mean) / min(self.num_slots, len(self.jobs))

    def job_remaining(self, job: Job) -> float | None:
        whole = self._estimate(job)
        return None if whole is None else max(0.0, whole - (time.monotonic() - self.starts[job.name]))

    def _estimate(self, job: Job) -> float | None:
        """Seconds that a running job takes in all, by its finished epochs."""
        if job.name not in self.starts or job.name in self.seconds:
            return None
        epoch = self.sweep.status(job).get("epoch")
        total = self.epochs[job.name]
        return (time.monotonic() - self.starts[job.name]) * total / epoch if epoch and total else None

    def _max_epochs(self, job: Job) -> int | None:
        return self.sweep.config(job)["trainer"].get("max_epochs")


class LiveView(View):
    """A table that is redrawn as the jobs go on; of a long sweep, the part that moves."""

    def __init__(self, sweep: SweepDir, jobs: Sequence[Job], num_slots: int, console: Console) -> None:
        super().__init__(sweep, jobs, num_slots, console)
        self.live = Live(console=console, auto_refresh=False)
        self._next = 0.0

    def say(self, job: Job) -> None:
        self._next = 0.0

    def refresh(self) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + REDRAW_SECONDS
            self.live.update(self.table(), refresh=True)

    def table(self) -> Table:
        rows = self._shown(self.console.height - 6)
        metric = self.plan.objective["metric"]
        table = Table("job", "state", "epoch", metric, "time", "ETA", caption=self._caption(), caption_justify="left")
        for column in table.columns[2:]:
            column.justify = "right"
        table.columns[0].overflow = "fold"
        for job in rows:
            table.add_row(*self._row(job))
        return table

    def _shown(self, limit: int) -> list[Job]:
        """All jobs, or as many as fit: those that run, then failures, then what comes next, then what ended last."""
        if len(self.jobs) <= limit:
            return list(self.jobs)

        def urgency(job: Job) -> int:
            if job.name not in self.starts:
                return 2
            if job.name not in self.seconds:
                return 0
            return 1 if self.sweep.state(job) in FAILED else 3

        chosen = sorted(self.jobs, key=urgency)[: max(limit, self.num_slots)]
        return [job for job in self.jobs if job in chosen]

    def _row(self, job: Job) -> tuple[str | Text, ...]:
        status = self.sweep.status(job)
        started = job.name in self.starts
        running = started and job.name not in self.seconds
        state = "running" if running else status.get("state", NOT_STARTED)
        score = self.sweep.objective(job, self.plan)
        elapsed = self.seconds.get(job.name, time.monotonic() - self.starts[job.name] if started else None)
        left = self.job_remaining(job) if running else None
        total = self.epochs[job.name]
        return (
            job.name,
            Text(state, style=STYLES.get(state, "dim")),
            f"{status.get('epoch', 0)}/{total}" if total and (started or status) else "",
            "" if score is None else f"{score:.4f}",
            "" if elapsed is None else clock(elapsed),
            "" if left is None else clock(left),
        )

    def _caption(self) -> str:
        states = [self.sweep.state(job) for job in self.jobs if job.name in self.seconds]
        failed = sum(state in FAILED for state in states)
        left = self.remaining()
        if not self.starts:
            return f"importing torch, {clock(time.monotonic() - self.begun)} so far"
        parts = [f"{len(states)} of {len(self.jobs)} jobs ended"]
        if failed:
            parts.append(f"{failed} failed")
        parts.append(f"{clock(time.monotonic() - self.begun)} so far")
        if left is not None and len(states) < len(self.jobs):
            parts.append(f"about {clock(left)} to go")
        return ", ".join(parts)


@contextmanager
def make_view(sweep: SweepDir, jobs: Sequence[Job], num_slots: int) -> Iterator[View]:
    """The view for the terminal or file that standard output is."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield View(sweep, jobs, num_slots, console)
        return
    view = LiveView(sweep, jobs, num_slots, Console(highlight=False))
    with view.live:
        try:
            yield view
        finally:
            view.live.update(view.table(), refresh=True)


def summary(sweep: SweepDir, plan: Plan, jobs: Sequence[Job]) -> str:
    """How many jobs finished, and the best of them."""
    metric, sign = plan.objective["metric"], 1 if plan.objective["mode"] == "max" else -1
    finished = [job for job in jobs if sweep.state(job) == "finished"]
    scores = [(score, job) for job in finished if (score := sweep.objective(job, plan)) is not None]
    text = f"{len(finished)} of {len(jobs)} jobs finished"
    if scores:
        score, job = max(scores, key=lambda pair: sign * pair[0])
        text += f"; best {metric} {score:.4f}: {job.name}"
    return text


def problem(sweep: SweepDir, job: Job) -> str | None:
    """Why a job has no result; None where it has one."""
    status = sweep.status(job)
    state = status.get("state", NOT_STARTED)
    if state in DONE:
        return None
    reason = status.get("error") if state in FAILED else None
    return f"{job.name}: {state}" + (f": {reason}" if reason else "")


def clock(seconds: float) -> str:
    """`0:07`, `12:34`, `1:02:03`."""
    text = str(timedelta(seconds=round(seconds)))
    return text[3:] if text.startswith("0:0") else text.removeprefix("0:")
