"""The command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

Run = Callable[..., tuple[int, str, str]]
