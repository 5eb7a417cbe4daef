"""`clipcls classify`, and the `Run` that it shares with `tag`."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console, watching
from clipcls.cli.constraints import refuse_inside, refuse_overwriting
from clipcls.cli.groups import option
from clipcls.cli.label_settings import (
    LabelSettings,
    calibration_option,
    open_questions,
    split_questions,
)
from clipcls.cli.options import (
    ModelSettings,
    find_images,
    inputs_argument,
    null_option,
    run_options,
)
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.param_types import COUNT, FOLDER, NumberRange
from clipcls.cli.progress import format_rate
from clipcls.cli.sort import FilingSettings, choose_mode, file_into, without_scores, write_keywords
from clipcls.errors import ImageError, require_extra
from clipcls.predictions import UNKNOWN, Result
from clipcls.questions import Answers, find_name, prefix_columns, provenance_columns

if TYPE_CHECKING:
    from clipcls.calibration.base import BaseCalibration
    from clipcls.classification.decision import Abstain
    from clipcls.classification.doubt import Doubt
    from clipcls.data.file_kinds import LeftOut
    from clipcls.embeddings.cache import EmbeddingCache


_CURE = (
    "try other words for the labels, or label 1 to 4 images per label (`clipcls review`, then "
    "`clipcls fit`): nothing helps more"
)


@dataclass(slots=True)
class Report:
    """Counts the results of a run, and sums them up."""

    excluded: LeftOut
    classified: int = 0
    unknown: Counter[str] = field(default_factory=Counter)  # by question
    skipped: int = 0
    labels: dict[str, int] = field(default_factory=dict)  # question -> how many there are
    sets: dict[str, Counter[int]] = field(default_factory=dict)  # question -> sizes of the sets
    started: float = field(default_factory=time.monotonic)

    def count(self, result: Result | Answers) -> None:
        """Count one result."""
        if isinstance(result, ImageError):
            self.skipped += 1
        else:
            self.classified += 1
            answers = result.questions if isinstance(result, Answers) else {"": result}
            for question, answer in answers.items():
                if answer.label == UNKNOWN:
                    self.unknown[question] += 1
                if answer.label_set is not None:
                    self.sets.setdefault(question, Counter())[len(answer.label_set)] += 1

    def summary(self, rate: float | None = None) -> str:
        """One line: how many images were classified or not, how sure, how long it took."""
        parts = [f"{self.classified:,} classified"]
        if self.unknown:
            counts = (f"{q}: {n:,}" if q else f"{n:,}" for q, n in self.unknown.items())
            parts[0] += f" ({', '.join(counts)} as {UNKNOWN})"
        if self.skipped:
            parts.append(f"{self.skipped:,} could not be read")
        for question, sizes in self.sets.items():
            mean, most = sum(sizes.elements()) / sizes.total(), self.labels[question]
            part = f"{question}{': ' * bool(question)}{mean:.3g} of {most:,} labels per set"
            parts.append(part + (f" ({sizes[most]:,} with all labels)" if sizes[most] else ""))
        took = f"{time.monotonic() - self.started:.1f} s{f' ({format_rate(rate)})' if rate else ''}"
        left_out = f"; {self.excluded}" if self.excluded.counts else ""
        return f"{', '.join(parts)} in {took}{left_out}"


@dataclass
class Run:
    """Writes and files the results of a run; refuses impossible options before the work."""

    console: Console
    inputs: tuple[str, ...]
    output: ResultsOutput
    filing: FilingSettings
    questions: Collection[str]
    report: Report = field(init=False)
    _to_file: list[Result] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.filing.sort_into and "" not in self.questions:
            raise click.UsageError(
                "--sort-into files by one answer: write the results to a file, then `clipcls sort "
                "RESULTS --question NAME --into DIR`"
            )
        if self.filing.sort_into:
            refuse_inside(self.filing.sort_into, self.inputs)
        self._form = self.output.choose_format()
        if self.filing.xmp:
            from clipcls.organize.xmp_packet import need_lxml

            need_lxml()
        if self._form == "parquet":
            with require_extra("parquet", "--format parquet"):
                import pyarrow.parquet  # noqa: F401
        from clipcls.data.file_kinds import LeftOut

        self.report = Report(LeftOut())

    def select_columns(self, usual: Sequence[str], every: Sequence[str] = ()) -> list[str]:
        """The columns of a csv or tsv: the usual ones, or those that `--columns` picks of all."""
        known = [*every, *provenance_columns(q for q in self.questions if q)]
        return self.output.choose_columns(self._form, usual, known)

    def write(
        self,
        results: Iterable[Result | Answers],
        columns: Sequence[str],
        *,
        calibrations: Iterable[BaseCalibration | None],
        cache: EmbeddingCache | None,
        watch: Callable[[ImageError | None], None] | None,
    ) -> None:
        """Write one record per result, and report it to `watch`.

        Warns if a calibration was made from these images, whose hashes the cache may know.
        """
        from clipcls.embeddings.cache import hash_image

        known, used = 0, [calibration for calibration in calibrations if calibration]
        with self.output.open(self._form, columns) as writer:
            for result in results:
                self.report.count(result)
                failure = result if isinstance(result, ImageError) else None
                if used and not failure:
                    digest = hash_image(cache, result.path)
                    known += any(calibration.knows(digest) for calibration in used)
                if self.filing.sort_into or self.filing.xmp:
                    self._to_file.append(without_scores(result))
                if self.output.file is None:
                    self.console.hide_progress()
                writer.write(result)
                if watch:
                    watch(failure)
        if known:
            self.console.say(
                f"warning: the calibration was made from {known:,} of these images; its promises "
                "hold for other images like them"
            )

    def finish(self, *, reviewable: bool, doubts: Mapping[str, Doubt] | None = None) -> int:
        """Say what was done and what to do next, file the images; returns the exit status.

        Args:
            reviewable: whether `clipcls review` reads these results.
            doubts: of each question.
        """
        console, report, output, filing = self.console, self.report, self.output.file, self.filing
        console.say_done(
            report.summary(console.pace.rate if console.pace else None),
            matters=report.skipped > 0
            or bool(report.sets)
            or output is not None
            or report.excluded.may_be_images,
        )
        reasons = {name: doubt.reason() for name, doubt in (doubts or {}).items()}
        if said := [f"{name}{': ' * bool(name)}{why}" for name, why in reasons.items() if why]:
            console.remark(f"doubtful: {', '.join(said)}; {_CURE}")
        file, after = shlex.quote(str(output)), []
        if self._form == "html":
            after = ["open it in a browser"]
        elif self._form != "table" and not (filing.sort_into or filing.xmp):
            question, *_ = self.questions
            file += f" --question {shlex.quote(question)}" if question else ""
            after = [f"clipcls review {file}"] if reviewable else []
            after += [f"clipcls sort {file} --into sorted"]
        console.say_written(output, *after)
        # Only now: a run that stops earlier has moved no file that the next one would miss.
        status = console.status(report.skipped, report.classified)
        here = Path(".")
        if filing.xmp:
            status = max(status, write_keywords(console, here, self._to_file))
        if filing.sort_into:
            mode = choose_mode(filing.move, filing.link)
            filed = file_into(console, filing.sort_into, mode, here, self._to_file)
            status = max(status, filed)
        return status


@dataclass(frozen=True)
class _Answers(groups.Settings):
    section = "Answers"

    top: int = option(
        *("-k", "--top"),
        type=COUNT,
        default=1,
        help="Labels per image.",
    )
    tag: tuple[str, ...] = option(
        metavar="QUESTION",
        rare=True,
        help="Answer this one of several questions with all labels that fit, as `clipcls tag` "
        "does; may be repeated.",
    )
    refine: bool = option(
        help="Decide about all images together, which improves answers from some 40 images on. "
        "Records are written after the last image is embedded.",
    )
    explain: bool = option(
        rare=True,
        help="Add the reasons for each answer: the label's texts, the margin over the runner-up, "
        "and the nearest images in the cache.",
    )
    heatmap: Path | None = option(
        type=FOLDER,
        metavar="DIR",
        rare=True,
        help="Draw pictures into DIR that show which part of each image led to the answer; takes "
        "50 passes of the model per image.",
    )


@dataclass(frozen=True)
class _Doubt(groups.Settings):
    section = "Doubt"

    min_score: float = option(
        type=NumberRange(0, 1),
        metavar="P",
        default=0.0,
        help="Answer `unknown` below this score; in a hierarchy, the nearest node above that "
        "reaches it.",
    )
    min_margin: float = option(
        type=NumberRange(0, 1),
        default=0.0,
        metavar="M",
        rare=True,
        help="Answer `unknown` when the best score leads the second by less than M.",
    )
    min_similarity: float | None = option(
        type=NumberRange(-100, 100),
        metavar="Z",
        help="Answer `unknown` when the image's similarity to the label is less than Z standard "
        "deviations above its similarity to everyday names (column nearness). Start with 2; 3 "
        "turns away more images of other things, and more of your labels.",
    )
    calibration: Path | Mapping[str, Path] | None = calibration_option()
    coverage: float | None = option(
        type=NumberRange(0, 1, min_open=True),
        metavar="C",
        rare=True,
        help="Answer only the share C of images whose scores are highest. Needs --calibration.",
    )
    max_error: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="E",
        help="Answer as many images as possible while, with 95 % confidence, at most a share E of "
        "the answers is wrong. Needs --calibration.",
    )
    prediction_sets: float | None = option(
        type=NumberRange(0, 1, min_open=True, max_open=True),
        metavar="ALPHA",
        rare=True,
        help="Add a set of labels per image; for all but a share ALPHA of the images it contains "
        "a right one. Needs --calibration.",
    )

    def abstain(self) -> Abstain:
        """When images are `unknown`."""
        from clipcls.classification.decision import Abstain

        return Abstain(
            self.min_score,
            self.min_margin,
            min_similarity=self.min_similarity,
            coverage=self.coverage,
            max_error=self.max_error,
        )


@groups.command("classify")
@inputs_argument
@null_option
@run_options
def command(
    console: Console,
    inputs: tuple[str, ...],
    null: bool,
    labels: LabelSettings,
    answers: _Answers,
    doubt: _Doubt,
    output: ResultsOutput,
    filing: FilingSettings,
    model: ModelSettings,
) -> int:
    """Give each image the label that fits best.

    INPUT is an image, a folder (searched recursively), a pattern, or - for paths on stdin. Scores
    are the softmax over all labels; `clipcls tag` scores each label on its own.

    \b
    Examples:
      clipcls classify --labels labels.txt photos/
      find . -name '*.png' | clipcls classify --labels coco80 -
      clipcls classify -l cat -l dog -l "hot dog" -k 3 photo.jpg
      clipcls classify --classifier classifier.safetensors photos/
      clipcls classify --labels labels.txt --sort-into sorted/ --move photos/
      clipcls classify --labels kind=kinds.txt --labels colour=colours.txt photos/
    """
    questions = split_questions(labels, calibration=doubt.calibration)
    tagged = {find_name(name, questions) or name for name in answers.tag}
    if unknown := tagged - questions.keys() - {""}:
        raise click.UsageError(f"--tag {min(unknown)}: no question has this name")
    for option_name, value in {"--level": labels.level, "--heatmap": answers.heatmap}.items():
        if value and "" not in questions:
            raise click.UsageError(f"{option_name} is for labels without the name of a question")
    if answers.heatmap:
        refuse_inside(answers.heatmap, inputs, mirrored=True)
    refuse_overwriting(
        output.file, labels.labels, labels.prompts, labels.classifier, doubt.calibration, *inputs
    )
    run = Run(console, inputs, output, filing, questions)
    from clipcls.classification.doubt import LEAST_IMAGES, Doubt, count_each
    from clipcls.output.columns import EXPLAINED, result_columns

    def list_columns(name: str, top: int, has_levels: bool) -> list[str]:
        if name in tagged:
            return result_columns()
        extra = [
            *(["lineage"] if has_levels else []),
            *(["set"] if doubt.prediction_sets is not None else []),
            *(EXPLAINED if answers.explain else []),
            *(["heatmap"] if answers.heatmap else []),
            *(["nearness"] if doubt.min_similarity is not None else []),
            *(["labelled_by"] if questions[name].classifier else []),
        ]
        return result_columns(top, extra)

    every = prefix_columns({q: list_columns(q, answers.top, True) for q in questions})
    run.select_columns((), every)  # refuses before the work
    images, total = find_images(inputs, null, run.report.excluded)
    arguments = model.make_arguments()
    opened = open_questions(questions, arguments, doubt.calibration, tagged)
    asked = {name: fitted for name, fitted in opened.items() if name not in tagged}
    tops = {name: min(answers.top, len(fitted.classes_)) for name, fitted in asked.items()}
    usual = prefix_columns(
        {q: list_columns(q, tops.get(q, 1), q in asked and asked[q].hierarchy_) for q in opened}
    )
    doubts = {name: Doubt(len(fitted.classes_)) for name, fitted in asked.items()}
    run.report.labels = {name: len(fitted.classes_) for name, fitted in asked.items()}
    with watching(console, total) as watch:
        options: dict[str, Any] = {
            "top": max(tops.values(), default=1),
            "abstain": doubt.abstain(),
            "prediction_sets": doubt.prediction_sets,
            "refine": answers.refine,
            "explain": answers.explain,
            "nearness": not (type(total) is int and total < LEAST_IMAGES),
            "watch": watch if answers.refine else None,
        }
        if "" in opened:
            results = opened[""].classify(images, heatmaps=answers.heatmap, **options)
        else:
            from clipcls.classification.questions import MultiQuestionClassifier

            least = doubt.min_score or None
            fitted = MultiQuestionClassifier(opened).fit()
            results = fitted.classify(images, min_score=least, **options)
        for name, fitted in asked.items():
            if threshold := doubt.abstain().threshold(fitted.calibration_):
                console.remark(
                    f"{name}{': ' if name else ''}of the calibration's images "
                    f"{threshold.coverage:.1%} would be answered, {threshold.risk:.1%} of these "
                    "wrong"
                )
        run.write(
            count_each(doubts, results, keep_nearness=doubt.min_similarity is not None),
            run.select_columns(usual, every),
            calibrations=[fitted.calibration_ for fitted in opened.values()],
            cache=arguments["cache"] or None,
            watch=None if answers.refine else watch,  # refining reports images as it embeds them
        )
    if answers.heatmap:
        console.remark(f"wrote heat maps into {answers.heatmap}")
    return run.finish(reviewable=True, doubts=doubts)
