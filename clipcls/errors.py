"""The errors of clipcls; `ClipclsError` catches all of them.

ClipclsError
├── InputError
├── LabelsError
├── PromptsError
├── ModelError
│   ├── UnknownModelError
│   └── ModelUnavailableError
├── CalibrationError
├── ClassifierError
├── NotFittedError
├── ImageError
│   ├── EmptyError
│   └── CutShortError
├── SidecarError
├── CacheError
├── ServerError
└── OutputError
    └── OutputClosedError

Each message is one line that names the file or value and says what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class ClipclsError(Exception):
    """Base of every error that clipcls raises on purpose; control characters are escaped."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class InputError(ClipclsError):
    """There are no usable images, or a list of paths cannot be read."""


class LabelsError(ClipclsError, ValueError):
    """A label list cannot be used; the message names its file and line."""


class PromptsError(ClipclsError, ValueError):
    """A template set cannot be used; the message names its file and line."""


class ModelError(ClipclsError):
    """A model cannot be loaded."""


class UnknownModelError(ModelError, ValueError):
    """No model, tag or alias has this name."""


class ModelUnavailableError(ModelError):
    """The model's weights are not on this machine and cannot be downloaded now."""


class CalibrationError(ClipclsError, ValueError):
    """A calibration is for another classifier, or cannot promise what is asked of it."""


class ClassifierError(ClipclsError, ValueError):
    """A learnt classifier's file cannot be read, or is for another model."""


class NotFittedError(ClipclsError, ValueError, AttributeError):
    """An estimator is used before `fit`; also scikit-learn's own error if that is imported."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NotFittedError, self.args  # a class made at run time cannot be pickled


def not_fitted(estimator: object) -> NotFittedError:
    """The error to raise for an estimator that is not fitted.

    It is also a `sklearn.exceptions.NotFittedError`, if that is imported already: otherwise no
    caller can name it.
    """
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    kind = _both(theirs) if theirs else NotFittedError
    return kind(f"this {type(estimator).__name__} is not fitted yet: call fit() first")


@functools.cache
def _both(theirs: Any) -> type[NotFittedError]:
    namespace = {"__doc__": NotFittedError.__doc__, "__module__": __name__}
    return type("NotFittedError", (NotFittedError, theirs), namespace)


class ImageError(ClipclsError):
    """One image cannot be read.

    Attributes:
        path: the image as the caller named it.
        reason: why, in a few words, without the path.
        kept: the cells of the table that lists the image, as far as results repeat them; or None.
    """

    def __init__(self, path: str, reason: str, kept: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.path, self.reason, self.kept)

    def to_dict(self) -> dict[str, Any]:
        """Its record, as in jsonl."""
        return {"path": self.path, "error": self.reason, **(self.kept or {})}

    def without_frames(self, kept: Mapping[str, Any] | None = None) -> ImageError:
        """A copy to keep: a raised error holds on to its frames, and so to the file and pixels."""
        return ImageError(self.path, self.reason, kept or self.kept)


class EmptyError(ImageError):
    """An image without boxes, which is not read: its label is known.

    Attributes:
        label: that label.
    """

    def __init__(self, path: str, label: str, kept: Mapping[str, Any] | None = None) -> None:
        super().__init__(path, "has no boxes", kept)
        self.label = label

    def __reduce__(self) -> tuple[Any, ...]:
        return EmptyError, (self.path, self.label, self.kept)


class CutShortError(ImageError):
    """A video that stopped downloading; what it has is read."""


class SidecarError(ClipclsError):
    """An XMP sidecar is not XMP, or changed while it was being updated."""


class CacheError(ClipclsError):
    """The embedding cache cannot be used."""


class ServerError(ClipclsError):
    """A web application cannot be served at this address."""


class OutputError(ClipclsError):
    """Results cannot be written."""


class OutputClosedError(OutputError):
    """The reading end of the pipe was closed."""


def printable(text: str) -> str:
    r"""Escape control and format characters, line ends and stray bytes, as in \x1b or \u202e.

    Raw, they can drive a terminal or reorder the text. The joiners of emoji and of Persian words
    stay.
    """
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if is_control(c) else c for c in text)


def format_count(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `1,234 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_control(character: str) -> bool:
    """Whether a terminal may act on the character instead of showing it."""
    is_joiner = character in "\u200c\u200d"
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and not is_joiner


def install_command(*names: str) -> str:
    """The command that installs extras' packages or required packages into this Python.

    It names the packages themselves, since no index need offer clipcls[...].

    Args:
        names: extras of pyproject.toml or packages that clipcls requires.
    """
    import importlib.metadata
    import importlib.util

    try:
        requirements = importlib.metadata.requires("clipcls") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    parts = [requirement.partition(";") for requirement in requirements]
    packages = [
        f'"{package.strip()}"'
        for package, _, marker in parts
        for name in re.findall(r"extra == ['\"](.*?)['\"]", marker)
        or re.findall(r"^[\w-]+", package)
        if name in names
    ]
    if not packages:  # imported from a checkout that is not installed
        packages = [f'"{Path(__file__).parents[1]}[{",".join(names)}]"']
    python = sys.executable or "python"
    if " " in python:
        python = f'"{python}"'
    has_pip = importlib.util.find_spec("pip") is not None
    pip = f"{python} -m pip install" if has_pip else f"uv pip install --python {python}"
    return " ".join([pip, *packages])


@contextlib.contextmanager
def require_extra(extra: str, what: str) -> Iterator[None]:
    """Use around the imports of an extra's packages, which `what` needs.

    Raises:
        InputError: the package is missing; the message has the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        package = error.name or "more packages"
        raise InputError(f"{what} needs {package}: {install_command(extra)}") from error


@contextlib.contextmanager
def raising(kind: type[ClipclsError]) -> Iterator[None]:
    """Turn an `InputError` into an error of this kind: that of what the file should hold."""
    try:
        yield
    except InputError as error:
        raise kind(str(error)) from error


_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "is a directory",
    errno.ELOOP: "symbolic links form a loop",
    errno.ENAMETOOLONG: "file name too long",
    errno.ENXIO: "not a regular file",
    errno.EIO: "read error (the disk may be failing)",
}


def os_reason(error: OSError) -> str:
    """Why the system refused, in a few lower-case words without the path."""
    if error.errno is None and error.strerror:  # our own words, perhaps with a name in them
        return error.strerror
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error) or "read error").lower()
