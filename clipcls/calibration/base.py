"""The base of both kinds of calibration: the classifier they are for, their file."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clipcls.errors import CalibrationError
from clipcls.models.architectures import installed_versions

if TYPE_CHECKING:
    from typing import Self

    from clipcls.labels.prompts import PromptSet
    from clipcls.models.encoder import Encoder

_HASH_BYTES, _HASHES = 6, 5000  # kept of an image file's SHA-256, and of how many images


@dataclass(frozen=True, slots=True)
class Identity:
    """The classifier that a calibration is for; with any other one it is refused.

    Attributes:
        model: the model's name; not compared.
        weights: SHA-256 of its weights, hex.
        precision: the precision it computes in; not compared, since scores differ by rounding only.
        prompts: the template set's name; not compared.
        templates: the templates.
        labels: each label and the first 8 hex of the SHA-256 of its texts.
        formula: the `fingerprint` of how texts become labels' vectors and, if each label is scored
            on its own, of the score and the vocabulary it is compared with; "" for a learnt
            classifier, whose file decides.
        classifier: first 12 hex of the SHA-256 of a learnt classifier's file, or "".
    """

    model: str
    weights: str
    precision: str
    prompts: str
    templates: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    formula: str = ""
    classifier: str = ""

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        prompts: PromptSet,
        names: Sequence[str],
        texts: Sequence[Sequence[str]],
        formula: str,
    ) -> Identity:
        """From a model, the templates, each label's name and texts, and the formula."""
        hashes = (hashlib.sha256(json.dumps(group).encode()).hexdigest()[:8] for group in texts)
        return cls(
            encoder.name,
            encoder.weights,
            encoder.precision,
            prompts.name,
            prompts.templates,
            tuple(zip(names, hashes, strict=True)),
            formula,
        )

    def difference(self, other: Identity) -> str:
        """The first difference between this identity and a classifier's; "" if they match."""
        if self.weights != other.weights:
            return (
                f"it is for the model {self.model} (weights {self.weights[:12]}), "
                f"not for {other.model} ({other.weights[:12]})"
            )
        if self.classifier != other.classifier:
            mine, its = (
                f"the classifier {one.classifier}" if one.classifier else "zero-shot answers"
                for one in (self, other)
            )
            return f"it is for {mine}, not for {its}"
        ours, theirs = dict(self.labels), dict(other.labels)
        for how, some, others in (("without", theirs, ours), ("with", ours, theirs)):
            if names := [name for name in some if name not in others]:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                return f"it was made {how} the label {names[0]!r}{more}"
        if self.templates != other.templates:
            now = " as they are now" if self.prompts == other.prompts else ""
            return f"it is for the prompts {self.prompts!r}, not for {other.prompts!r}{now}"
        if changed := [name for name in theirs if ours[name] != theirs[name]]:
            return f"the label {changed[0]!r} had other synonyms or prompts"
        if self.formula != other.formula:
            return "it is for another version of clipcls, which computed scores in another way"
        return ""


def fingerprint(*made: Any) -> str:
    """First 12 hex of the SHA-256 of texts, and of arrays to three decimals.

    Of what code makes of fixed numbers: unlike a version it changes exactly if the results do.
    """
    plain = [each if isinstance(each, str) else (each.round(3) + 0.0).tolist() for each in made]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class BaseCalibration:
    """Base of both kinds of calibration: the classifier that they are for, and their file.

    Attributes:
        identity: the classifier it is for.
        images: how many images it was made from.
        note: why its parameters are not simply the optimum, or "".
        metrics: name -> `before` and `after`, by 5-fold cross-validation: no image is measured
            with parameters that were fitted to it.
        versions: the packages that made it.
        made_from: first 12 hex of the SHA-256 of the image files it was made from, sorted; of more
            than 5,000 the smallest. They show whether an image was among them, not its content.
    """

    form: ClassVar[str]
    purpose: ClassVar[str]  # named by the error if the other kind is needed

    identity: Identity
    images: int
    note: str
    metrics: dict[str, dict[str, float]]
    versions: dict[str, str]
    made_from: tuple[str, ...] = field(default=(), kw_only=True)

    def knows(self, digest: bytes) -> bool:
        """Whether an image file with this SHA-256 is in `made_from`."""
        key = digest[:_HASH_BYTES].hex()
        at = bisect.bisect_left(self.made_from, key)
        return self.made_from[at : at + 1] == (key,)

    def keep_images(self, digests: Iterable[bytes]) -> Self:
        """A copy with `made_from`, from the SHA-256 of the image files; b"" is none."""
        kept = {digest[:_HASH_BYTES].hex() for digest in digests if digest}
        return replace(self, made_from=tuple(sorted(kept)[:_HASHES]))

    def check(self, identity: Identity, source: str) -> None:
        """Checks that it is for this classifier.

        Raises:
            CalibrationError: it is for another one; the message names the difference.
        """
        if difference := self.identity.difference(identity):
            raise CalibrationError(f"{source}: {difference}; calibrate anew")

    def to_dict(self) -> dict[str, Any]:
        """The content of its file."""
        record = {**asdict(self), "made_from": ",".join(self.made_from)}
        return {"format": self.form, **record.pop("identity"), **record}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes its file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.output.writing import open_output

        with open_output(Path(path), "document") as writer:
            writer.write(self.to_dict())

    @property
    def digest(self) -> str:
        """First 12 hex of the SHA-256 of its content; records of predictions carry it."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode()).hexdigest()[:12]

    @property
    def worsens_loss(self) -> bool:
        """Whether it raises the log loss of held-out images."""
        nll = self.metrics["nll"]
        return round(nll["after"], 3) > round(nll["before"], 3)

    def promises(self) -> str:
        """One line: what these images allow it to promise; "" if it promises nothing."""
        return ""


def collect_versions(*packages: str) -> dict[str, str]:
    """The versions of clipcls, of what it computes with, and of some packages more."""
    from clipcls import __version__

    return {"clipcls": __version__, **installed_versions("open_clip_torch", "numpy", *packages)}
