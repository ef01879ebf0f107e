"""Locks on open files, which the operating system releases when the process ends, however it ends.

The package filelock is not used: on a file system without locks it fails, or falls back to lock files that stay behind
when a process is killed.
"""

from __future__ import annotations

import errno
from typing import IO

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


def lock_file(file: IO[bytes], *, wait: bool) -> bool:
    """Locks an open file, and returns whether this process has the lock now.

    On a file system without locks, a process that waits goes on as if it were alone, and one that does not wait gets
    no lock.
    """
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(file, wait=wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        return wait and error.errno in _NO_LOCKS
    return True


def _lock_on_windows(file: IO[bytes], *, wait: bool) -> bool:
    import msvcrt

    # By name, since type checkers know these on Windows only.
    mode = getattr(msvcrt, "LK_LOCK" if wait else "LK_NBLCK")
    try:
        getattr(msvcrt, "locking")(file.fileno(), mode, 1)  # noqa: B009
    except OSError:
        return False
    return True
