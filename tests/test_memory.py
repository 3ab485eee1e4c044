import os
import platform
import resource

import numpy as np
import pytest

from lithydra.memory import keep_freed_memory

BYTES = 64 * 2**20  # more than what glibc keeps by itself


def page_faults(keep: bool) -> int:
    """Of a forked process that allocates, fills and frees the same block ten times."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            assert not keep or keep_freed_memory()
            np.ones(BYTES, np.uint8)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                np.ones(BYTES, np.uint8)
            os.write(writing, str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading) as file:
        return int(file.read())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_the_system() -> None:
    assert page_faults(keep=True) * 10 < page_faults(keep=False)


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
