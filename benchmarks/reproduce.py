"""Run all recipes and studies that have not been run yet, and write docs/results.md from their directories.

What is on the page and has no directory here, since it ran on another machine, stays as it is.

python benchmarks/reproduce.py                      hours on a CPU; stop it and start it again as you like
python benchmarks/reproduce.py --quick              on a tenth of the data; its page goes beside its runs
python benchmarks/reproduce.py --only cifar10_cnn fashion_mnist/optimizer
python benchmarks/reproduce.py --page               run nothing, write the page anew
"""

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from lithydra.errors import ConfigError
from reproduction import page, running
from reproduction.plan import ROOT, items, note_of_studies, refuse_others


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these recipes and studies alone")
    parser.add_argument("--quick", action="store_true", help="on a tenth of the data, with fewer seeds")
    parser.add_argument("--page", action="store_true", help="run nothing, only write the page")
    parser.add_argument("--folder", type=Path, help="of the runs; default outputs/reproduce, or …/reproduce_quick")
    arguments = parser.parse_args()
    folder = arguments.folder or ROOT / "outputs" / ("reproduce_quick" if arguments.quick else "reproduce")
    target = folder / "results.md" if arguments.quick else ROOT / "docs" / "results.md"
    console = Console(highlight=False, soft_wrap=True)
    failed: list[str] = []
    try:
        found, chosen = items(folder, arguments.quick), items(folder, arguments.quick, arguments.only)
        refuse_others(found)  # the page is of all
        tasks = [] if arguments.page else running.missing(chosen, folder)
        console.print(f"{len(tasks)} to run, in {folder}")
        failed = running.run(tasks, console)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; what was running is saved, and the same command goes on.", file=sys.stderr)
        return 130
    command = shlex.join(["python", "benchmarks/reproduce.py", *(["--quick"] if arguments.quick else [])])
    page.write(target, found, quick=arguments.quick, command=command, note=note_of_studies())
    console.print(f"written        {target}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
