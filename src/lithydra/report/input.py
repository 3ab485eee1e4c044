"""What a sweep's report is made of."""

from functools import cached_property
from pathlib import Path

from lithydra.overrides import FOLDED
from lithydra.report.verdicts import Outcome, judge
from lithydra.sweeps.directory import Plan, SweepDir
from lithydra.sweeps.results import Frame, Setting, curves, ranked_settings, results, varied


class ReportData:
    """All that a report is made of, read once."""

    def __init__(self, path: Path) -> None:
        self.directory = SweepDir.open(path)
        self.plan: Plan = self.directory.read()
        self.frame: Frame = results(path)
        self.axes = varied(self.plan)
        self.epochs: Frame = curves(self.frame, self.axes)
        self.settings = ranked_settings(self.frame, self.plan)
        self.metric, self.mode = self.plan.objective["metric"], self.plan.objective["mode"]
        self.folded = [axis for axis in FOLDED if len(self.plan.axes.get(axis, [])) > 1]
        self.is_search = any((path / name).exists() for name in ("optuna.db", "optuna.log"))

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
