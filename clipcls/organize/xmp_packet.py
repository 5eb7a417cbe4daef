"""Labels as keywords in an XMP packet, next to what other programs keep there.

Keywords go into `dc:subject` (each level of a hierarchy separately) and `lr:hierarchicalSubject`
(`animal|dog|pug`), as Lightroom writes them; if a packet has `digiKam:TagsList`, there too, since
digiKam then reads nothing else. Properties of our own namespace remember what was added, so that
the next run replaces it, and keywords of other programs are never removed.

XMP: ISO 16684-1; Adobe, XMP Specification Part 1 (2012), 7.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from clipcls.errors import SidecarError, require_extra
from clipcls.labels.folder_names import normalize_name

Labels: TypeAlias = "tuple[tuple[str, ...], ...]"
"""Each label as its names from the root of the hierarchy."""

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_NOT_XML = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "clipcls": "urn:clipcls:keywords:1.0/",
}
_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>\n'
    b'<?xpacket end="w"?>'
)


def need_lxml() -> None:
    """Refuse early what would fail later.

    Raises:
        InputError: lxml is missing.
    """
    with require_extra("xmp", "writing keywords"):
        import lxml.etree  # noqa: F401


def update_packet(before: bytes, labels: Iterable[Sequence[str]], name: str) -> bytes | None:
    """An XMP packet with these labels, and none that an earlier call added.

    Args:
        before: the packet as it is; b"" for none.
        labels: each as its names from the root of the hierarchy.
        name: of its file, for messages.

    Returns:
        the new packet; b"" if nothing is left in it; None if nothing has to change.

    Raises:
        SidecarError: it is not XMP.
    """
    from lxml import etree

    names = [tuple(map(_make_writable, label)) for label in labels]
    if not before and not names:
        return None
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        tree = etree.ElementTree(etree.fromstring(before or _EMPTY, parser))
    except etree.XMLSyntaxError as error:
        raise SidecarError(f"{name}: is not XML ({error.msg})") from error
    rdf = tree.getroot()
    if rdf.tag != f"{_RDF}RDF":
        rdf = rdf.find(f"{_RDF}RDF")
    if rdf is None or tree.docinfo.doctype:
        raise SidecarError(f"{name}: is not XMP")

    packet = _Packet(rdf)
    flat = list(dict.fromkeys(name for label in names for name in label))
    own = packet.replace("dc:subject", "Bag", "clipcls:subject", flat)
    paths = ["|".join(name.replace("|", "_") for name in label) for label in names]
    others = packet.items("lr:hierarchicalSubject", without="clipcls:hierarchicalSubject")
    # A program that finds this list reads no dc:subject: it needs the others' keywords too, and
    # keeps them once the list has keywords of others.
    words = [word.replace("|", "_") for word in own]
    copied = set(map(normalize_name, packet.items("clipcls:hierarchicalSubject")))
    if names and not others:
        paths = [*words, *paths]
    elif others:
        paths = [*(word for word in words if normalize_name(word) in copied), *paths]
    packet.replace("lr:hierarchicalSubject", "Bag", "clipcls:hierarchicalSubject", paths)
    if packet.find("digiKam:TagsList") is not None:
        tags = ["/".join(name.replace("/", "_") for name in label) for label in names]
        packet.replace("digiKam:TagsList", "Seq", "clipcls:tagsList", tags)
    if not packet.changed:
        return None
    if packet.is_empty():
        return b""
    if not before:
        etree.indent(tree, " ")
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
        from lxml import etree

        self._new = etree.SubElement
        self.nodes = rdf.findall(f"{_RDF}Description")
        if not self.nodes:
            self.nodes = [self._new(rdf, f"{_RDF}Description", {f"{_RDF}about": ""})]
        self.changed = False

    def find(self, name: str) -> Any:
        """The property's element, or None; a plain value becomes a list of one."""
        tag = _tag(name)
        for node in self.nodes:
            if (found := node.find(tag)) is not None:
                return found
            if (value := node.attrib.pop(tag, None)) is not None:
                return self._make(name, "Bag", [value])
        return None

    def items(self, name: str, without: str = "") -> list[str]:
        """The values of a list, except those that another list holds."""
        left_out = set(map(normalize_name, self.items(without))) if without else set()
        found = self.find(name)
        if found is None:
            return []
        texts = [item.text or "" for item in found.iter(f"{_RDF}li")]
        if not texts and not len(found) and (found.text or "").strip():
            texts = [found.text.strip()]
        return [text for text in texts if normalize_name(text) not in left_out]

    def replace(self, name: str, kind: str, mine: str, wanted: Sequence[str]) -> list[str]:
        """Replace our values, which `mine` remembers, by others; return those of other programs."""
        before, own = self.items(name), self.items(mine)
        others = self.items(name, without=mine)
        known = set(map(normalize_name, others))
        added = []
        for value in wanted:
            if normalize_name(value) not in known:
                known.add(normalize_name(value))
                added.append(value)
        if set(before) != {*others, *added}:
            self._set(name, kind, [*others, *added])
        if set(own) != set(added):
            self._set(mine, "Bag", added)
        return others

    def is_empty(self) -> bool:
        """Whether no property is left."""
        return all(not len(node) and set(node.attrib) <= {f"{_RDF}about"} for node in self.nodes)

    def _set(self, name: str, kind: str, values: Sequence[str]) -> None:
        self.changed = True
        found = self.find(name)
        if found is None:
            if values:
                self._make(name, kind, values)
        elif values:
            found.text = None
            self._fill(found[0] if len(found) else self._new(found, f"{_RDF}{kind}"), values)
        else:
            found.getparent().remove(found)

    def _make(self, name: str, kind: str, values: Sequence[str]) -> Any:
        prefix = name.partition(":")[0]
        made = self._new(self.nodes[0], _tag(name), nsmap={prefix: _NAMESPACES[prefix]})
        self._fill(self._new(made, f"{_RDF}{kind}"), values)
        return made

    def _fill(self, array: Any, values: Sequence[str]) -> None:
        array[:] = []
        for value in values:
            self._new(array, f"{_RDF}li").text = value


def _tag(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{local}"


def _make_writable(name: str) -> str:
    """The name with _ for characters that XML cannot hold."""
    return _NOT_XML.sub("_", unicodedata.normalize("NFC", name))
