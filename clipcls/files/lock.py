"""The one lock of files that several processes write."""

from __future__ import annotations

__all__ = ["lock_descriptor"]


def lock_descriptor(descriptor: int) -> bool:
    """Locks an open file against other processes, until it and all duplicates of it are closed.

    The lock is on the file itself, not on a second one next to it, so that nothing is left behind
    and the lock moves with a rename. There is none on Windows, where nobody can replace or remove
    a file that is open, and where a lock would keep readers out.

    Returns:
        whether it is locked: some file systems have no locks.

    Raises:
        BlockingIOError: another process has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
