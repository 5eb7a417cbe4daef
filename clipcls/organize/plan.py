"""Results -> which image goes into which folder under which name; changes nothing."""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.errors import ImageError, InputError
from clipcls.labels.folder_names import assign_folders, normalize_name
from clipcls.organize.fileops import (
    RefusalError,
    check_inside,
    describe_error,
    is_link_to,
    is_placed,
    read_version,
    same_content,
)
from clipcls.organize.journal import Entry, Journal, Mode, read_journals
from clipcls.organize.xmp_sidecar import SidecarNames
from clipcls.predictions import Prediction, Result

__all__ = ["Plan", "Step", "make_plan"]


@dataclass(frozen=True, slots=True)
class Step:
    """One image on its way into one folder, with its sidecars.

    Attributes:
        path: the image as the results name it.
        sources: the image and the sidecars that come along, absolute.
        folder: where they go, absolute.
        number: 1 for the image's own name, 2 for `name (2).jpg`, ...
    """

    path: str
    sources: tuple[Path, ...]
    folder: Path
    number: int

    @property
    def targets(self) -> tuple[Path, ...]:
        """Where each of `sources` goes."""
        image = self.sources[0]
        stem = image.stem if self.number == 1 else f"{image.stem} ({self.number})"
        names = [stem + image.suffix]
        for sidecar in self.sources[1:]:
            own = sidecar.stem == image.stem
            names.append((stem if own else stem + image.suffix) + sidecar.suffix)
        return tuple(self.folder / name for name in names)


@dataclass(slots=True)
class Plan:
    """What a run is going to do.

    Attributes:
        steps: in the order of the results.
        already: how many images are already in their folder.
        unread: how many images `classify` could not read; they are left alone.
        best_only: how many images have several labels and are moved to the best one's folder.
        failed: images that are missing or cannot be filed.
        labels: folder -> its label, where that is not its name.
    """

    steps: list[Step] = field(default_factory=list)
    already: int = 0
    unread: int = 0
    best_only: int = 0
    failed: list[ImageError] = field(default_factory=list)
    labels: dict[Path, str] = field(default_factory=dict)


def make_plan(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
    journals: Sequence[Journal] | None = None,
) -> Plan:
    """What `file_results` is going to do; changes nothing.

    Args:
        results: of `read_results`.
        into: the folder that gets one folder per label.
        mode: copy, move, or link (symbolic, to the absolute path).
        root: what the results' paths are relative to.
        journals: those in `into`; None to read them.

    Raises:
        InputError: none of the images exists.
    """
    target = Path(os.path.abspath(into))
    if journals is None:
        journals = read_journals(target)
    return _Planner(target, mode, Path(root), journals).plan(results)


class _Planner:
    def __init__(self, into: Path, mode: Mode, root: Path, journals: Iterable[Journal]) -> None:
        self.into = into
        self.mode = mode
        self.root = root
        self.earlier: dict[Path, list[tuple[Journal, Entry]]] = defaultdict(list)
        for journal in journals:
            for entry in journal.entries.values():
                if entry.state in ("done", "announced"):
                    self.earlier[entry.source].append((journal, entry))
        self.taken: dict[Path, set[str]] = defaultdict(set)
        self.check_folder = functools.cache(functools.partial(check_inside, into=into))
        self.seen: set[tuple[Path, Path | None]] = set()
        self.sidecar_names = SidecarNames()
        self.result = Plan()

    def plan(self, results: Sequence[Result]) -> Plan:
        predictions = [result for result in results if isinstance(result, Prediction)]
        self.result.unread = len(results) - len(predictions)
        folders = assign_folders(label for p in predictions for label in p.label_paths or ((),))
        for label, names in folders.items():
            for depth, name in enumerate(names):
                self.taken[self.into.joinpath(*names[:depth])].add(normalize_name(name))
                if label and label[depth] != name:
                    self.result.labels[self.into.joinpath(*names[: depth + 1])] = label[depth]
        missing = 0
        for result in predictions:
            source = Path(os.path.abspath(self.root / result.path))
            labels = result.label_paths or ((),)
            if self.mode == "move" and len(labels) > 1:
                self.result.best_only += 1
                labels = labels[:1]
            places = [self.into.joinpath(*folders[label]) for label in labels]
            try:
                for folder in places:
                    self.check_folder(folder)
                self._image(result.path, source, places)
            except FileNotFoundError:
                missing += 1
                self.result.failed.append(ImageError(result.path, "no such file"))
            except OSError as error:
                self.result.failed.append(ImageError(result.path, describe_error(error)))
        if missing and missing == len(predictions):
            raise InputError(
                f"{self.result.failed[0].path}: no such file, nor any other of the results; their "
                "paths are relative to where `classify` ran: give that folder with --root"
            )
        return self.result

    def _image(self, path: str, source: Path, places: Iterable[Path]) -> None:
        try:
            seen = source.lstat()
        except FileNotFoundError:
            earlier = self.earlier.get(source, ())
            if not path or not any(os.path.exists(entry.target) for _, entry in earlier):
                raise
            self.result.already += 1
            return
        except ValueError as error:  # half a surrogate pair
            raise RefusalError("is not a valid file name") from error
        if stat.S_ISLNK(seen.st_mode):
            if self.mode == "move":
                raise RefusalError("is a link, which is not moved; name its file")
            seen = source.stat()
        if not path or not stat.S_ISREG(seen.st_mode):
            raise RefusalError("is not a file")
        places = list(places)
        there_already = [self._is_there(source, seen, folder) for folder in places]
        for folder, is_done in zip(places, there_already, strict=True):
            key = (source, None if self.mode == "move" else folder)
            if key in self.seen:
                continue
            self.seen.add(key)
            if is_done:
                self.result.already += 1
                continue
            for number in itertools.count(1):
                step = Step(path, (source, *self._sidecars(source)), folder, number)
                names = [normalize_name(target.name) for target in step.targets]
                if self.taken[folder].intersection(names):
                    continue
                there = [os.path.lexists(target) for target in step.targets]
                if any(there) and not all(
                    is_placed(self.mode, source, target)
                    for source, target, is_there in zip(
                        step.sources, step.targets, there, strict=True
                    )
                    if is_there
                ):
                    continue
                self.taken[folder].update(names)
                if all(there):
                    self.result.already += 1
                else:
                    self.result.steps.append(step)
                break

    def _is_there(self, source: Path, seen: os.stat_result, folder: Path) -> bool:
        """Whether the image is already in this folder, as this run would put it there.

        Raises:
            RefusalError: an earlier run put it there in another way.
        """
        if os.path.realpath(source.parent) == os.path.realpath(folder):
            return True
        other = None
        for journal, entry in self.earlier.get(source, ()):
            if entry.state != "done" or entry.target.parent != folder:
                continue
            if journal.mode == "link":
                is_kept = is_link_to(entry.target, source)
            else:
                is_kept = entry.target.is_file() and not entry.target.is_symlink()
                if read_version(seen) != entry.version:
                    is_kept = is_kept and same_content(source, entry.target)
            if is_kept and journal.mode == self.mode:
                return True
            if is_kept:
                other = journal
        if other is not None:
            how = "moved there" if other.mode == "move" else f"there as a {other.mode}"
            raise RefusalError(
                f"is already {how}: undo that run first (clipcls sort --undo "
                f"{shlex.quote(os.fspath(other.path))})"
            )
        return False

    def _sidecars(self, image: Path) -> Iterator[Path]:
        """Its own, but no links if it is moved: a relative one would lead elsewhere from there."""
        for sidecar in self.sidecar_names.find(image):
            if sidecar.is_file() and not (self.mode == "move" and sidecar.is_symlink()):
                yield sidecar
