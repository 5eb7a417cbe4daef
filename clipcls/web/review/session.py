"""Results and a person's corrections of them: which images, in which order, with which labels.

`Review` is what the page of `clipcls review` shows, without the page. Images are numbers in the
order of the results; a label is a number in `labels`, `NO_LABEL` for "none of the labels".
"""

from __future__ import annotations

import math
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.clustering import cluster_vectors
from clipcls.errors import ImageError, InputError
from clipcls.files.on_disk import join_address
from clipcls.organize.report import no_images_error
from clipcls.predictions import UNKNOWN, Prediction, Result
from clipcls.web.review.active_learning import acquisition_order
from clipcls.web.review.annotations import Corrections, check_label
from clipcls.web.review.answers import NO_LABEL, Answer, make_answer, name_answer, score_or_none


class Review:
    """Results under review, and their corrections. May be used from several threads.

    Args:
        results: of `read_results`; a file under two names is labelled under the first.
        corrections: the open file of corrections; images that it has are done.
        labels: the known labels; those of the results come after them.
        lineages: name of a label -> its names from the root of the hierarchy, where that is more
            than the name; those in the results are known.
        root: what the results' paths are relative to.

    Attributes:
        labels: the labels' names.
        paths, files: of the images, as in the results and on the disk.
        errors: why an image cannot be labelled, or "".
        answers: those of the results.
        relearnt: those of a classifier learnt since (None for images without a vector), or None.

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
        self._lock = threading.RLock()
        self.corrections = corrections
        self._root = root
        self._unread = {r.path: r.reason for r in results if isinstance(r, ImageError)}
        self._results = found = [
            Prediction(r.path, UNKNOWN, (), None) if isinstance(r, ImageError) else r
            for r in results
        ]
        several = next((r.path for r in found if len(r.given) > 1), None)
        if several is not None:
            raise InputError(
                f"{several} has several labels: a review needs results with one label per image"
            )
        known = {*labels, *(name for result in found for name, _ in _known_scores(result))}
        answers = [name_answer(result, known) for result in found]
        seen = sorted({*answers, *known} - {UNKNOWN})
        self.labels: list[str] = list(dict.fromkeys((*labels, *seen)))
        for name in self.labels:
            check_label(name)
        self._numbers = {name: number for number, name in enumerate(self.labels)}
        self._numbers[UNKNOWN] = NO_LABEL
        self._lineages = {
            name: lineage
            for name, result in zip(answers, found, strict=True)
            for lineage in result.label_paths
        } | dict(lineages or {})
        self.paths = [result.path for result in found]
        self.files = [join_address(str(root), path) for path in self.paths]
        self.answers = [
            make_answer(self._numbers, answer, _known_scores(result), result)
            for answer, result in zip(answers, found, strict=True)
        ]
        self.relearnt: list[Answer | None] | None = None
        self._places: list[str] = []
        self._images: dict[str, int] = {}  # the first image at each place
        self.errors: list[str] = []
        for number, (path, file) in enumerate(zip(self.paths, self.files, strict=True)):
            place, error = "", self._unread.get(path, "")
            try:
                place = place if error else corrections.place(file)
            except InputError as reason:
                error = str(reason)
            if place and (first := self._images.setdefault(place, number)) != number:
                error = f"is the same file as {self.paths[first]}"
            self._places.append(place)
            self.errors.append(error)
        if not self._images:
            why = f"; the first: {self.paths[0]}: {self.errors[0]}" if self.paths else ""
            raise InputError(f"the results hold no image that can be reviewed{why}")
        if not any(map(os.path.exists, self.files)):
            raise no_images_error(self.files[0])
        self._refuse_other_list()
        for place, number in self._images.items():
            best = self.answers[number].best
            corrections.best[place] = "" if best == NO_LABEL else self.labels[best]
        for label in self._corrected().values():
            self._number(label)
        self._vectors: NDArray[np.float32] | None = None
        self._clusters: NDArray[np.int64] | None = None
        self._reorder()

    # -- a person's labels ----------------------------------------------------------------------

    def done(self) -> dict[int, int]:
        """The images with a label -> its number."""
        with self._lock:
            return {n: self._numbers[label] for n, label in self._corrected().items()}

    def label(self, labels: Mapping[int, int | None]) -> list[int]:
        """Give images labels, or take them away (None); returns the images whose label changed.

        This is one action, which is on the disk on return.

        Raises:
            IndexError: there is no such image or label.
            InputError: an image cannot be labelled.
            OutputError: the file of corrections could not be written; nothing was done.
        """
        with self._lock:
            changes: dict[str, str | None] = {}
            for number, label in labels.items():
                if not 0 <= number < len(self._places):
                    raise IndexError(f"there is no image {number}")
                if self.errors[number]:
                    raise InputError(f"{self.paths[number]}: {self.errors[number]}")
                changes[self._places[number]] = None if label is None else self.name(label)
            return self._own(self.corrections.set(changes))

    def undo(self) -> list[int]:
        """Undo the last action; the images whose label changed."""
        with self._lock:
            return self._own(self.corrections.undo())

    def redo(self) -> list[int]:
        """Redo what was undone last; the images whose label changed."""
        with self._lock:
            return self._own(self.corrections.redo())

    def add_label(self, name: str) -> int:
        """The number of the label with this name, new or not, or `InputError`."""
        name = unicodedata.normalize("NFC", name.strip())
        check_label(name)
        with self._lock:
            return self._number(name)

    def name(self, label: int) -> str:
        """A label's name; `unknown` for `NO_LABEL`."""
        if label == NO_LABEL:
            return UNKNOWN
        if not 0 <= label < len(self.labels):
            raise IndexError(f"there is no label {label}")
        return self.labels[label]

    # -- the reviewed table ---------------------------------------------------------------------

    def reviewed(self, folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
        """The reviewed table: the person's label where one was given, elsewhere the answer.

        Args:
            folder: the table's folder. Paths are written as in the results if these are relative to
                it, else absolute, so that every command finds the images.

        Yields:
            One record per result. `labelled_by` is `person`, `learnt` (by the classifier that was
            learnt from the corrections) or `model` (as in the results); `best` is the best label
            of the latest classifier.
        """
        with self._lock:
            done, answers = self.done(), list(map(self.now, range(len(self.paths))))
        is_here = os.path.realpath(folder) == os.path.realpath(self._root)
        has_levels = any(len(lineage) > 1 for lineage in self._lineages.values())
        for number, result in enumerate(self._results):
            answer, error = answers[number], self._unread.get(result.path, "")
            given = done.get(self._images.get(self._places[number], number))
            score = score_or_none(result.score)
            lineage: tuple[str, ...]
            if error:
                label, lineage, by = "", (), ""
            elif given is not None:
                label, score, by = self.name(given), None, "person"
                lineage = self._lineages.get(label, (label,))
            elif answer is not self.answers[number] and not result.by_person:
                label, score, by = self.name(answer.label), answer.score, "learnt"
                lineage = self._lineages.get(label, (label,))
            else:
                lineage = result.label_paths[0] if result.given else (UNKNOWN,)
                label, by = lineage[-1], "person" if result.by_person else "model"
            yield {
                "path": result.path if is_here else os.path.abspath(self.files[number]),
                "label": label,
                "score": None if score is None else round(score, 6),
                "labelled_by": by,
                "best": "" if answer.best == NO_LABEL else self.name(answer.best),
                **({"lineage": list(lineage)} if has_levels else {}),
                "error": error,
            }

    def write_table(self, path: Path) -> None:
        """Write the reviewed table (csv), whole or not at all, or raise `OutputError`."""
        from clipcls.output.writing import open_output

        with open_output(path, "csv") as writer:
            for record in self.reviewed(path.absolute().parent):
                writer.write(record)

    # -- the order ------------------------------------------------------------------------------

    def use_vectors(self, vectors: NDArray[np.float32]) -> None:
        """Order by the images' vectors too, float32 (n, dim); a row of zeros is no vector."""
        rows = np.flatnonzero(vectors.any(axis=1))
        clusters = np.full(len(vectors), -1, np.int64)
        # Few enough that a cluster gets one label: the square root of the images, 200 at most.
        clusters[rows] = cluster_vectors(vectors[rows], min(math.ceil(math.sqrt(len(rows))), 200))
        with self._lock:
            self._vectors, self._clusters = vectors, clusters
            self._reorder()

    def use_relearnt(self, results: Sequence[Result]) -> None:
        """Take the answers of a classifier that was learnt from the corrections."""
        with self._lock:
            self.relearnt = []
            for result in results:
                answer = None
                if isinstance(result, Prediction):
                    scores = _known_scores(result)
                    for name, _ in scores:
                        self._number(name)
                    answer = make_answer(self._numbers, scores[0][0], scores, result)
                self.relearnt.append(answer)
            self._reorder()

    def now(self, image: int) -> Answer:
        """The latest answer for an image."""
        newer = self.relearnt[image] if self.relearnt else None
        return self.answers[image] if newer is None else newer

    def _reorder(self) -> None:
        margins = [self.now(number).margin for number in range(len(self.paths))]
        done = np.zeros(len(self.paths), bool)
        done[list(self.done())] = True
        found = acquisition_order(np.array(margins), self._vectors, done)
        self.order: list[int] = [n for n in found.tolist() if not self.errors[n]]

    # -- for the page ---------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All that the page shows, for JSON."""
        with self._lock:
            images = zip(self.paths, self.errors, self.answers, strict=True)
            return {
                "images": [[path, error, answer.to_row()] for path, error, answer in images],
                "done": list(self.done().items()),
                "can_undo": bool(self.corrections.done),
                "can_redo": bool(self.corrections.undone),
                **self.order_record(),
            }

    def order_record(self) -> dict[str, Any]:
        """The part of the record that learning changes, for JSON."""
        with self._lock:
            rows = [answer and answer.to_row() for answer in self.relearnt or ()]
            return {
                "labels": list(self.labels),
                "order": self.order,
                "clusters": None if self._clusters is None else self._clusters.tolist(),
                "now": rows or None,
            }

    def change_record(self, images: Sequence[int]) -> dict[str, Any]:
        """The changes of an action, for JSON."""
        with self._lock:
            done = self.done()
            return {
                "changed": [[number, done.get(number)] for number in images],
                "can_undo": bool(self.corrections.done),
                "can_redo": bool(self.corrections.undone),
            }

    # -------------------------------------------------------------------------------------------

    def _refuse_other_list(self) -> None:
        """Refuse corrections in which half of the labels or more are not in this list.

        A person may have added labels: so the classifier's best label, if the file names it, tells
        which list it was.
        """
        given, best = self.corrections.labels, self.corrections.best
        places = [place for place in given if place in self._images] or given
        names = [name for p in places if (name := best.get(p) or given[p]) != UNKNOWN]
        others = [name for name in names if name not in self._numbers]
        if others and 2 * len(others) >= len(names):
            shown = ", ".join(map(repr, sorted(set(others))[:3]))
            raise InputError(
                f"{self.corrections.path}: holds labels of another list ({shown}); name another "
                "file with -o, or give the list that has them with --labels"
            )

    def _corrected(self) -> dict[int, str]:
        labels, images = self.corrections.labels, self._images
        return {images[place]: label for place, label in labels.items() if place in images}

    def _own(self, places: Iterable[str]) -> list[int]:
        return [self._images[place] for place in places if place in self._images]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.labels)
            self.labels.append(name)
        return self._numbers[name]


def _known_scores(result: Prediction) -> list[tuple[str, float]]:
    """A result's labels with known scores, best first."""
    return [
        (candidate.label, candidate.score)
        for candidate in result.top
        if candidate.label != UNKNOWN and not math.isnan(candidate.score)
    ]
