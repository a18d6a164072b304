"""What the process does with memory that it has freed."""

import ctypes
import platform

# From glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Lets blocks of up to 1 GiB be used again instead of being given back to the system.

    On a CPU, XLA allocates the memory of a step's inner arrays anew for each step. glibc takes what
    is large straight from the system, and the system clears each page when it is first touched: a
    fifth of the time of the quickstart's steps. All threads share one heap, since those that
    glibc makes for threads hold no block of more than 64 MB; so call this before jax starts its
    threads. Elsewhere than in glibc, nothing is done.

    Returns:
      Whether it is so now.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {
        _M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: _KEPT_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES
    }  # fmt: skip
    return all([libc.mallopt(name, value) == 1 for name, value in settings.items()])
