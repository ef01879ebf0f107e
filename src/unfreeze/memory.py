"""Memory that one step leaves behind, and the next would add to."""

import contextlib
import ctypes
import gc


def release_memory() -> None:
    """Gives back to the system what is free: models and graphs in cycles of references, and room of the C library."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # where the C library is glibc
