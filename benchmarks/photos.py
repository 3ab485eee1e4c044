"""Seconds from the command to the end of the first step with one's own photos, which the first run decodes.

python benchmarks/photos.py
"""

import argparse
import sys
import tempfile
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from time import time

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lithydra.errors import LithydraError
from speed.processes import ROOT, machine, run
from speed.result import read_result

CLASSES = ("cat", "dog")
SIZE = (640, 480)  # pixels of a photo
SIDE = 64  # pixels of what is trained on
SETTINGS = ("data.batch_size=16", "model=cnn", "callbacks=none", "logger=none", "test=false", "trainer.max_steps=1")
CLOCK = "+callbacks.clock._target_=speed.clock.FirstStepClock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=5_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="they are written there, and taken away")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=options.output) as folder:
            compare(Path(folder), options.photos, options.repetitions)
    except LithydraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def compare(folder: Path, num_photos: int, repetitions: int) -> None:
    """Print the seconds of the first run, of the next, and of one with a prepared set of as many pixels."""
    write_photos(folder / "photos", num_photos)
    write_npz(folder / "prepared.npz", num_photos)
    photos = ("data=image_folder", f"data.path={folder.resolve()}/photos", f"data.image_size={SIDE}")
    commands = {
        "photos, first run": photos,
        "photos, later runs": photos,
        "an npz of as many pixels": ("data=npz", f"data.path={folder.resolve()}/prepared.npz"),
    }
    seconds: dict[str, list[float]] = {what: [] for what in commands}
    for repetition in range(repetitions):
        data = folder / f"data{repetition}"  # where decoded images are kept: nothing yet
        data.mkdir()
        for number, (what, settings) in enumerate(commands.items()):
            seconds[what].append(seconds_to_the_first_step(settings, folder / f"run{repetition}{number}", data))
    found = machine(folder, folder)["machine"]
    table = Table(
        "what", "median, s", "each, s", title=f"{num_photos:,} JPEG of {SIZE[0]} x {SIZE[1]} to {SIDE} x {SIDE}"
    )
    for what, each in seconds.items():
        table.add_row(what, f"{np.median(each):.1f}", " ".join(f"{value:.1f}" for value in each))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{found['cpu']}, {found['cores']} cores; the imports count, too")


def seconds_to_the_first_step(settings: tuple[str, ...], directory: Path, data: Path) -> float:
    directory.mkdir()
    started = time()
    run([sys.executable, str(ROOT / "train.py"), *settings, *SETTINGS, CLOCK, "run=run"], directory, data, "photos")
    return read_result(directory)["first_step"] - started


def write_photos(folder: Path, count: int) -> None:
    """Clouds with a little noise, about 115 kB each, as a camera's JPEG of that size."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    with Pool() as pool:
        drawn = pool.imap_unordered(partial(_write_photo, folder), range(count), chunksize=16)
        for _ in track(drawn, "drawing photos", count):
            pass


def _write_photo(folder: Path, number: int) -> None:
    generator = np.random.default_rng(number)
    clouds = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        SIZE, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(clouds) + generator.normal(0, 8, (SIZE[1], SIZE[0], 1))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    image.save(folder / CLASSES[number % len(CLASSES)] / f"{number}.jpg", quality=90)


def write_npz(path: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % len(CLASSES)
    part = count // 5
    np.savez(path, x_train=images[part:], y_train=labels[part:], x_test=images[:part], y_test=labels[:part])


if __name__ == "__main__":
    main()
