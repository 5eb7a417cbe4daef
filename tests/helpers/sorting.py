"""What the tests of `sort` share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from clipcls.labels.names import split_levels
from clipcls.predictions import Prediction
from helpers.predictions import predicted


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_600_000_000, 1_600_000_000))
    return folder


def results(*rows: tuple[str, str]) -> list[Prediction]:
    """("a.jpg", "cat") or ("a.jpg", "cat|dog") or ("a.jpg", "animal > dog"); "" is unknown."""
    return [
        predicted(path, *(split_levels(label) for label in labels.split("|") if label))
        for path, labels in rows
    ]


def sort(*arguments: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", "sort", *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done
