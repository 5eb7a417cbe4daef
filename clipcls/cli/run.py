"""A run of `classify` or `tag`: its results written, counted, summed up and filed."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.cluster import ClusterSettings, classify_on_cluster, find_place
from clipcls.cli.console import Console, watching
from clipcls.cli.constraints import refuse_inside
from clipcls.cli.inputs import AnsweredInputSettings
from clipcls.cli.label_settings import TextSettings, join_questions, open_questions
from clipcls.cli.options import ModelSettings
from clipcls.cli.outputs import ResultsOutput
from clipcls.cli.progress import format_rate
from clipcls.cli.sort import FilingSettings, choose_mode, file_into, without_scores, write_keywords
from clipcls.data.kept import Keep
from clipcls.errors import ImageError, require_extra
from clipcls.output.answer_blocks import PlainAnswers, as_blocks
from clipcls.output.columns import refuse_own
from clipcls.output.tally import Tally
from clipcls.predictions import UNKNOWN, Result
from clipcls.questions import Answers, provenance_columns

if TYPE_CHECKING:
    from clipcls.classification.doubt import Doubt
    from clipcls.classification.in_blocks import Watch
    from clipcls.embeddings.cache import EmbeddingCache

_CURE = (
    "try other words for the labels, or label 1 to 4 images per label (`clipcls review`, then "
    "`clipcls fit`): nothing helps more"
)


@dataclass(slots=True)
class Report(Tally):
    """Counts what a run answers, and sums it up."""

    labels: dict[str, int] = field(default_factory=dict)  # question -> how many there are
    started: float = field(default_factory=time.monotonic)

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
        return f"{', '.join(parts)} in {took}"


@dataclass
class Run:
    """Answers images, writes and files the results; refuses impossible options before the work."""

    console: Console
    inputs: tuple[str, ...]
    reading: AnsweredInputSettings
    questions: Mapping[str, TextSettings]
    output: ResultsOutput
    filing: FilingSettings
    cluster: ClusterSettings
    keep: Keep | None = field(init=False, default=None)
    report: Report = field(init=False, default_factory=Report)
    opened: dict[str, Any] = field(init=False)  # the classifier of each question
    cache: EmbeddingCache | None = field(init=False)
    _to_file: list[Result] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.filing.sort_into and len(self.questions) > 1:
            raise click.UsageError(
                f"--sort-into files by one of {', '.join(self.questions)}: write the results to a "
                "file, then `clipcls sort RESULTS --question NAME --into DIR`"
            )
        if self.filing.sort_into:
            refuse_inside(self.filing.sort_into, self.inputs)
        if self.cluster.is_used:
            find_place(self.output.file, self.output.form)
        self._form = "parquet" if self.cluster.is_used else self.output.choose_format()
        if self.filing.xmp:
            from clipcls.organize.xmp_packet import need_lxml

            need_lxml()
        if self._form == "parquet":
            with require_extra("parquet", "--format parquet"):
                import pyarrow.parquet  # noqa: F401
        if kept := self.reading.keep:
            refuse_own(kept, self.questions)
            self.keep = Keep(kept, is_shared=True, is_typed=self._form == "parquet")

    def open(self, model: ModelSettings, multi_label: Collection[str], *settings: object) -> None:
        """Find the images, and fit the classifiers; other `settings` decide the answers too."""
        self._found = self.reading.find_images(self.inputs, self.keep)
        arguments = model.make_arguments(self.inputs)
        self.opened = open_questions(self.questions, arguments, multi_label)
        self.cache, self._backend = arguments["cache"] or None, arguments["backend"]
        self._settings = *settings, self.reading.per_file, self.reading.every
        for each in self.opened.values() if self.reading.shard else ():
            each.provenance_ = replace(
                each.provenance_, shard=str(self.reading.shard), run=self._identify()
            )

    def _identify(self, *more: object) -> str:
        """First 12 hex of the SHA-256 of what decides the answers of the classifiers."""
        made = [
            (
                name,
                replace(each.identity_, model="", precision="", prompts=""),
                each.provenance_.calibration,
            )
            for name, each in self.opened.items()
        ]
        return hashlib.sha256(repr((made, self._settings, more)).encode()).hexdigest()[:12]

    def answer(
        self,
        options: dict[str, Any],
        columns: Sequence[str],
        *,
        doubts: Mapping[str, Doubt] | None = None,
        keep_nearness: bool = False,
        review: Mapping[str, str | Path] | None = None,
    ) -> int:
        """Answer the images; returns the exit status.

        Args:
            options: of the `classify` of all classifiers.
            columns: of a csv or tsv.
            doubts: of each question.
            keep_nearness: whether records keep `nearness`.
            review: the label file of each question, for `clipcls review`; None if it doesn't read
                these results.
        """
        from clipcls.classification.doubt import count_each

        classifier, images, doubts = join_questions(self.opened), self._found.images, doubts or {}
        if self.cluster.is_used:
            return classify_on_cluster(
                self,
                images,
                classifier,
                options,
                backend=self._backend,
                identity=self._identify(self.reading.keep),
                doubts=doubts,
                keep_nearness=keep_nearness,
            )
        with watching(self.console, self._found.total) as watch:
            in_advance = options.get("refine")  # which reports images as it embeds them
            more = {"watch": watch} if in_advance else {}
            results = classifier.classify(images, **options, **more)
            results = self.reading.name_frames(results, images, self.opened)
            if doubts:
                results = count_each(doubts, results, keep_nearness=keep_nearness)
            self._write(results, columns, None if in_advance else watch)
        return self._finish(doubts, review)

    def select_columns(self, usual: Sequence[str], every: Sequence[str] = ()) -> list[str]:
        """The columns of a csv or tsv: the usual ones, or those that `--columns` picks of all."""
        kept = self.reading.keep
        known = [*every, *kept, *provenance_columns(q for q in self.questions if q)]
        usual = [*usual[:-1], *kept, *usual[-1:]]  # `error` comes last
        return self.output.choose_columns(self._form, usual, known)

    def _write(
        self, results: Iterable[Result | Answers], columns: Sequence[str], watch: Watch | None
    ) -> None:
        """Write one record per result, and report it to `watch`.

        Warns if a calibration was made from these images, whose hashes the cache may know.
        """
        from clipcls.classification.empty import answer_empty
        from clipcls.embeddings.cache import hash_image

        known, used = 0, [c.calibration_ for c in self.opened.values() if c.calibration_]
        with self.output.open(self._form, columns) as writer:
            is_looked_at = used or self.filing.sort_into or self.filing.xmp or not self.output.file
            for block in as_blocks(results):
                if isinstance(block, PlainAnswers) and len(block) > 1 and not is_looked_at:
                    self.report.count_block(block)
                    writer.write_block(block)
                    self.console.advance(len(block))
                    continue
                for result in answer_empty(block, self.opened):
                    self.report.count(result)
                    failure = result if isinstance(result, ImageError) else None
                    if used and not failure:
                        digest = hash_image(self.cache, result.path)
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

    def say_outcome(self, doubts: Mapping[str, Doubt]) -> int:
        """Sum up the run, and say what makes its answers doubtful; returns the exit status."""
        console, report = self.console, self.report
        console.say_done(
            report.summary(console.pace.rate if console.pace else None),
            self._found.left_out,
            matters=report.skipped > 0 or bool(report.sets) or self.output.file is not None,
        )
        reasons = {name: doubt.reason() for name, doubt in doubts.items()}
        if said := [f"{name}{': ' * bool(name)}{why}" for name, why in reasons.items() if why]:
            console.remark(f"doubtful: {', '.join(said)}; {_CURE}")
        return console.status(report.skipped, report.classified)

    def _finish(self, doubts: Mapping[str, Doubt], review: Mapping[str, str | Path] | None) -> int:
        """Say what was done and what to do next, file the images; returns the exit status."""
        console, output, filing = self.console, self.output.file, self.filing
        status = self.say_outcome(doubts)
        after: list[str] = []
        if self._form == "html":
            after = ["open it in a browser"]
        elif self._form != "table" and not (filing.sort_into or filing.xmp):
            question, *_ = self.questions
            file = [str(output), *(["--question", question] if question else [])]
            if review is not None:
                named = question if question in review else ""
                labels = review.get(named, "-")
                known = [] if labels == "-" else ["--labels", f"{named}={labels}".removeprefix("=")]
                after.append(shlex.join(["clipcls", "review", *file, *known]))
            after.append(shlex.join(["clipcls", "sort", *file, "--into", "sorted"]))
        console.say_written(output, *after)
        # Only now: a run that stops earlier has moved no file that the next one would miss.
        here = Path(".")
        if filing.xmp:
            status = max(status, write_keywords(console, here, self._to_file))
        if filing.sort_into:
            mode = choose_mode(filing.move, filing.link)
            filed = file_into(console, filing.sort_into, mode, here, self._to_file)
            status = max(status, filed)
        return status
