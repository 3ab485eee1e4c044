import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lithydra.data import prepare
from lithydra.data.prepare import Arrays, Source, fingerprint, prepared
from lithydra.errors import ConfigError
from small_arrays import equal, make_arrays, make_source

PROMISE = "9. Data are prepared once, whole, and checked"

SPAWN = multiprocessing.get_context("spawn")


def has_nothing() -> Arrays:
    raise FileNotFoundError("no such folder")


def read_and_count(log: Path) -> Arrays:
    with log.open("a") as file:
        file.write("read\n")
    time.sleep(0.3)
    return make_arrays()


def prepare_with_others(path: Path, log: Path, start: Any, good: Any) -> None:
    start.wait()
    arrays = prepared(path, num_classes=3, sources=[make_source(partial(read_and_count, log))])
    good.put(equal(arrays, make_arrays()))


def prepare_and_die(path: Path, moment: str) -> None:
    def die(*_: Any, **__: Any) -> Arrays:
        os.kill(os.getpid(), signal.SIGKILL)
        return make_arrays()

    def die_writing(file: Any, **_: Any) -> None:
        file.write(b"PK half of an archive")
        file.flush()
        die()

    if moment == "writing":
        np.savez = die_writing
    prepared(path, num_classes=3, sources=[make_source(die if moment == "reading" else make_arrays)])


def test_prepared_makes_the_file_and_then_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "x.npz"
    made = prepared(path, num_classes=3, sources=[make_source(has_nothing), make_source()])
    read = prepared(path, num_classes=3, sources=[make_source(has_nothing)])
    assert equal(made, make_arrays()) and equal(read, made)
    assert sorted(os.listdir(path.parent)) == ["x.npz", "x.npz.lock"]


@pytest.mark.parametrize(
    ("num_processes", "trials"), [(4, 1), pytest.param(8, 20, marks=pytest.mark.slow)], ids=["once", "20 times"]
)
def test_processes_that_start_at_once_make_one_file(
    tmp_path: Path, num_processes: int, trials: int, record_property: Callable[[str, int], None]
) -> None:
    record_property("cases", num_processes * trials)
    for trial in range(trials):
        folder = tmp_path / str(trial)
        folder.mkdir()
        start, good = SPAWN.Barrier(num_processes), SPAWN.SimpleQueue()
        arguments = (folder / "x.npz", folder / "log", start, good)
        processes = [SPAWN.Process(target=prepare_with_others, args=arguments) for _ in range(num_processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * num_processes
        assert [good.get() for _ in processes] == [True] * num_processes
        assert (folder / "log").read_text() == "read\n"


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_killed_preparation_heals(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "x.npz"
    process = SPAWN.Process(target=prepare_and_die, args=(path, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.glob(".*.tmp"))) == (moment == "writing")
    assert equal(prepared(path, num_classes=3, sources=[make_source()]), make_arrays())
    assert sorted(os.listdir(tmp_path)) == ["x.npz", "x.npz.lock"]


def test_no_source_says_what_was_tried_and_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    sources = [Source("raw files in F", has_nothing), Source("a download", has_nothing, by_hand=False)]
    with pytest.raises(ConfigError) as caught:
        prepared(path, num_classes=3, sources=sources)
    assert str(caught.value) == (
        f"{path} is not there and cannot be made. Tried: raw files in F (no such folder); a download (no such folder). "
        f"Add {path} with x_train y_train x_test y_test, or raw files in F; data=digits needs none"
    )


def test_unfit_source_is_passed_over(tmp_path: Path) -> None:
    def two_classes() -> Arrays:
        arrays = make_arrays()
        return arrays._replace(y_train=arrays.y_train % 2, y_test=arrays.y_test % 2)

    arrays = prepared(tmp_path / "x.npz", num_classes=3, sources=[make_source(two_classes), make_source()])
    assert equal(arrays, make_arrays())


def test_unwritable_folder_works_in_memory_and_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    for _ in range(2):
        arrays = prepared(tmp_path / "data" / "x.npz", num_classes=3, sources=[make_source()])
        assert equal(arrays, make_arrays())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "x.npz cannot be written" in caplog.text


def test_full_disk_leaves_no_part_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Any, **_: Any) -> None:
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert equal(prepared(tmp_path / "x.npz", num_classes=3, sources=[make_source()]), make_arrays())
    assert "No space left on device" in caplog.text
    assert os.listdir(tmp_path) == ["x.npz.lock"]


def test_waiting_for_another_process_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Busy:
        def acquire(self, timeout: float = -1) -> str:
            if timeout > 0:
                raise prepare.Timeout("x")
            return "acquired"

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(prepare, "FileLock", lambda path: Busy())
        assert prepare._lock(tmp_path / "x.npz") == "acquired"
    assert "being made by another process" in caplog.text


def test_fingerprint_follows_the_arrays(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "x.npz") == {}
    prints = []
    for name, num_test in (("a", 6), ("b", 6), ("c", 7)):
        prepared(tmp_path / f"{name}.npz", num_classes=3, sources=[make_source(partial(make_arrays, 12, num_test))])
        prints.append(fingerprint(tmp_path / f"{name}.npz"))
    assert list(prints[0]) == ["x_train", "y_train", "x_test", "y_test"]
    assert prints[0] == prints[1]
    assert prints[0]["y_train"] == prints[2]["y_train"]
    assert prints[0]["x_test"] != prints[2]["x_test"]
