"""What a sweep's report is made of."""

from functools import cached_property
from pathlib import Path

from lithydra.checks.rules import THRESHOLD
from lithydra.errors import ConfigError, nearest
from lithydra.overrides import FOLDED
from lithydra.report.verdicts import Outcome, judge, seconds_until
from lithydra.sweeps.directory import Plan, SweepDir
from lithydra.sweeps.results import ASKED, Frame, Setting, curves, metric_columns, ranked_settings, results, varied


class ReportData:
    """All that a report is made of, read once.

    Args:
        path: The sweep's directory.
        until: As "val/acc >= 0.9": one more figure of each run, the seconds of training until then.

    Raises:
        ConfigError: There is no sweep in `path`, or `until` cannot be read or names what no run has measured.
    """

    def __init__(self, path: Path, until: str | None = None) -> None:
        self.directory = SweepDir.open(path)
        self.plan: Plan = self.directory.read()
        self.frame: Frame = results(path)
        self.axes = varied(self.plan)
        self.epochs: Frame = curves(self.frame, self.axes)
        if until is not None:
            self._add_time(until)
        self.settings = ranked_settings(self.frame, self.plan)
        self.metric, self.mode = self.plan.objective["metric"], self.plan.objective["mode"]
        self.folded = [axis for axis in FOLDED if len(self.plan.axes.get(axis, [])) > 1]
        self.is_search = any((path / name).exists() for name in ("optuna.db", "optuna.log"))

    def _add_time(self, until: str) -> None:
        if (parts := THRESHOLD.parts(until)) is None:
            raise ConfigError(f"until={until}: must be {THRESHOLD}")
        metric, sign, value = parts
        if metric not in (measured := metric_columns(self.frame)) or metric not in self.epochs:
            raise ConfigError(f"until={until}: no run has measured {metric} by epoch.{nearest(metric, measured)}")
        times = seconds_until(self.frame, self.epochs, metric, value, at_least=sign == ">=")
        name = f"{ASKED} {metric} {'≥' if sign == '>=' else '≤'} {value:g}"
        self.frame.insert(self.frame.columns.get_loc("best_epoch"), name, times)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Of the study's rules; none where the sweep is no study."""
        return judge(self.plan, self.frame, self.epochs)

    @property
    def settings_as_given(self) -> list[Setting]:
        """Not ranked, but in the order of the jobs."""
        return sorted(self.settings, key=lambda setting: setting.jobs.index.min())

    @property
    def has_scores(self) -> bool:
        return self.metric in self.frame and bool(self.frame[self.metric].notna().any())
