"""Memory that one step leaves behind, and the next would add to."""

import contextlib
import ctypes
import gc

M_ARENA_MAX = -8  # of glibc's malloc.h


def release_memory() -> None:
    """Gives back to the system what is free: models and graphs in cycles of references, and room of the C library."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # where the C library is glibc


def one_memory_arena() -> None:
    """Let all threads share one heap where the C library is glibc: a tenth less memory at the peak, and no slower."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
