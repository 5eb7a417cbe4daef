"""Lock files that several processes write."""

from __future__ import annotations

__all__ = ["lock_descriptor"]


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file against other processes, until it and all duplicates are closed.

    The lock is on the file itself, so nothing is left behind and the lock survives a rename. There
    is none on Windows, where nobody can replace an open file and a lock would keep readers out.

    Returns:
        Whether it is locked: some file systems have no locks.

    Raises:
        BlockingIOError: another process has locked it.
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
