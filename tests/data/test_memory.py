import platform
import subprocess
import sys

import pytest

from lithydra.data.memory import keep_freed_memory

# Allocates, fills and frees the same 48 MiB, more than what glibc keeps by itself, and prints the page faults.
PROGRAM = """
import resource, sys
import numpy as np
from lithydra.data.memory import keep_freed_memory
assert sys.argv[1] == "plain" or keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(3 * 2**24, np.uint8)
before = faults()
for _ in range(10):
    np.ones(3 * 2**24, np.uint8)
print(faults() - before)
"""


def page_faults(how: str) -> int:
    """Of a new process: in this one, a run may have changed the setting."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_the_system() -> None:
    assert page_faults("keep") * 10 < page_faults("plain")


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
