"""Memory that a training step frees stays with the process, for the next step."""

import ctypes
import platform

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
