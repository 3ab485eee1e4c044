"""A finished run in the terminal."""

from rich.console import Console
from rich.table import Table

from lithydra.run.directory import PROFILE, RunDir
from lithydra.run.page import commands

PROFILE_LINES = 16  # of each file of a profiler that are printed


def print_results(run: RunDir, seconds: float, images_per_second: float | None) -> None:
    """The run's metrics by split, and the commands that a person may want next."""
    status = run.read_status()
    metrics: dict[str, float] = status["metrics"]
    table = Table("split", "loss", "accuracy", title=f"Run {run.path.name}")
    for split in ("train", "val", "test"):
        if f"{split}/loss" in metrics:
            table.add_row(split, f"{metrics[f'{split}/loss']:.4f}", f"{metrics[f'{split}/acc']:.4f}")
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(table)
    if "best_epoch" in status:
        which = f"best epoch {status['best_epoch']} of {status['epoch']}"
    else:
        which = f"last of {status['epoch']} epochs ({'not one is best' if 'val/loss' in metrics else 'no validation'})"
    speed = f", {images_per_second:,.0f} images/s in training" if images_per_second else ""
    console.print(f"{which}, {seconds:.1f} s in all{speed}")
    console.print(f"run directory  {run.path}")
    if run.page.exists():
        console.print(f"pictures       {run.page}")
    for name, command in commands(run, status).items():
        console.print(f"{name:<15}{command}")
    for profile in sorted(run.path.glob(f"*-{PROFILE}*.txt")):
        console.print(f"\n{profile}, its first lines:", *profile.read_text().splitlines()[:PROFILE_LINES], sep="\n")
