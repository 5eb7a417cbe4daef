"""Signatures of journals' lines: HMAC-SHA256 under a secret of this user on this machine."""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from clipcls.errors import InputError, os_reason
from clipcls.files.atomic import temporary_path, write_new
from clipcls.files.folders import find_user_folder, sync_folder

_MAC_DIGITS = 32
_KEY_BYTES = 32


@dataclass(slots=True)
class Signer:
    """Signs line after line, each together with all those before it."""

    key: bytes
    mac: bytes = b""

    def sign(self, line: bytes) -> bytes:
        """A JSON object with its `mac` at the end, and a line break."""
        self.mac = hmac.digest(self.key, self.mac + line, "sha256")
        return b'%b, "mac": "%b"}\n' % (line[:-1], self.mac.hex()[:_MAC_DIGITS].encode())

    def verifies(self, line: bytes) -> bool:
        """Whether `sign` wrote this line after those that were verified before."""
        unsigned = line[: -len(', "mac": ""}\n') - _MAC_DIGITS] + b"}"
        return hmac.compare_digest(self.sign(unsigned), line)


def new_key() -> bytes:
    """A new secret."""
    return secrets.token_bytes(_KEY_BYTES)


def key_path() -> Path | None:
    """Where the secret is kept that signs this user's journals; None without a home folder."""
    folder = find_user_folder("state")
    return folder and folder / "journal.key"


def read_key() -> bytes | None:
    """The secret; None if none was made yet. `InputError` if it cannot be read."""
    path = key_path()
    try:
        key = path.read_bytes() if path else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os_reason(error)})") from error
    if key is not None and len(key) != _KEY_BYTES:
        raise InputError(f"{path}: is damaged; delete it")
    return key


def make_key() -> bytes:
    """The secret, made if it does not exist: whole or not at all, and readable by this user alone.

    Raises:
        InputError: none exists, and none can be made.
    """
    path = key_path()
    if path is None:
        raise InputError("this user has no home folder")
    if (key := read_key()) is not None:
        return key
    key = new_key()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_path(path) as part:
            write_new(part, key, mode=0o600)
            try:
                os.link(part, path)
            except FileExistsError:  # another run was quicker
                return make_key()
            except OSError:  # a file system without hard links
                os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({os_reason(error)})") from error
    sync_folder(path.parent)
    return key
