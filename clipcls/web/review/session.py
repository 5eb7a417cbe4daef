"""Results and a person's corrections of them: which images, in which order, with which labels.

`Review` is what the page of `clipcls review` shows, without the page. Images are numbers in the
order of the results; the label of an image that has none of the labels is `unknown`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import ImageError, InputError
from clipcls.files.on_disk import join_address
from clipcls.files.text import canonical
from clipcls.organize.report import no_images_error
from clipcls.predictions import PERSON, UNKNOWN, Prediction, Result
from clipcls.web.review.active_learning import acquisition_order
from clipcls.web.review.annotations import Corrections, check_label
from clipcls.web.review.answers import NO_ANSWER, Answer, known_scores, make_answer, name_answer


@dataclass(slots=True)
class ReviewImage:
    """An image under review.

    Attributes:
        result: the answer of the results, or why the image could not be read.
        file: on the disk.
        answer: that of the results; `NO_ANSWER` for an error.
        relearnt: that of a classifier learnt since; None without one, or without a vector.
        place: its key in the corrections.
        error: why it cannot be labelled, or "".
    """

    result: Result
    file: str
    answer: Answer = NO_ANSWER
    relearnt: Answer | None = None
    place: str = ""
    error: str = ""

    @property
    def latest(self) -> Answer:
        """The latest answer."""
        return self.relearnt or self.answer


class Review:
    """Results under review, and their corrections.

    Args:
        results: of `read_results`; a file under two names is labelled under the first.
        corrections: the open file of corrections; images that it has are done.
        labels: the known labels; those of the results come after them.
        lineages: name of a label -> its names from the root of the hierarchy, where that is more
            than the name; those in the results are known.
        root: what the results' paths are relative to.

    Attributes:
        labels: all labels.
        images: one per result.
        order: numbers of the images that can be labelled, the most informative first.

    Raises:
        InputError: no image can be labelled, images have several labels, a file of corrections
            cannot hold a label, or the corrections were made with another list of labels.
    """

    def __init__(
        self,
        results: Sequence[Result],
        corrections: Corrections,
        *,
        labels: Iterable[str] = (),
        lineages: Mapping[str, tuple[str, ...]] | None = None,
        root: str | os.PathLike[str] = ".",
    ) -> None:
        self.corrections = corrections
        self._root = str(root)
        found = [result for result in results if isinstance(result, Prediction)]
        several = next((result.path for result in found if len(result.given) > 1), None)
        if several is not None:
            raise InputError(
                f"{several} has several labels: a review needs results with one label per image"
            )
        known = {*labels, *(name for result in found for name, _ in known_scores(result))}
        seen = known.union(name_answer(result, known) for result in found)
        self.labels = list(dict.fromkeys((*labels, *sorted(seen - {UNKNOWN}))))
        for name in self.labels:
            check_label(name)
        self._lineages = {
            name_answer(result, known): lineage
            for result in found
            for lineage in result.label_paths
        } | dict(lineages or {})
        self.images: list[ReviewImage] = []
        self._image_at: dict[str, int] = {}  # the first image at each place
        for result in results:
            self._add_image(result, known)
        self._refuse_other_results()
        self._refuse_other_list()
        for place, number in self._image_at.items():
            corrections.best[place] = self.images[number].answer.best
        self._add_labels(self.done().values())
        self._vectors: NDArray[np.float32] | None = None
        self._clusters: NDArray[np.int64] | None = None
        self._reorder()

    # -- a person's labels ----------------------------------------------------------------------

    def done(self) -> dict[int, str]:
        """The images with a label -> the label."""
        labels, images = self.corrections.labels, self._image_at
        return {images[place]: label for place, label in labels.items() if place in images}

    def label(self, labels: Mapping[int, str | None]) -> list[int]:
        """Give images labels, or take them away (None); returns the images whose label changed.

        This is one action, which is on the disk on return.

        Raises:
            IndexError: there is no such image.
            InputError: an image cannot be labelled, or a label cannot be written.
            OutputError: the file of corrections could not be written; nothing was done.
        """
        changes: dict[str, str | None] = {}
        for number, label in labels.items():
            if not 0 <= number < len(self.images):
                raise IndexError(f"there is no image {number}")
            image = self.images[number]
            if image.error:
                raise InputError(f"{image.result.path}: {image.error}")
            changes[image.place] = None if label is None else canonical(label)
        changed = self._find_images(self.corrections.set(changes))
        self._add_labels(label for label in changes.values() if label is not None)
        return changed

    def undo(self) -> list[int]:
        """Undo the last action; the images whose label changed."""
        return self._find_images(self.corrections.undo())

    def redo(self) -> list[int]:
        """Redo what was undone last; the images whose label changed."""
        return self._find_images(self.corrections.redo())

    # -- the reviewed table ---------------------------------------------------------------------

    def write_table(self, path: Path) -> None:
        """Write the reviewed table (csv), whole or not at all, or raise `OutputError`.

        It has one row per result, with the person's label where one was given, elsewhere the
        answer. `labelled_by` is `person`, `learnt` (by the classifier that was learnt from the
        corrections) or `model` (as in the results); `best` is the best label of the latest
        classifier. Paths are written as in the results if these are relative to the table's folder,
        else absolute, so that every command finds the images.
        """
        from clipcls.output.writing import open_output

        with open_output(path, "csv") as writer:
            for record in self._make_records(path.absolute().parent):
                writer.write(record)

    def _make_records(self, folder: Path) -> Iterator[dict[str, Any]]:
        is_here = os.path.realpath(folder) == os.path.realpath(self._root)
        has_levels = any(len(lineage) > 1 for lineage in self._lineages.values())
        for image in self.images:
            result = image.result
            is_known = isinstance(result, Prediction) and result.by_person
            answer = image.answer if is_known else image.latest
            by = PERSON if is_known else "learnt" if image.relearnt else "model"
            label, score, error = answer.label, answer.score, ""
            if isinstance(result, ImageError):
                label, by, error = "", "", result.reason
            elif image.place in self.corrections.labels:
                label, score, by = self.corrections.labels[image.place], None, PERSON
            yield {
                "path": result.path if is_here else os.path.abspath(image.file),
                "label": label,
                "score": None if score is None else round(score, 6),
                "labelled_by": by,
                "best": image.latest.best,
                **({"lineage": [*self._lineages.get(label, (label,))]} if has_levels else {}),
                "error": error,
            }

    # -- the order ------------------------------------------------------------------------------

    def use_vectors(self, vectors: NDArray[np.float32], clusters: NDArray[np.int64]) -> None:
        """Order by the images' vectors too.

        Args:
            vectors: float32 (n, dim); a row of zeros is no vector.
            clusters: each image's cluster, (n,); -1 without a vector.
        """
        self._vectors, self._clusters = vectors, clusters
        self._reorder()

    def use_relearnt(self, results: Sequence[Result]) -> None:
        """Take the answers of a classifier that was learnt from the corrections."""
        for image, result in zip(self.images, results, strict=True):
            image.relearnt = None
            if isinstance(result, Prediction):
                image.relearnt = make_answer(result, known_scores(result)[0][0])
        answers = [image.relearnt for image in self.images if image.relearnt]
        self._add_labels(label for answer in answers for label, _ in answer.top)
        self._reorder()

    def _reorder(self) -> None:
        margins = [image.latest.margin for image in self.images]
        done = np.zeros(len(self.images), bool)
        done[list(self.done())] = True
        found = acquisition_order(np.array(margins), self._vectors, done)
        self.order = [number for number in found.tolist() if not self.images[number].error]

    # -- for the page ---------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All that the page shows, for JSON."""
        images = [[each.result.path, each.error, each.answer.to_row()] for each in self.images]
        return {"images": images, **self.order_record(), **self.change_record(self.done())}

    def order_record(self) -> dict[str, Any]:
        """The part of the record that learning changes, for JSON."""
        rows = [image.relearnt and image.relearnt.to_row() for image in self.images]
        return {
            "labels": self.labels,
            "order": self.order,
            "clusters": None if self._clusters is None else self._clusters.tolist(),
            "now": rows if any(rows) else None,
        }

    def change_record(self, images: Iterable[int]) -> dict[str, Any]:
        """The part of the record that a change of the labels of `images` changes, for JSON."""
        done = self.done()
        return {
            "labels": self.labels,
            "done": [[number, done.get(number)] for number in images],
            "can_undo": bool(self.corrections.done),
            "can_redo": bool(self.corrections.undone),
        }

    # -------------------------------------------------------------------------------------------

    def _add_image(self, result: Result, known: Container[str]) -> None:
        """Append an image to `images`, and find out whether it can be labelled."""
        image = ReviewImage(result, join_address(self._root, result.path))
        if isinstance(result, ImageError):
            image.error = result.reason
        else:
            image.answer = make_answer(result, name_answer(result, known))
            try:
                image.place = self.corrections.place(image.file)
            except InputError as error:
                image.error = str(error)
            else:
                first = self._image_at.setdefault(image.place, len(self.images))
                if first < len(self.images):
                    image.error = f"is the same file as {self.images[first].result.path}"
        self.images.append(image)

    def _refuse_other_results(self) -> None:
        """Refuse results without an image that can be labelled, or of which no file exists."""
        if not self._image_at:
            image = next(iter(self.images), None)
            why = f"; the first: {image.result.path}: {image.error}" if image else ""
            raise InputError(f"the results hold no image that can be reviewed{why}")
        if not any(os.path.exists(image.file) for image in self.images):
            raise no_images_error(self.images[0].file)

    def _refuse_other_list(self) -> None:
        """Refuse corrections in which half of the labels or more are not in this list.

        A person may have added labels: so the classifier's best label, if the file names it, tells
        which list it was.
        """
        given, best = self.corrections.labels, self.corrections.best
        places = [place for place in given if place in self._image_at] or given
        names = [name for p in places if (name := best.get(p) or given[p]) != UNKNOWN]
        labels = {*self.labels}
        others = [name for name in names if name not in labels]
        if others and 2 * len(others) >= len(names):
            shown = ", ".join(map(repr, sorted(set(others))[:3]))
            raise InputError(
                f"{self.corrections.path}: holds labels of another list ({shown}); name another "
                "file with -o, or give the list that has them with --labels"
            )

    def _find_images(self, places: Iterable[str]) -> list[int]:
        return [self._image_at[place] for place in places if place in self._image_at]

    def _add_labels(self, labels: Iterable[str]) -> None:
        self.labels += sorted({*labels} - {*self.labels, UNKNOWN})
