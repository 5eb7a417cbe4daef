"""Plan which image goes into which folder under which name; nothing is changed."""

from __future__ import annotations

import functools
import itertools
import os
import shlex
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcls.errors import ImageError, os_reason
from clipcls.labels.folder_names import assign_folders, normalize_name
from clipcls.organize.fileops import (
    Mode,
    RefusalError,
    Version,
    check_inside,
    is_link_to,
    is_placed,
    read_version,
    same_content,
)
from clipcls.organize.journal import Entry, Journal, read_journals
from clipcls.organize.report import Report, no_images_error, start_report
from clipcls.organize.xmp_sidecar import SidecarNames
from clipcls.predictions import Result

_ACTIONS = {"copy": "copied", "move": "moved", "link": "linked"}


@dataclass(frozen=True, slots=True)
class Step:
    """One image on its way into one folder, with its sidecars."""

    path: str  # as in the results
    sources: dict[Path, Version]  # the image and its sidecars, absolute
    folder: Path  # absolute
    number: int  # 1 for the image's own name, 2 for `name (2).jpg`, ...

    @property
    def targets(self) -> dict[Path, Path]:
        """Each of `sources` -> its new path."""
        image, *sidecars = self.sources
        stem = image.stem if self.number == 1 else f"{image.stem} ({self.number})"
        found = {image: self.folder / (stem + image.suffix)}
        for sidecar in sidecars:
            is_short = sidecar.stem == image.stem
            name = (stem if is_short else stem + image.suffix) + sidecar.suffix
            found[sidecar] = self.folder / name
        return found


@dataclass(slots=True)
class Plan:
    """The steps of a run; `report` counts the images that need none or cannot be filed."""

    report: Report
    steps: list[Step] = field(default_factory=list)
    labels: dict[Path, str] = field(default_factory=dict)  # of folders that are named differently


def make_plan(
    results: Sequence[Result],
    into: str | os.PathLike[str],
    mode: Mode = "copy",
    *,
    root: str | os.PathLike[str] = ".",
    journals: Sequence[Journal] | None = None,
) -> Plan:
    """Plan what `file_results` does with the same arguments; nothing is changed.

    `journals` are those in `into`; None to read them.

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
        self.planned: set[tuple[Path, Path | None]] = set()
        self.sidecars = SidecarNames()

    def plan(self, results: Sequence[Result]) -> Plan:
        self.report, predictions = start_report(_ACTIONS[self.mode], results, self.root)
        self.result = Plan(self.report)
        folders = assign_folders(label for p in predictions for label in p.label_paths or ((),))
        for label, names in folders.items():
            for depth, name in enumerate(names):
                self.taken[self.into.joinpath(*names[:depth])].add(normalize_name(name))
                if label and label[depth] != name:
                    self.result.labels[self.into.joinpath(*names[: depth + 1])] = label[depth]
        missing = 0
        for result in predictions:
            labels = result.label_paths or ((),)
            if self.mode == "move" and len(labels) > 1:
                self.report.best_only += 1
                labels = labels[:1]
            try:
                self._add_image(result.path, [self.into.joinpath(*folders[la]) for la in labels])
            except FileNotFoundError:
                missing += 1
                self.report.failed.append(ImageError(result.path, "no such file"))
            except OSError as error:
                self.report.failed.append(ImageError(result.path, os_reason(error)))
        if missing and missing == len(predictions):
            raise no_images_error(predictions[0].path)
        return self.result

    def _add_image(self, path: str, folders: Sequence[Path]) -> None:
        source = Path(os.path.abspath(self.root / path))
        for folder in folders:
            self.check_folder(folder)
        try:
            found = source.lstat()
        except FileNotFoundError:
            if not any(os.path.exists(entry.target) for _, entry in self.earlier.get(source, ())):
                raise
            self.report.unchanged += 1
            return
        except ValueError as error:  # half a surrogate pair
            raise RefusalError("is not a valid file name") from error
        if stat.S_ISLNK(found.st_mode):
            if self.mode == "move":
                raise RefusalError("is a link, which is not moved; name its file")
            found = source.stat()
        if not path or not stat.S_ISREG(found.st_mode):
            raise RefusalError("is not a file")
        version = read_version(found)
        filed = [self._is_filed(source, version, folder) for folder in folders]
        for folder, is_filed in zip(folders, filed, strict=True):
            key = (source, None if self.mode == "move" else folder)
            if key in self.planned:
                continue
            self.planned.add(key)
            step = None if is_filed else self._find_name(path, source, version, folder)
            if step:
                self.result.steps.append(step)
            else:
                self.report.unchanged += 1

    def _find_name(self, path: str, source: Path, version: Version, folder: Path) -> Step | None:
        """The step with the first free name; None if the same files already have that name."""
        sources = {source: version}
        for sidecar in self.sidecars.find(source):
            # A relative link would lead elsewhere from its new folder.
            if sidecar.is_file() and not (self.mode == "move" and sidecar.is_symlink()):
                sources[sidecar] = read_version(sidecar.stat())
        for number in itertools.count(1):
            step = Step(path, sources, folder, number)
            names = [normalize_name(target.name) for target in step.targets.values()]
            taken = {pair for pair in step.targets.items() if os.path.lexists(pair[1])}
            if not self.taken[folder].intersection(names) and all(
                is_placed(self.mode, *pair) for pair in taken
            ):
                break
        self.taken[folder].update(names)
        return None if len(taken) == len(names) else step

    def _is_filed(self, source: Path, version: Version, folder: Path) -> bool:
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
            is_kept = is_link_to(entry.target, source)
            if journal.mode != "link":
                is_kept = entry.target.is_file() and not entry.target.is_symlink()
                is_kept &= version == entry.version or same_content(source, entry.target)
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
