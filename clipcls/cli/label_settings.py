"""The options that name labels, or a classifier that learnt them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import click

from clipcls.cli.completion import complete_label_sets, complete_template_sets
from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import FILE
from clipcls.questions import check_names, find_name


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


def _gather_questions(
    context: click.Context, param: click.Parameter, values: tuple[Any, ...]
) -> dict[str, Any] | None:
    """The values by the names of their questions; `NAME=VALUE` has a name, "" if it is a file."""
    found: dict[str, Any] = {}
    for value in map(os.fspath, values):
        name, mark, rest = value.partition("=")
        is_named = name and mark and not os.path.lexists(value)
        name, rest = (*check_names([name]), rest) if is_named else ("", value)
        if name in found:
            raise click.BadParameter(f"name each question, once: {_show_named(param.opts[0])}")
        found[name] = param.type.convert(rest, param, context)
    return found or None


def _show_named(option: str) -> str:
    return f"{option} NAME={'LEVEL' if option == '--level' else 'FILE'}"


def labels_option(help: str) -> Any:
    """The field of a group for `--labels`: a file per question, by its name."""
    return _option_per_question("FILE|NAME", help, shell_complete=complete_label_sets)


def prompts_option(
    help: str = 'A template such as "a picture of a {}", a set of `clipcls prompts`, or a file of '
    "templates; may be repeated.  [default: photo; with mini, one template]",
) -> Any:
    """The field of a group for `--prompts`."""
    return option(
        multiple=True,
        metavar="TEMPLATE|NAME|FILE",
        shell_complete=complete_template_sets,
        callback=_join_prompts,
        help=help,
    )


def _option_per_question(value: str, help: str, **attributes: Any) -> Any:
    """The field of a group for an option that each question has once."""
    return option(
        metavar=f"[QUESTION=]{value}",
        multiple=True,
        callback=_gather_questions,
        help=help,
        **attributes,
    )


def calibration_option() -> Any:
    """The field of a group for `--calibration`."""
    help = "Adjust scores by this file of `clipcls calibrate`."
    return _option_per_question("FILE", help, type=FILE)


@dataclass(frozen=True)
class TextSettings(Settings):
    """Labels and prompts in words."""

    section = "Labels"

    labels: Any = labels_option(
        "A label file (in csv, | separates synonyms or prompts), a ready set, or - for a list on "
        "stdin; may be repeated with the name of a question, such as colour=colours.txt."
    )
    label: tuple[str, ...] = option(
        "-l", "--label", metavar="LABEL", help="One label; may be repeated."
    )
    prompts: str | list[str] | None = prompts_option()

    classifier = level = calibration = None  # the options of subclasses

    @property
    def files(self) -> list[Any]:
        """The files that the command reads, except images."""
        return [self.labels, self.prompts, self.classifier, self.calibration]

    def open_classifier(self, model: Mapping[str, Any], multi_label: bool = False) -> Any:
        """Fit the classifier of one question; `multi_label` is for several labels per image."""
        calibration = None if multi_label else self.calibration
        settings = {**model, "level": self.level, "calibration": calibration}
        if self.classifier is None:
            from clipcls.classification.zero_shot import ZeroShotClassifier

            found: Any = ZeroShotClassifier(self.labels, prompts=self.prompts, **settings).fit()
        else:
            from clipcls.few_shot.classifier import FewShotClassifier

            if model["model"] == "auto":
                settings["model"] = None  # its own
            found = FewShotClassifier.load(self.classifier, **settings)
        if not multi_label:
            return found
        from clipcls.classification.multilabel import MultiLabelClassifier

        return MultiLabelClassifier(found, calibration=self.calibration).fit()


@dataclass(frozen=True)
class LabelSettings(TextSettings):
    """Labels in words, one of which is the answer, or a classifier that learnt them."""

    level: Any = _option_per_question(
        "LEVEL",
        "For labels like `animal > dog > pug`, answer at level 1 (the root), 2, ..., or at the "
        "level of this name.",
        rare=True,
    )
    classifier: Any = _option_per_question(
        "FILE", "Use a classifier learnt by `clipcls fit` instead of labels and prompts.", type=FILE
    )


@dataclass(frozen=True)
class CalibratedLabelSettings(LabelSettings):
    """The labels, with a calibration of the scores."""

    calibration: Any = calibration_option()


@dataclass(frozen=True)
class AnsweredLabelSettings(CalibratedLabelSettings):
    """The labels, of which `--tag` lets an image have several."""

    tag: tuple[str, ...] = option(
        metavar="QUESTION",
        rare=True,
        help="Answer this one of several questions with all labels that fit, as `clipcls tag` "
        "does; may be repeated.",
    )

    def find_tagged(self, questions: Collection[str]) -> set[str]:
        """The questions that `--tag` names.

        Raises:
            click.UsageError: a question is unknown.
        """
        tagged = {find_name(name, questions) or name for name in self.tag}
        if unknown := tagged - ({*questions} - {""}):
            raise click.UsageError(f"--tag {min(unknown)}: no question has this name")
        return tagged


Chosen = TypeVar("Chosen", bound=Settings)


def split_questions(settings: Chosen, question: str | None = None) -> dict[str, Chosen]:
    """The settings of each question, by its name; those of a question without one are under "".

    Reads the label files, whose groups are questions too; opens no classifier. If questions have
    names, `question` takes one alone.

    Raises:
        click.UsageError: no labels are given, not all questions are named, or an option is for
            another question; the images are on stdin too; or a `-l` looks like several labels.
        LabelsError: a file cannot be used, or a name.
    """
    labels = _read_labels(settings)
    options = {field.name for field in fields(settings)} & {"classifier", "level", "calibration"}
    given = {name: getattr(settings, name) or {} for name in options}
    classifiers = given.get("classifier", {})
    names = list(dict.fromkeys([*labels, *classifiers])) or [""]
    if len(names) > 1 and "" in names:
        raise click.UsageError("name each of several questions, as in --labels NAME=FILE")
    if "" not in names:
        check_names(names)
    if both := labels.keys() & classifiers.keys():
        raise click.UsageError(
            f"the question {min(both)!r}: --labels and --classifier exclude each other"
        )
    for name in ("level", "calibration"):
        if wrong := [question for question in given.get(name, {}) if question not in names]:
            known = ", ".join(names) or "that have a name"
            raise click.UsageError(
                f"{_show_named(f'--{name}')}: name one of the questions {known}"
                + (f", not {wrong[0]!r}" if wrong[0] else "")
            )
    found = {
        name: replace(
            settings,
            labels=labels.get(name),  # type: ignore[call-arg]
            **{option: values.get(name) for option, values in given.items()},
        )
        for name in names
    }
    if question is None or "" in found:
        return found
    chosen = find_name(question, found)
    if chosen is None:
        raise click.UsageError(f"--question {question}: the questions are {', '.join(found)}")
    return {chosen: found[chosen]}


def choose_question(settings: Chosen, question: str | None) -> tuple[str, Chosen]:
    """The name and the settings of the only question, as `split_questions` gives them.

    Raises:
        click.UsageError: there are several, too.
    """
    questions = split_questions(settings, question)
    if len(questions) > 1:
        raise click.UsageError(
            f"one question at a time: choose one of {', '.join(questions)} with --question"
        )
    return next(iter(questions.items()))


def open_questions(
    questions: Mapping[str, TextSettings],
    model: Mapping[str, Any],
    multi_label: Collection[str] = (),
) -> dict[str, Any]:
    """Fit a classifier per question; all have the model of those that were learnt, if any were."""
    chosen, opened = dict(model), {}
    for name in sorted(questions, key=lambda name: questions[name].classifier is None):
        opened[name] = questions[name].open_classifier(chosen, name in multi_label)
        chosen |= {"model": opened[name].encoder_, "checkpoint": None}
    return {name: opened[name] for name in questions}


def join_questions(opened: Mapping[str, Any]) -> Any:
    """The classifier for all questions, or that for a single one without a name."""
    if "" in opened:
        return opened[""]
    from clipcls.classification.multi_question import MultiQuestionClassifier

    return MultiQuestionClassifier(opened).fit()


def _read_labels(settings: Any) -> dict[str, Any]:
    """The labels of each question by its name, which the groups of a file give too."""
    if settings.labels is None:
        words = list(getattr(settings, "label", ()))
        for label in words:
            _check_label(label, is_only=len(words) == 1)
        if isinstance(settings, TextSettings) and settings.classifier is None and not words:
            raise click.UsageError("give labels: --labels FILE, or -l for each")
        return {"": words} if words else {}
    given = click.get_current_context().params.get("inputs") or ()
    if "-" in settings.labels.values() and "-" in given:
        raise click.UsageError(
            "stdin cannot be both the labels and the images: name a file for one of them"
        )
    from clipcls.labels.label_set import log_warnings, read_label_groups, read_labels

    found: dict[str, Any] = {}
    for name, file in settings.labels.items():
        groups = read_label_groups(file)
        if name:
            groups = {name: groups[name] if name in groups else read_labels(file)}
        found |= groups
    for labels in found.values():
        log_warnings(labels)
    return found


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
