"""Memory that a training step frees stays with the process; what is larger than the machine's is refused."""

import contextlib
import ctypes
import os
import platform
import re
from pathlib import Path

from lithydra.errors import ConfigError

# Of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MOST = 2**31 - 1  # bytes, the largest that mallopt takes
# Larger blocks are handed back: put among the others, a few small blocks between them make the process grow by
# hundreds of MB. Activations of a training batch are smaller than that, those of a large evaluation batch may not be.
LARGEST_KEPT = (2**26, 2**25)  # bytes; older versions of glibc refuse more than the second


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed memory back to the system; whether it agreed.

    A training step frees the activations that the next one allocates again. glibc hands blocks of that size back to the
    kernel, which clears every page when it is touched anew: on two cores a third to a half of the time of a small
    convolutional net. The peak of the process's memory stays what it is. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    agreed = any(libc.mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_KEPT)
    return bool(agreed and libc.mallopt(M_TRIM_THRESHOLD, MOST))


def require_memory(num_bytes: int, what: str) -> None:
    """Raise ConfigError if less memory is free; `what` opens the message."""
    free = free_memory()
    if free is not None and num_bytes > free:
        raise ConfigError(f"{what}: needs {_gib(num_bytes)} of memory, and {_gib(free)} are free")


def free_memory() -> int | None:
    """Bytes that a process can still get on this machine, or in its container; None where the system does not say."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # what is free cannot be told, what there is can
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError):
        found += [1024 * int(n) for n in re.findall(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())]
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
