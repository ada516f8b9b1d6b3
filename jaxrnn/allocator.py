"""Memory that a process frees and needs again at once."""

import ctypes
import platform

# Of glibc's malloc.h: what `mallopt` sets, and the largest number it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MOST = 2**31 - 1


def keep_memory() -> bool:
    """Let this process keep the memory that it frees. Call it once, before JAX computes anything.

    On a CPU, XLA takes the temporary memory of a program anew at each call, and glibc gives large blocks back to
    the system as soon as they are free. Then the system hands out, and clears, every page of them at every training
    step: for the lecture's LSTM (B = 1026, T = 19, H = 32, two layers) 30 MB, which took 8 of its 20 ms. With this
    it takes 12. The price: the process stays as large as it has ever been. All of it is concerned, PyTorch too.

    Return whether there is a glibc and it agreed; elsewhere nothing is done, nor is it known to be needed. The
    environment variable GLIBC_TUNABLES can do the same for a program that cannot be changed, see
    `docs/performance.md`.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_TRIM_THRESHOLD, _MOST), mallopt(_MMAP_THRESHOLD, _MOST), mallopt(_ARENA_MAX, 1)])
