"""XMP sidecars: which belongs to which image, and labels as keywords in them."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipcls.data.file_kinds import RAW_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES
from clipcls.errors import SidecarError, os_reason
from clipcls.files.atomic import temporary_path, write_new
from clipcls.files.folders import is_inside
from clipcls.labels.folder_names import normalize_name
from clipcls.organize.fileops import place
from clipcls.organize.xmp_packet import Labels, update_packet

_PICTURES = SUFFIXES | RAW_SUFFIXES | VIDEO_SUFFIXES
_LARGEST = 64 << 20  # bytes


class SidecarNames:
    """Which sidecars belong to which image; each folder is listed once.

    `photo.jpg.xmp` is the sidecar of `photo.jpg` alone. `photo.xmp` belongs to the raw file of that
    name, for which Adobe's programs write it; without a raw file, to the only image or video of
    that name; else to none of them.

    Args:
        full_name: whether to write `photo.jpg.xmp` even if `photo.xmp` is the image's own.
    """

    def __init__(self, full_name: bool = False) -> None:
        self._full_name = full_name
        self._folders: dict[Path, _Folder] = {}

    def update(self, image: Path, labels: Labels | None) -> bool:
        """Write these labels into an image's sidecar; None: remove ours from all its sidecars.

        Returns whether something was changed; raises `SidecarError`.
        """
        changed = False
        for sidecar in self.find(image) if labels is None else [self.choose(image)]:
            try:
                changed |= update_sidecar(sidecar, labels or ())
            except OSError as error:
                raise SidecarError(f"{sidecar.name}: {os_reason(error)}") from error
        return changed

    def choose(self, image: Path) -> Path:
        """The sidecar to write: the short one if it is the image's own, unless `full_name`."""
        stem = image.name if self._full_name or not self._owns_short(image) else image.stem
        return self._existing(image, stem) or image.with_name(f"{stem}.xmp")

    def find(self, image: Path) -> list[Path]:
        """The image's own sidecars that exist."""
        stems = [image.name, *([image.stem] if self._owns_short(image) else [])]
        return [found for stem in stems if (found := self._existing(image, stem))]

    def _owns_short(self, image: Path) -> bool:
        folder = self._list(image.parent)
        names = folder.by_stem[normalize_name(image.stem)]
        owners = [n for n in names if Path(n).suffix.lower() in RAW_SUFFIXES] or names
        return set(owners) <= {image.name} and image.stem not in folder.names

    def _existing(self, image: Path, stem: str) -> Path | None:
        """`stem.xmp` in any case, but not one whose spelling is exactly another file's."""
        folder = self._list(image.parent)
        sidecars = folder.sidecars[normalize_name(stem)]
        if f"{stem}.xmp" in sidecars:
            return image.with_name(f"{stem}.xmp")
        for name in sorted(sidecars, key=lambda name: name[:-4] != stem):
            if name[:-4] == stem or name[:-4] not in folder.names:
                return image.with_name(name)
        return None

    def _list(self, path: Path) -> _Folder:
        if path not in self._folders:
            try:
                names = os.listdir(path)
            except OSError:  # the images in it may still be readable
                names = []
            self._folders[path] = _Folder(names)
        return self._folders[path]


class _Folder:
    """The names in a folder: sidecars by the name before .xmp, images and videos by stem."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)
        self.sidecars: defaultdict[str, list[str]] = defaultdict(list)
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".xmp":
                self.sidecars[normalize_name(stem)].append(name)
            elif suffix.lower() in _PICTURES:
                self.by_stem[normalize_name(stem)].append(name)


def update_sidecar(sidecar: Path, labels: Iterable[Sequence[str]]) -> bool:
    """Write these labels into a sidecar, and remove those that an earlier call added.

    A missing sidecar is made if there are labels; one with nothing left in it is removed.

    Returns:
        Whether it was changed.

    Raises:
        OSError: it cannot be read or written.
        SidecarError: it is not XMP, leads out of its folder, or was changed in the meantime.
    """
    file = Path(os.path.realpath(sidecar))
    if not is_inside(file, sidecar.parent):
        raise SidecarError(f"{sidecar.name}: is a link out of its folder, to {file}")
    before = b""
    if file.exists():
        if file.stat().st_size > _LARGEST:
            raise SidecarError(f"{sidecar.name}: is larger than 64 MiB")
        if not (before := file.read_bytes()):
            raise SidecarError(f"{sidecar.name}: is empty; delete it")
    packet = update_packet(before, labels, sidecar.name)
    if packet is None:
        return False
    if not packet:
        file.unlink()
        return True
    with temporary_path(file) as part:
        write_new(part, packet)
        if not before:
            place(part, file)
            return True
        with contextlib.suppress(OSError):
            part.chmod(file.stat().st_mode & 0o7777)
        if file.read_bytes() != before:
            raise SidecarError(f"{sidecar.name}: was changed in the meantime; run it again")
        os.replace(part, file)
    return True
