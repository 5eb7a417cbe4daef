"""What SQLite's errors say of a file: damaged, busy, or in trouble that is not its own."""

from __future__ import annotations

import sqlite3

__all__ = ["BUSY", "ERRORS", "NO_DAMAGE", "DamageError", "error_code", "error_reason"]

# What sqlite3 raises; its own message can be damaged text, too.
ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
NO_DAMAGE = BUSY | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_MISUSE,
}


class DamageError(sqlite3.DatabaseError):
    """Damage that SQLite itself does not notice."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def error_code(error: Exception) -> int | None:
    """SQLite's primary error code; None for what Python's module raises by itself."""
    if isinstance(error, UnicodeDecodeError):  # in a message that quotes the damaged schema
        return sqlite3.SQLITE_CORRUPT
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def error_reason(error: Exception) -> str:
    """What the error says, where that is text."""
    is_text = isinstance(error, UnicodeDecodeError)
    return "damaged schema" if is_text else str(error) or type(error).__name__
