"""The images that a command reads: its inputs, the options on them, and how many they are."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import NumberRange
from clipcls.errors import EmptyError

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.cli.progress import Total
    from clipcls.data.file_kinds import LeftOut
    from clipcls.data.inputs import Found
    from clipcls.data.kept import Keep
    from clipcls.data.sharding import Shard
    from clipcls.predictions import Result
    from clipcls.questions import Answers

_EVERY = "1s"

inputs_argument = click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files
)


def _parse_period(_: click.Context, __: click.Parameter, value: str) -> int:
    if value == _EVERY:  # help and completion import nothing heavy
        return 1000
    from clipcls.data.video import parse_period

    return parse_period(value)


def _parse_names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _parse_shard(_: click.Context, __: click.Parameter, value: str | None) -> Shard | None:
    from clipcls.data.sharding import Shard

    return None if value is None else Shard.parse(value)


class FoundImages(NamedTuple):
    """The images of a command."""

    images: Iterator[Found]
    total: Total  # lists them again, unless stdin does
    left_out: LeftOut  # what the inputs contain besides


@dataclass(frozen=True)
class InputSettings(Settings):
    """How the inputs lead to images."""

    section = "Input"

    null: bool = option("-0", "--null", rare=True, help="Paths on stdin end with NUL.")
    image_column: str | None = option(
        metavar="NAME",
        rare=True,
        help="The column with the images of an INPUT that is a csv, tsv, jsonl or parquet table; "
        "default: the only one that is called image, path, url, filename or the like.",
    )

    every: int = option(
        metavar="TIME",
        default=_EVERY,
        rare=True,
        callback=_parse_period,
        help="From a video take a frame every TIME, like 1s, 500ms or 2min. Frames are called "
        "clip.mp4@00:01:05.000.",
    )
    shard: Shard | None = option(
        metavar="I/N",
        rare=True,
        callback=_parse_shard,
        help="Read only share I, from 1, of N shares of the images, so that N jobs do the work of "
        "one. An image's share depends only on its name below INPUT; a video's frames are in one "
        "share. See `clipcls merge`.",
    )
    boxes: Path | None = option(
        help="Classify what the boxes in FILE show: MegaDetector's or COCO's JSON, or csv with "
        "path, x, y, w, h. The crops are called photo.jpg#1, photo.jpg#2, ...",
    )
    box_confidence: float = option(
        type=NumberRange(0, 1),
        metavar="C",
        default=0.2,
        rare=True,
        help="Leave out boxes of which the detector was less sure.",
    )
    box_category: tuple[str, ...] = option(
        metavar="NAME",
        rare=True,
        help="Leave out boxes of other categories, as in --box-category animal; may be repeated.",
    )
    box_margin: float = option(
        type=NumberRange(0, 10),
        metavar="SHARE",
        default=0.1,
        rare=True,
        help="Widen boxes on each side by this share of their longer side; crops are squares.",
    )

    def is_few(self, inputs: tuple[str, ...], count: int) -> bool:
        """Whether the inputs are files of one image each, and fewer than `count`."""
        from clipcls.data.file_kinds import SUFFIXES, find_suffix

        return (
            len(inputs) < count
            and self.boxes is None
            and all(find_suffix(i) in SUFFIXES for i in inputs)
            and all(map(os.path.isfile, inputs))
        )

    empty, per_file = "", False  # options of the subclass

    def find_images(self, inputs: tuple[str, ...], keep: Keep | None = None) -> FoundImages:
        """The images that the inputs name, with the cells of tables that are to be kept."""
        from clipcls.data import paths
        from clipcls.data.file_kinds import LeftOut, is_stream

        boxes = None
        if self.boxes is not None:
            from clipcls.data.boxes import Boxes

            boxes = Boxes(
                self.boxes,
                min_confidence=self.box_confidence,
                categories=self.box_category,
                margin=self.box_margin,
            )

        def find(**options: Any) -> Iterator[Found]:
            found = paths.find_images(
                inputs,
                shard=self.shard,
                every=self.every,
                image_column=self.image_column,
                keep=keep,
                **options,
            )
            if boxes is None:
                return found
            crops = boxes.crop_each(found, self.empty)
            return (each for each in crops if self.empty or not isinstance(each, EmptyError))

        left_out = LeftOut()
        images = find(stdin=sys.stdin.buffer, null=self.null, left_out=left_out)
        unknown = "-" in inputs or any(map(is_stream, inputs))  # or read twice
        # Searched again: keeping a million paths would take more memory than everything else.
        total = None if unknown or self.per_file else lambda: _expand_vectors(find())
        first = list(itertools.islice(images, 1))  # or the error that there is none
        images = itertools.chain(first, images)
        if self.per_file:
            from clipcls.classification.whole_videos import WholeVideos

            images = WholeVideos(images)
        return FoundImages(images, total, left_out)


def _expand_vectors(
    found: Iterable[Found],
) -> Iterator[Found | None]:
    """The images, with None for each whose vector a file holds."""
    from clipcls.data.file_kinds import is_vectors

    for each in found:
        if isinstance(each, str) and is_vectors(each):
            from clipcls.embeddings.vector_files import open_vectors

            yield from itertools.repeat(None, len(open_vectors(each)))
        else:
            yield each


@dataclass(frozen=True)
class AnsweredInputSettings(InputSettings):
    """The images of a command that answers each image."""

    empty: str = option(
        metavar="LABEL",
        default="empty",
        rare=True,
        help="With --boxes, the label of images without boxes.",
    )
    per_file: bool = option(
        "--per-file",
        rare=True,
        help="Answer each video once: the mean of its frames' logits decides. Column frames names "
        "the 3 that the label fits best.",
    )
    keep: Sequence[str] = option(
        metavar="NAME,...",
        default="",
        show_default=False,
        rare=True,
        callback=_parse_names,
        help="Add these columns of an INPUT that is a table, such as id,price, to the results.",
    )

    def name_frames(
        self,
        results: Iterator[Result | Answers],
        images: Iterator[Any],
        classifiers: Mapping[str, ImageClassifier | MultiLabelClassifier],
    ) -> Iterator[Result | Answers]:
        """The results, those of whole videos with their best frames."""
        from clipcls.classification.whole_videos import WholeVideos

        if isinstance(images, WholeVideos):
            return images.name_best(results, classifiers)
        return results

    @property
    def columns(self) -> list[str]:
        """The columns that these options add."""
        return ["frames"] if self.per_file else []
