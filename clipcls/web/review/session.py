"""Results and what a person says of them: which images, in which order, with which labels.

`Review` is what the page of `clipcls review` shows, without the page. Images are numbers in the
order of the results; a label is a number in `labels`, `NO_LABEL` for "not any of these".
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
from clipcls.predictions import REJECT, UNKNOWN, Prediction, Result
from clipcls.web.review.active_learning import acquisition_order
from clipcls.web.review.annotations import Corrections, check_label
from clipcls.web.review.answers import NO_LABEL, Answer, make_answer, name_answer, score_or_none

__all__ = ["Review"]


class Review:
    """Results under review, and their corrections. May be used from several threads.

    Args:
        results: as `read_results` gives them; of a file under two names the first is labelled.
        corrections: the open file of corrections; what is in it of these images is done.
        labels: the labels there are; those of the results come after them.
        lineages: name of a label -> its names from the root of the hierarchy, where it is not the
            name alone; those in the results are known.
        root: what the results' paths are relative to.

    Attributes:
        labels: the labels' names.
        paths: of the images, as in the results.
        files: where they are.
        errors: why an image cannot be labelled, or "".
        answers: what the results say.
        relearnt: what a classifier that was learnt since says, None of images it could not see; or
            None as a whole.

    Raises:
        InputError: no image can be labelled, images have several labels, a label cannot stand in
            a file of corrections, or the corrections were made with another list of labels.
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
        found = [
            Prediction(r.path, UNKNOWN, (), None) if isinstance(r, ImageError) else r
            for r in results
        ]
        several = next((r.path for r in found if len(r.given) > 1), None)
        if several is not None:
            raise InputError(
                f"{several} has several labels: a review needs results with one label per image"
            )
        tops = [
            [
                (candidate.label, candidate.score)
                for candidate in result.top
                if candidate.label not in (UNKNOWN, REJECT) and not math.isnan(candidate.score)
            ]
            for result in found
        ]
        known = {*labels, *(name for top in tops for name, _ in top)}
        answers = [name_answer(result, known) for result in found]
        seen = sorted({name for name in (*answers, *known) if name != UNKNOWN})
        self.labels: list[str] = list(dict.fromkeys((*labels, *seen)))
        self._results = tuple(found)
        self._unread = {r.path: r.reason for r in results if isinstance(r, ImageError)}
        self._lineages = {
            name: lineage
            for name, result in zip(answers, found, strict=True)
            for lineage in result.label_paths
        } | dict(lineages or {})
        self._numbers = {name: number for number, name in enumerate(self.labels)}
        self._numbers[UNKNOWN] = NO_LABEL
        for name in self.labels:
            check_label(name)
        self._root = root
        self.paths = [result.path for result in found]
        self.files = [os.path.join(root, path) for path in self.paths]
        self.answers = [
            make_answer(self._numbers, answer, top, result)
            for answer, top, result in zip(answers, tops, found, strict=True)
        ]
        self.relearnt: list[Answer | None] | None = None
        self._places: list[str] = []
        self._of_place: dict[str, int] = {}
        self._first: dict[int, int] = {}
        self.errors: list[str] = []
        for number, (result, file) in enumerate(zip(results, self.files, strict=True)):
            place, error = "", result.reason if isinstance(result, ImageError) else ""
            if not error:
                try:
                    place = corrections.place(file)
                except InputError as reason:
                    error = str(reason)
            if place and (first := self._of_place.setdefault(place, number)) != number:
                place, error = "", f"is the same file as {self.paths[first]}"
                self._first[number] = first
            self._places.append(place)
            self.errors.append(error)
        if not self._of_place:
            why = f"; the first: {self.paths[0]}: {self.errors[0]}" if self.paths else ""
            raise InputError(f"there is no image in the results that can be reviewed{why}")
        if not any(os.path.exists(file) for file in self.files):
            raise InputError(
                f"{self.files[0]}: not there, nor is any other image of the results; paths are "
                "relative to where `classify` ran: give that folder with --root"
            )
        self._refuse_other_list()
        for place, number in self._of_place.items():
            best = self.answers[number].best
            corrections.best[place] = "" if best == NO_LABEL else self.labels[best]
        for label in self._corrected().values():
            self._number(label)
        self._vectors: NDArray[np.float32] | None = None
        self._clusters: NDArray[np.int64] | None = None
        self._reorder()

    # -- what was said --------------------------------------------------------------------------

    def done(self) -> dict[int, int]:
        """The images that have a label by now -> its number."""
        with self._lock:
            return {n: self._numbers[label] for n, label in self._corrected().items()}

    def label(self, labels: Mapping[int, int | None]) -> list[int]:
        """Gives images labels, or takes them away (None): one action, on the disk on return.

        Args:
            labels: number of an image -> number of its label.

        Returns:
            the images whose label changed.

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
                if not self._places[number]:
                    raise InputError(f"{self.paths[number]}: {self.errors[number]}")
                changes[self._places[number]] = None if label is None else self.name(label)
            return self._ours(self.corrections.set(changes))

    def undo(self) -> list[int]:
        """Takes the last action back; the images whose label changed."""
        with self._lock:
            return self._ours(self.corrections.undo())

    def redo(self) -> list[int]:
        """Does again what was taken back last; the images whose label changed."""
        with self._lock:
            return self._ours(self.corrections.redo())

    def add_label(self, name: str) -> int:
        """The number of a label of this name, which is there from now on.

        Raises:
            InputError: a file of corrections cannot carry it.
        """
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

    # -- what comes out of it -------------------------------------------------------------------

    def reviewed(self, folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
        """The reviewed table: the person's label where one was given, elsewhere the answer.

        Args:
            folder: where the table will lie. Paths are written as in the results where these are
                relative to that folder, else absolute, so that every command finds the images.

        Yields:
            One record per result. `labelled_by` is `person`, `learnt` (by the classifier that was
            learnt from the corrections) or `model` (as in the results); `best` is the best label
            of the latest classifier.
        """
        with self._lock:
            done, count = self.done(), len(self.paths)
            answers = [self.now(number) for number in range(count)]
        is_here = os.path.realpath(folder) == os.path.realpath(self._root)
        has_levels = any(len(lineage) > 1 for lineage in self._lineages.values())
        for number, result in enumerate(self._results):
            answer, image = answers[number], self._first.get(number, number)
            lineage = result.label_paths[0] if result.given else (UNKNOWN,)
            label, score, by = lineage[-1], score_or_none(result.score), "model"
            if image in done or (answer is not self.answers[number] and not result.by_person):
                number_of = done.get(image, answer.label)
                label, score, by = self.name(number_of), answer.score, "learnt"
                lineage = self._lineages.get(label, (label,))
                if image in done:
                    score, by = None, "person"
            elif result.by_person:
                by = "person"
            error = self._unread.get(result.path, "")
            if error:
                label, by, lineage = "", "", ()
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
        """Writes the reviewed table (csv), whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        from clipcls.output.writing import open_output

        with open_output(path, "csv") as writer:
            for record in self.reviewed(path.absolute().parent):
                writer.write(record)

    # -- the order ------------------------------------------------------------------------------

    @property
    def clusters(self) -> list[int] | None:
        """The cluster of each image, -1 of those without a vector; None without vectors."""
        return None if self._clusters is None else self._clusters.tolist()

    def use_vectors(self, vectors: NDArray[np.float32]) -> None:
        """Takes the images' vectors, float32 (n, dim); a row of zeros is none."""
        rows = np.flatnonzero(vectors.any(axis=1))
        clusters = np.full(len(vectors), -1, np.int64)
        clusters[rows] = cluster_vectors(vectors[rows], _clusters(len(rows)))
        with self._lock:
            self._vectors, self._clusters = vectors, clusters
            self._reorder()

    def use_relearnt(self, answers: Sequence[Answer | None]) -> None:
        """Takes what a classifier says that was learnt from the corrections."""
        with self._lock:
            self.relearnt = list(answers)
            self._reorder()

    def now(self, image: int) -> Answer:
        """The latest that a classifier says of an image."""
        newer = self.relearnt[image] if self.relearnt else None
        return self.answers[image] if newer is None else newer

    def _reorder(self) -> None:
        margins = np.array(
            [
                # What could not be told apart is in most doubt.
                0.0 if (margin := self.now(number).margin) is None else margin
                for number in range(len(self.paths))
            ]
        )
        done = np.zeros(len(self.paths), bool)
        done[list(self.done())] = True
        found = acquisition_order(margins, self._vectors, done)
        self.order: list[int] = [n for n in found.tolist() if not self.errors[n]]

    # -- for the page ---------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All that the page shows, as in JSON."""
        with self._lock:
            return {
                "images": [
                    [path, error, answer.to_row()]
                    for path, error, answer in zip(
                        self.paths, self.errors, self.answers, strict=True
                    )
                ],
                "done": list(self.done().items()),
                "can_undo": self.corrections.can_undo,
                "can_redo": self.corrections.can_redo,
                **self.order_record(),
            }

    def order_record(self) -> dict[str, Any]:
        """What changes with what was learnt."""
        with self._lock:
            return {
                "labels": list(self.labels),
                "order": self.order,
                "clusters": self.clusters,
                "now": self.relearnt
                and [None if answer is None else answer.to_row() for answer in self.relearnt],
            }

    def change_record(self, images: Sequence[int]) -> dict[str, Any]:
        """What an action changed."""
        with self._lock:
            done = self.done()
            return {
                "changed": [[number, done.get(number)] for number in images],
                "can_undo": self.corrections.can_undo,
                "can_redo": self.corrections.can_redo,
            }

    # -------------------------------------------------------------------------------------------

    def _refuse_other_list(self) -> None:
        """Refuses corrections whose images were mostly given labels that are not in this list.

        A person may have added labels: so where the file names the classifier's best label, that
        one tells which list it was.
        """
        given, best = self.corrections.labels, self.corrections.best
        places = [place for place in given if place in self._of_place] or given
        names = [name for p in places if (name := best.get(p) or given[p]) != UNKNOWN]
        others = [name for name in names if name not in self._numbers]
        if others and 2 * len(others) >= len(names):
            shown = ", ".join(map(repr, sorted(set(others))[:3]))
            raise InputError(
                f"{self.corrections.path}: holds labels of another list ({shown}); name another "
                "file with -o, or give the list that has them with --labels"
            )

    def _corrected(self) -> dict[int, str]:
        return {
            self._of_place[place]: label
            for place, label in self.corrections.labels.items()
            if place in self._of_place
        }

    def _ours(self, places: Iterable[str]) -> list[int]:
        return [self._of_place[place] for place in places if place in self._of_place]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.labels)
            self.labels.append(name)
        return self._numbers[name]


def _clusters(images: int) -> int:
    """How many clusters, for images to get a label together: the square root, 200 at most."""
    return min(math.ceil(math.sqrt(images)), 200)
