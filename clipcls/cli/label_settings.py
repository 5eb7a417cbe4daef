"""The options that name labels, or a classifier that learnt them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.completion import complete_label_sets, complete_template_sets
from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import FILE

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.labels.label_set import LabelsLike


def _join_prompts(
    _context: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> str | list[str] | None:
    """One value of `--prompts` stays as it is; several become the templates of all."""
    if len(values) < 2:
        return values[0] if values else None
    from clipcls.labels.label_set import log_warnings
    from clipcls.labels.prompts import make_prompts

    sets = [make_prompts(value) for value in values]
    for made in sets:
        log_warnings(made)
    return [template for made in sets for template in made.templates]


def labels_option(help: str) -> Any:
    """The field of a group for `--labels`."""
    return option(metavar="FILE|NAME", shell_complete=complete_label_sets, help=help)


def prompts_option(default: str | None = "photo", help: str = "") -> Any:
    """The field of a group for `--prompts`."""
    return option(
        multiple=True,
        default=(default,) if default else (),
        metavar="TEMPLATE|NAME|FILE",
        shell_complete=complete_template_sets,
        callback=_join_prompts,
        help=help
        or 'A template such as "a picture of a {}", a set of `clipcls prompts`, or a file of '
        "templates; may be repeated.",
    )


multi_label_option = click.option(
    "--multi-label",
    is_flag=True,
    help="For `clipcls tag`: any number of labels per image, each scored on its own.",
)


def calibration_option() -> Any:
    """The field of a group for `--calibration`."""
    return option(type=FILE, help="Adjust scores by this file of `clipcls calibrate`.")


@dataclass(frozen=True)
class TextSettings(Settings):
    """Labels and prompts in words."""

    section = "Labels"

    labels: str | None = labels_option(
        "A label file (in csv, | separates synonyms or prompts), a ready set, or - for a list on "
        "stdin."
    )
    label: tuple[str, ...] = option(
        "-l", "--label", metavar="LABEL", help="One label; may be repeated."
    )
    prompts: str | list[str] = prompts_option()

    def read(self) -> LabelsLike:
        """The labels that `--labels` or `-l` name; those on stdin, which ends, are read at once.

        Raises:
            click.UsageError: none are given, the images are on stdin too, or a `-l` looks like
                several labels or a file.
        """
        if not (self.labels or self.label):
            raise click.UsageError("give labels: --labels FILE, or -l for each")
        if self.labels == "-":
            given = click.get_current_context().params
            if "-" in (given.get("inputs") or ()):
                raise click.UsageError(
                    "stdin cannot be both the labels and the images: name a file for one of them"
                )
            from clipcls.labels.label_set import log_warnings, read_labels

            labels = read_labels("-")
            log_warnings(labels)
            return labels
        for label in self.label:
            _check_label(label, is_only=len(self.label) == 1)
        return self.labels or list(self.label)


@dataclass(frozen=True)
class LabelSettings(TextSettings):
    """Labels in words, one of which is the answer, or a classifier that learnt them."""

    reject: bool = option(
        rare=True,
        help="Add the answer `none of these`, for images closer to generic texts than to any "
        "label.",
    )
    level: str | None = option(
        metavar="LEVEL",
        rare=True,
        help="For labels like `animal > dog > pug`, answer at level 1 (the root), 2, ..., or at "
        "the level of this name.",
    )
    classifier: Path | None = option(
        help="Use a classifier learnt by `clipcls fit` instead of labels and prompts.",
    )

    def read_unless_learnt(self) -> LabelsLike | None:
        """As `read`; None with a learnt classifier, which has its own."""
        return self.read() if self.classifier is None else None

    def open_classifier(
        self,
        labels: LabelsLike | None,
        model: Mapping[str, Any],
        calibration: str | Path | None = None,
    ) -> ImageClassifier:
        """Fit the classifier that the options describe.

        `labels` come from `read_unless_learnt`, `model` from `ModelSettings.make_arguments`.
        """
        settings = {**model, "level": self.level, "calibration": calibration}
        if self.classifier is None:
            from clipcls.classification.zero_shot import ZeroShotClassifier

            assert labels is not None
            return ZeroShotClassifier(
                labels, prompts=self.prompts, reject=self.reject, **settings
            ).fit()
        from clipcls.few_shot.classifier import FewShotClassifier

        if settings["model"] == "auto":
            settings["model"] = None  # its own
        return FewShotClassifier.load(self.classifier, **settings)

    def open_either(
        self,
        labels: LabelsLike | None,
        model: Mapping[str, Any],
        calibration: str | Path | None,
        multi_label: bool,
    ) -> Any:
        """Fit a classifier for one label per image or, with `--multi-label`, for several."""
        if not multi_label:
            return self.open_classifier(labels, model, calibration)
        from clipcls.classification.multilabel import MultiLabelClassifier

        base = self.open_classifier(labels, model)
        return MultiLabelClassifier(base, calibration=calibration).fit()


@dataclass(frozen=True)
class CalibratedLabelSettings(LabelSettings):
    """The same, with a calibration of the scores."""

    calibration: Path | None = calibration_option()


def _check_label(label: str, *, is_only: bool) -> None:
    quoted = shlex.quote(label)
    if re.search(r"\.(?:txt|csv|tsv|json|ya?ml|names)$", label, re.IGNORECASE):
        raise click.UsageError(
            f"-l {quoted} is one label: to read labels from a file of that name, write --labels "
            f"{quoted}"
        )
    # Among other labels `Washington, D.C.` and `1,000 dollars` may be one label each.
    mark = "[,;|]" if is_only else r"[,;|](?=\S)"
    words = [word.strip() for word in re.split(rf"(?<!\d){mark}|{mark}(?!\d)", label)]
    if len(words) > 1:
        each = " ".join(f"-l {shlex.quote(word)}" for word in words if word)
        raise click.UsageError(
            f"-l {quoted} is one label: for {len(words)} write {each}; a label with such a mark in "
            "it goes into a label file"
        )
