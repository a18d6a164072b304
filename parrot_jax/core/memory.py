"""Settings of malloc that keep freed memory for reuse."""

import ctypes
import platform

# From glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Makes malloc reuse freed blocks of up to 1 GiB instead of returning them to the system.

    On a CPU, XLA allocates the temporary arrays of a step at every step. glibc requests large
    blocks from the system, which clears each page at its first use: a fifth of the time of the
    quickstart's steps. This also makes all threads share one heap, because glibc's heaps for
    threads hold blocks of at most 64 MB; so call it before jax starts its threads. Without glibc it
    does nothing.

    Returns:
      True if applied.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {
        _M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: _KEPT_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES
    }  # fmt: skip
    return all([libc.mallopt(name, value) == 1 for name, value in settings.items()])
