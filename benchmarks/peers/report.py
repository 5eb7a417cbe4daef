"""What the peers' runners share: inputs, phases, the report. Standard library only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# clipcls's default template set, prompts/templates/photo.txt.
TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
)

_phases: dict[str, float] = {}
_start = time.perf_counter()


def phase(name: str) -> None:
    """Ends a phase: what passed since the last one took this name's time."""
    global _start
    now = time.perf_counter()
    _phases[name] = round(now - _start, 4)
    _start = now


def lines(path: str) -> list[str]:
    """A label file's labels."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def images(folder: str) -> list[str]:
    """A folder's images, in order."""
    found = sorted(str(path) for path in Path(folder).glob("*.jpg"))
    return found or sys.exit(f"{folder}: there are no .jpg files")


def until(items: list[str], seconds: float, size: int = 1) -> Iterator[list[str]]:
    """Batches of items; no more after so many seconds."""
    end = time.perf_counter() + seconds
    for start in range(0, len(items), size):
        if time.perf_counter() > end:
            return
        yield items[start : start + size]


def report(done: int, total: int, phase: str = "images") -> None:
    """Says, as the last line of stdout, how it went; the driver measures time and memory.

    Args:
        done: how much of the phase's work is finished.
        total: how much there was: more than `done` after it was stopped early.
        phase: the phase that the driver then extrapolates.
    """
    print("\n" + json.dumps({"done": done, "total": total, "phase": phase, "phases": _phases}))
