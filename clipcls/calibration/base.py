"""What both kinds of calibration share: the classifier that they are for, checks, the file."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from clipcls.errors import CalibrationError, InputError

if TYPE_CHECKING:
    from typing import Self

    from clipcls.labels.prompts import PromptSet
    from clipcls.models.encoder import Encoder

__all__ = [
    "BaseCalibration",
    "Identity",
    "check_images",
    "check_uncalibrated",
    "collect_versions",
]

LEAST_IMAGES = 10

_HASH_BYTES, _HASHES = 6, 5000  # that are kept of an image file's SHA-256, and of how many images


@dataclass(frozen=True, slots=True)
class Identity:
    """What a calibration is made for, and refused without.

    Attributes:
        model: the model's name; not compared.
        weights: SHA-256 of its weights, hex.
        precision: what it computes in; not compared, since scores are the same but for rounding.
        prompts: the template set's name; not compared.
        templates: the templates.
        labels: each label and the first 8 hex of the SHA-256 of its texts.
        background: where each label is scored on its own, first 12 hex of the SHA-256 of the
            vocabulary that it is set against; else "".
        classifier: first 12 hex of the SHA-256 of a learnt classifier's file, or "".
    """

    model: str
    weights: str
    precision: str
    prompts: str
    templates: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    background: str = ""
    classifier: str = ""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        prompts: PromptSet,
        names: Sequence[str],
        texts: Sequence[Sequence[str]],
    ) -> Identity:
        """From a model, the templates, and each label's name and texts."""
        hashes = (hashlib.sha256(json.dumps(group).encode()).hexdigest()[:8] for group in texts)
        return cls(
            encoder.name,
            encoder.weights,
            encoder.precision,
            prompts.name,
            prompts.templates,
            tuple(zip(names, hashes, strict=True)),
        )

    def difference(self, other: Identity) -> str:
        """How the calibration's identity differs from a classifier's `other`; "" if it does not."""
        if self.weights != other.weights:
            return (
                f"it is for the model {self.model} (weights {self.weights[:12]}), "
                f"not for {other.model} ({other.weights[:12]})"
            )
        if self.classifier != other.classifier:
            mine, its = (
                f"the classifier {identity.classifier}"
                if identity.classifier
                else "zero-shot answers"
                for identity in (self, other)
            )
            return f"it is for {mine}, not for {its}"
        ours, theirs = dict(self.labels), dict(other.labels)
        parts = [
            f"it was made {how} the label{'s' * (len(names) > 1)} "
            f"{', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''}"
            for how, names in (
                ("without", [name for name in theirs if name not in ours]),
                ("with", [name for name in ours if name not in theirs]),
            )
            if names
        ]
        if parts:
            return " and ".join(parts)
        if self.templates != other.templates:
            return f"it is for the prompts {self.prompts}, not for {other.prompts}" + (
                " as they are now" if self.prompts == other.prompts else ""
            )
        changed = [name for name in theirs if ours[name] != theirs[name]]
        if changed:
            return f"the label {changed[0]!r} had other synonyms or prompts"
        if self.background != other.background:
            return "labels were set against another vocabulary"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """As in a calibration's file."""
        record = asdict(self)
        for name in ("background", "classifier"):
            if not record[name]:
                del record[name]
        return record


@dataclass(frozen=True, slots=True)
class BaseCalibration:
    """What both kinds of calibration share: the classifier they are for, and a file.

    Attributes:
        identity: the classifier it is for.
        images: how many images it was made from.
        note: why its parameters are not simply the optimum, or "".
        metrics: name -> `before` and `after`, by 5-fold cross-validation: no image is measured
            with parameters that were fitted to it.
        versions: of what made it.
        made_from: first 12 hex of the SHA-256 of the image files it was made from, sorted; of more
            than 5,000 the smallest. They tell whether an image was among them, not what it shows.
    """

    form: ClassVar[str]
    purpose: ClassVar[str]  # what an error says where another kind is needed

    identity: Identity
    images: int
    note: str
    metrics: dict[str, dict[str, float]]
    versions: dict[str, str]
    made_from: tuple[str, ...] = field(default=(), kw_only=True)

    def knows(self, digest: bytes) -> bool:
        """Whether it was made from an image file with this SHA-256, as far as it has kept them."""
        key = digest[:_HASH_BYTES].hex()
        at = bisect.bisect_left(self.made_from, key)
        return self.made_from[at : at + 1] == (key,)

    def keep_images(self, digests: Iterable[bytes]) -> Self:
        """With the images it was made from, by the SHA-256 of their files; b"" is none."""
        kept = {digest[:_HASH_BYTES].hex() for digest in digests if digest}
        return replace(self, made_from=tuple(sorted(kept)[:_HASHES]))

    def check(self, identity: Identity, source: str = "the calibration") -> None:
        """Whether it is for this classifier.

        Raises:
            CalibrationError: it is not; the difference is named.
        """
        if difference := self.identity.difference(identity):
            raise CalibrationError(f"{source}: {difference}; calibrate anew")

    def to_dict(self) -> dict[str, Any]:
        """As in its file."""
        record = {**asdict(self), "made_from": ",".join(self.made_from)}
        del record["identity"]
        return {"format": self.form, **self.identity.to_dict(), **record}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes its file, which is whole or not there.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.output.writing import open_output

        with open_output(Path(path), "document") as writer:
            writer.write(self.to_dict())

    @property
    def digest(self) -> str:
        """First 12 hex of a SHA-256 of all of it; records of predictions carry it."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:12]

    @property
    def worsens_loss(self) -> bool:
        """Whether scores of held-out images fit worse with it, by their log loss."""
        nll = self.metrics["nll"]
        return round(nll["after"], 3) > round(nll["before"], 3)

    def promises(self) -> str:
        """One line: what these images allow to ask of it; "" where nothing is promised."""
        return ""


def check_uncalibrated(calibration: BaseCalibration | None) -> None:
    """Refuses to calibrate what has a calibration.

    Raises:
        CalibrationError: it has.
    """
    if calibration is not None:
        raise CalibrationError("this classifier is calibrated already; take one without")


def check_images(n: int) -> None:
    """Refuses to calibrate with too few images.

    Raises:
        InputError: they are.
    """
    if n < LEAST_IMAGES:
        raise InputError(
            f"{n} labelled image{'s are' if n > 1 else ' is'} too few to calibrate with; "
            f"give {LEAST_IMAGES} or more"
        )


def collect_versions() -> dict[str, str]:
    """Of what makes a calibration."""
    import importlib.metadata

    from clipcls import __version__

    return {
        "clipcls": __version__,
        "open_clip_torch": importlib.metadata.version("open_clip_torch"),
        "numpy": np.__version__,
    }
