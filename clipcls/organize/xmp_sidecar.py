"""Labels as keywords in XMP sidecars, beside what other programs keep there.

Keywords go into `dc:subject` (every level of a hierarchy for itself) and `lr:hierarchicalSubject`
(`animal|dog|pug`), as Lightroom writes them; into `digiKam:TagsList` too where a sidecar has it,
since digiKam then reads nothing else. What was added is remembered in properties of our own
namespace, so that the next run replaces it, and nobody else's keyword is ever removed.

XMP: ISO 16684-1; Adobe, XMP Specification Part 1 (2012), 7.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from clipcls.data.file_kinds import RAW_SUFFIXES, SUFFIXES, VIDEO_SUFFIXES
from clipcls.errors import ImageError, InputError, SidecarError, install_command, os_reason
from clipcls.files.folders import is_inside
from clipcls.labels.folder_names import alike
from clipcls.organize.fileops import place
from clipcls.predictions import REJECT, Prediction, Result

__all__ = [
    "SidecarNames",
    "Sidecars",
    "need_lxml",
    "update_each",
    "update_sidecar",
    "updated_packet",
    "write_sidecars",
]

Labels: TypeAlias = "tuple[tuple[str, ...], ...]"

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "clipcls": "urn:clipcls:keywords:1.0/",
}
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b'  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    b' xmlns:lr="http://ns.adobe.com/lightroom/1.0/"'
    b' xmlns:clipcls="urn:clipcls:keywords:1.0/">\n'
    b"  </rdf:Description>\n"
    b" </rdf:RDF>\n"
    b"</x:xmpmeta>\n"
    b'<?xpacket end="w"?>'
)
_PICTURES = SUFFIXES | RAW_SUFFIXES | VIDEO_SUFFIXES
_LARGEST = 64 << 20  # bytes


@dataclass(slots=True)
class Sidecars:
    """What a run did.

    Attributes:
        what: what keywords were written into: sidecars, or images.
        written: how many of them are new or changed.
        unchanged: how many images needed no change.
        unread: how many images `classify` could not read; they are left alone.
        failed: images for which nothing could be read or written.
    """

    what: str = "sidecars"
    written: int = 0
    unchanged: int = 0
    unread: int = 0
    failed: list[ImageError] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all done; 1: some could not be."""
        return 1 if self.failed else 0

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.written:,} {self.what} written"]
        if self.unchanged:
            parts.append(f"{self.unchanged:,} images needed no change")
        if self.unread:
            parts.append(f"{self.unread:,} left alone that `classify` could not read")
        if self.failed:
            parts.append(f"{len(self.failed):,} could not be done")
        return "; ".join(parts)


def write_sidecars(
    results: Sequence[Result],
    *,
    root: str | os.PathLike[str] = ".",
    full_name: bool = False,
    remove: bool = False,
    watch: Callable[[int], None] = lambda failed: None,
) -> Sidecars:
    """Writes each image's labels into its sidecar; an image without a label loses those of before.

    Args:
        results: of `read_results`.
        root: what the results' paths are relative to.
        full_name: `photo.jpg.xmp` for each image, and not only where `photo.xmp` belongs to
            another file; see `SidecarNames`.
        remove: take out what was written before, under either name, and write nothing.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: lxml is missing, or none of the images is there.
    """
    need_lxml()

    def update(image: Path, labels: Labels) -> bool:
        sidecars = names.find(image) if remove else [names.choose(image, full_name)]
        changed = False
        for sidecar in sidecars:
            try:
                changed |= update_sidecar(sidecar, () if remove else labels)
            except OSError as error:
                raise SidecarError(f"{sidecar.name}: {os_reason(error)}") from error
        return changed

    names = SidecarNames()
    return update_each(results, update, root=root, watch=watch)


def update_each(
    results: Sequence[Result],
    update: Callable[[Path, Labels], bool],
    *,
    root: str | os.PathLike[str] = ".",
    watch: Callable[[int], None] = lambda failed: None,
    what: str = "sidecars",
) -> Sidecars:
    """Does one thing for each image, and counts.

    Args:
        results: of `read_results`.
        update: what is called with an image's path and labels; says whether something changed.
        root: what the results' paths are relative to.
        watch: called after each image with the number that failed so far.
        what: what is written.

    Raises:
        InputError: none of the images is there.
    """
    done = Sidecars(what)
    images = [
        (result, Path(os.path.abspath(Path(root) / result.path)))
        for result in results
        if isinstance(result, Prediction)
    ]
    done.unread = len(results) - len(images)
    if images and not any(image.is_file() for _, image in images):
        raise InputError(
            f"{images[0][0].path}: no such file, nor any other of the results; their paths are "
            "relative to where `classify` ran: give that folder with --root"
        )
    for result, image in images:
        try:
            if not image.is_file():
                raise SidecarError("no such file")
            changed = update(image, result.label_paths)
        except SidecarError as error:
            done.failed.append(ImageError(result.path, str(error)))
        except OSError as error:
            done.failed.append(ImageError(result.path, os_reason(error)))
        else:
            done.written += changed
            done.unchanged += not changed
        watch(len(done.failed))
    return done


def need_lxml() -> None:
    """Says before the work whether it can be done.

    Raises:
        InputError: lxml is missing.
    """
    try:
        import lxml.etree  # noqa: F401
    except ImportError as error:
        raise InputError(f"XMP sidecars need lxml: {install_command('xmp')}") from error


class SidecarNames:
    """Which sidecars belong to which image; lists each folder once.

    `photo.jpg.xmp` is the sidecar of `photo.jpg` alone. `photo.xmp` belongs to the raw file of that
    name, for which Adobe's programs write it; without a raw file, to the only image or video of
    that name; else to none of them.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}

    def choose(self, image: Path, full_name: bool = False) -> Path:
        """The sidecar to write: the short one if it is the image's own, unless `full_name`."""
        stem = image.name if full_name or not self._owns_short(image) else image.stem
        return self._existing(image, stem) or image.with_name(f"{stem}.xmp")

    def find(self, image: Path) -> list[Path]:
        """The image's own sidecars that exist."""
        stems = [image.name, *([image.stem] if self._owns_short(image) else [])]
        return [found for stem in stems if (found := self._existing(image, stem))]

    def _owns_short(self, image: Path) -> bool:
        folder = self._list(image.parent)
        names = folder.by_stem[alike(image.stem)]
        owners = [n for n in names if Path(n).suffix.lower() in RAW_SUFFIXES] or names
        return set(owners) <= {image.name} and image.stem not in folder.names

    def _existing(self, image: Path, stem: str) -> Path | None:
        """`stem.xmp`, in any case, but not one that is another file's to the letter."""
        folder = self._list(image.parent)
        sidecars = folder.sidecars[alike(stem)]
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
            except OSError:  # the images in it may still be reached by name
                names = []
            self._folders[path] = _Folder(names)
        return self._folders[path]


class _Folder:
    """The names in a folder: of sidecars by what they are for, of images and videos by stem."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)
        self.sidecars: defaultdict[str, list[str]] = defaultdict(list)
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() == ".xmp":
                self.sidecars[alike(stem)].append(name)
            elif suffix.lower() in _PICTURES:
                self.by_stem[alike(stem)].append(name)


def update_sidecar(sidecar: Path, labels: Iterable[Sequence[str]]) -> bool:
    """Makes a sidecar carry these labels, and none that an earlier call added.

    Args:
        sidecar: made where it is missing and there are labels; removed where nothing is left in it.
        labels: each as the names from the root of the hierarchy to the label.

    Returns:
        whether it was changed.

    Raises:
        OSError: it cannot be read or written.
        SidecarError: it is no XMP, leads out of its folder, or was changed meanwhile.
    """
    file = Path(os.path.realpath(sidecar))
    if not is_inside(file, sidecar.parent):
        raise SidecarError(f"{sidecar.name}: is a link out of its folder, to {file}")
    try:
        before = file.read_bytes() if file.stat().st_size <= _LARGEST else None
    except FileNotFoundError:
        before = b""
    else:
        if before is None:
            raise SidecarError(f"{sidecar.name}: is larger than 64 MiB")
        if not before:
            raise SidecarError(f"{sidecar.name}: is empty; delete it")
    packet = updated_packet(before, labels, sidecar.name)
    if packet is None:
        return False
    if packet:
        _write(file, before, packet)
    else:
        file.unlink()
    return True


def updated_packet(before: bytes, labels: Iterable[Sequence[str]], name: str) -> bytes | None:
    """An XMP packet that carries these labels, and none that an earlier call added.

    Args:
        before: the packet as it is; b"" for none.
        labels: each as the names from the root of the hierarchy to the label.
        name: of its file, for messages.

    Returns:
        the new packet; b"" where nothing is left in it; None where nothing has to change.

    Raises:
        SidecarError: it is no XMP.
    """
    from lxml import etree

    names = [
        tuple(_writable(name) for name in label) for label in labels if tuple(label) != (REJECT,)
    ]
    if not before and not names:
        return None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        tree = etree.ElementTree(etree.fromstring(before or _EMPTY, parser))
    except etree.XMLSyntaxError as error:
        raise SidecarError(f"{name}: is not XML ({error.msg})") from error
    rdf = tree.getroot()
    if rdf.tag != f"{{{_RDF}}}RDF":
        rdf = rdf.find(f"{{{_RDF}}}RDF")
    if rdf is None or tree.docinfo.doctype:
        raise SidecarError(f"{name}: is not XMP")

    packet = _Packet(rdf)
    flat = list(dict.fromkeys(name for label in names for name in label))
    own = packet.replace("dc:subject", "Bag", "clipcls:subject", flat)
    paths = ["|".join(name.replace("|", "_") for name in label) for label in names]
    others = packet.items("lr:hierarchicalSubject", without="clipcls:hierarchicalSubject")
    # A program that finds these reads no dc:subject: others' keywords have to be in it too, and to
    # stay once somebody else's are.
    words = [word.replace("|", "_") for word in own]
    copied = set(map(alike, packet.items("clipcls:hierarchicalSubject")))
    if names and not others:
        paths = [*words, *paths]
    elif others:
        paths = [*(word for word in words if alike(word) in copied), *paths]
    packet.replace("lr:hierarchicalSubject", "Bag", "clipcls:hierarchicalSubject", paths)
    if packet.find("digiKam:TagsList") is not None:
        tags = ["/".join(name.replace("/", "_") for name in label) for label in names]
        packet.replace("digiKam:TagsList", "Seq", "clipcls:tagsList", tags)
    if not packet.changed:
        return None
    if packet.is_empty():
        return b""
    declared = before.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml ")
    root = tree.getroot()
    nodes = [*reversed([*root.itersiblings(preceding=True)]), root, *root.itersiblings()]
    lines = [etree.tostring(node, encoding="utf-8", with_tail=False) for node in nodes]
    if declared:
        lines.insert(0, b'<?xml version="1.0" encoding="UTF-8"?>')
    return b"\n".join(lines) + b"\n"


class _Packet:
    """The properties of an rdf:RDF; names are written as `prefix:name`."""

    def __init__(self, rdf: Any) -> None:
        self.nodes = rdf.findall(f"{{{_RDF}}}Description")
        if not self.nodes:
            from lxml import etree

            self.nodes = [etree.SubElement(rdf, f"{{{_RDF}}}Description")]
            self.nodes[0].set(f"{{{_RDF}}}about", "")
        self.changed = False

    def find(self, name: str) -> Any:
        """The property's element, or None; a plain value is made a list of one."""
        tag = _tag(name)
        for node in self.nodes:
            if (found := node.find(tag)) is not None:
                return found
            if (value := node.attrib.get(tag)) is not None:
                del node.attrib[tag]
                return self._make(name, "Bag", [value])
        return None

    def items(self, name: str, without: str = "") -> list[str]:
        """The values of a list, but those that another list holds."""
        left_out = set(map(alike, self.items(without))) if without else set()
        found = self.find(name)
        if found is None:
            return []
        texts = [item.text or "" for item in found.iter(f"{{{_RDF}}}li")]
        if not texts and not len(found) and (found.text or "").strip():
            texts = [found.text.strip()]
        return [text for text in texts if alike(text) not in left_out]

    def replace(self, name: str, kind: str, mine: str, wanted: Sequence[str]) -> list[str]:
        """Puts our values in the place of those that `mine` remembers; returns the others'."""
        before, own = self.items(name), self.items(mine)
        others = self.items(name, without=mine)
        known = set(map(alike, others))
        added = []
        for value in wanted:
            if alike(value) not in known:
                known.add(alike(value))
                added.append(value)
        if set(before) != {*others, *added}:
            self._set(name, kind, [*others, *added])
        if set(own) != set(added):
            self._set(mine, "Bag", added)
        return others

    def is_empty(self) -> bool:
        """Whether no property is left."""
        about = f"{{{_RDF}}}about"
        return all(not len(node) and set(node.attrib) <= {about} for node in self.nodes)

    def _set(self, name: str, kind: str, values: Sequence[str]) -> None:
        self.changed = True
        found = self.find(name)
        if found is not None and len(found):
            kind = found[0].tag.rpartition("}")[2] if isinstance(found[0].tag, str) else kind
        if found is None:
            if values:
                self._make(name, kind, values)
            return
        parent, position, tail = found.getparent(), found.getparent().index(found), found.tail
        parent.remove(found)
        if values:
            made = self._make(name, kind, values)
            made.tail = tail
            parent.insert(position, made)

    def _make(self, name: str, kind: str, values: Sequence[str]) -> Any:
        from lxml import etree

        prefix = name.partition(":")[0]
        node = self.nodes[0]
        made = etree.SubElement(node, _tag(name), nsmap={prefix: _NAMESPACES[prefix]})
        array = etree.SubElement(made, f"{{{_RDF}}}{kind}")
        for value in values:
            etree.SubElement(array, f"{{{_RDF}}}li").text = value
        etree.indent(made, " ", level=3)
        if (previous := made.getprevious()) is None:
            node.text = "\n   "
        else:
            previous.tail = "\n   "
        made.tail = "\n  "
        return made


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"


def _writable(name: str) -> str:
    """What XML cannot hold becomes _."""
    text = unicodedata.normalize("NFC", name)
    return "".join(
        "_" if unicodedata.category(c) in ("Cc", "Cs") or c in "\ufffe\uffff" else c for c in text
    )


def _write(sidecar: Path, before: bytes, data: bytes) -> None:
    """Whole or not at all, and only over what was read."""
    part = sidecar.with_name(f".{sidecar.name}.{secrets.token_hex(4)}.part")  # no other run's
    try:
        with part.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if not before:
            place(part, sidecar)
            return
        with contextlib.suppress(OSError):
            part.chmod(sidecar.stat().st_mode & 0o7777)
        if sidecar.read_bytes() != before:
            raise SidecarError(f"{sidecar.name}: was changed meanwhile; run it again")
        os.replace(part, sidecar)
    finally:
        part.unlink(missing_ok=True)
