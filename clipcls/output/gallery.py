"""Results as one page: counts, scores, and every image, the doubtful ones first.

The page is self-contained: it has its style, its script, the records as JSON and a small JPEG per
image. Its policy lets it run that one script and load nothing but image files.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from clipcls.data.thumbnails import make_thumbnails
from clipcls.errors import ImageError
from clipcls.files.on_disk import is_url, join_address
from clipcls.labels.names import join_levels
from clipcls.output.page import render_page
from clipcls.output.reader import gather_answers, read_record
from clipcls.output.writer import Writer
from clipcls.predictions import UNKNOWN, Prediction, Provenance, Result
from clipcls.questions import Answers

SIDE = 160
"""Longer side of a thumbnail in pixels, unless asked otherwise."""

_QUALITY = 70  # half the bytes of 90, and wrong labels are as easy to see
_TOGETHER = 64  # images whose thumbnails are made together


class GalleryWriter(Writer):
    """Writes the page as the records come, with the thumbnails of 64 images in memory.

    Args:
        stream: a text file; links to the images start from its folder.
        title: of the page.
        root: the folder that the records' paths are relative to.
        side: the longer side of a thumbnail in pixels.

    Attributes:
        shown: the number of images with a thumbnail.
        gone: the number of images that can no longer be read, which are marked.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        title: str = "Results",
        root: str | os.PathLike[str] = ".",
        side: int = SIDE,
    ) -> None:
        super().__init__(stream)
        self.shown = self.gone = 0
        self._title = title
        self._root = root
        self._side = side
        name = getattr(stream, "name", None)
        file = name if isinstance(name, str) and os.path.isfile(name) else "here"
        self._folder = os.path.dirname(os.path.abspath(file))
        self._waiting: list[Result | Answers] = []
        self._provenance: dict[Provenance, None] = {}
        self._begun = False

    def add(self, item: Any) -> None:
        """Add one result, or its record; every 64 are written together."""
        is_record = isinstance(item, Mapping)
        self._waiting.append(gather_answers(read_record("results", item)) if is_record else item)
        if len(self._waiting) == _TOGETHER:
            self._write_waiting()

    def finish(self) -> None:
        """Write the results that wait, and the end."""
        self._write_waiting()
        end = {"provenance": [_describe(provenance) for provenance in self._provenance]}
        self._stream.write(_data(end, 'id="end"') + "</body>\n</html>\n")
        self._stream.flush()

    def _write_waiting(self) -> None:
        if not self._begun:
            self._begun = True
            self._stream.write(_beginning(self._title))
        results, self._waiting = self._waiting, []
        read = [r for r in results if not isinstance(r, ImageError)]
        paths = [join_address(os.fspath(self._root), r.path) for r in read]
        pictures = make_thumbnails(paths, self._side, quality=_QUALITY)
        records: list[dict[str, Any]] = []
        images = ""
        for result in results:
            if isinstance(result, ImageError):
                records.append(result.to_dict())
                continue
            picture = next(pictures)
            records.append(self._record(result, picture))
            code = "" if isinstance(picture, ImageError) else base64.b64encode(picture).decode()
            images += f'<script type="text/plain" class="image">{code}</script>\n'
            for answer in result.questions.values():
                if answer.provenance:
                    self._provenance[answer.provenance] = None
        self._stream.write(_data(records, 'class="records"') + images)
        self._stream.flush()

    def _record(self, result: Prediction | Answers, picture: bytes | ImageError) -> dict[str, Any]:
        record: dict[str, Any] = {"path": result.path, "labels": [], "top": []}
        answers = result.questions
        if all(answer.by_person for answer in answers.values()):
            record["reviewed"] = True
        for question, answer in answers.items():
            asked = f"{question}: " if question else ""
            names = [join_levels(path) for path in answer.label_paths] or [UNKNOWN]
            scores = [candidate.score for candidate in answer.given] or [answer.score]
            known = [c for c in answer.top if c.label != UNKNOWN and not math.isnan(c.score)]
            record["labels"] += [
                (asked + name, None if math.isnan(score) else round(score, 6))
                for name, score in zip(names, scores, strict=True)
            ]
            record["top"] += [(asked + c.label, round(c.score, 6)) for c in known]
            if answer.label_set is not None:
                record.setdefault("set", []).extend(asked + name for name in answer.label_set)
        if isinstance(picture, ImageError):
            self.gone += 1
            record["gone"] = picture.reason
        else:
            self.shown += 1
            record["link"] = self._link(result.path)
        return record

    def _link(self, path: str) -> str:
        """The address of an image, relative to the page if it is a file of this disk."""
        if is_url(path):
            return quote(path, safe=":/?&=%+,;@~!$'()*")
        file = os.path.abspath(os.path.join(self._root, path))
        try:
            relative = os.path.relpath(file, self._folder)
        except ValueError:  # on another drive
            return Path(file).as_uri()
        # With ./ in front nothing before a colon is taken for a protocol.
        return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _beginning(title: str) -> str:
    """The page up to the records."""
    from markupsafe import Markup

    folder = importlib.resources.files("clipcls.output")
    values = {"title": title}
    for kind, suffix in (("script", "js"), ("style", "css")):
        text = (folder / f"gallery.{suffix}").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        # The Content-Security-Policy lets only these run.
        values |= {kind: Markup(text), f"{kind}_hash": f"sha256-{digest}"}
    return render_page("output/gallery.html", values) + "\n"


def _data(value: object, attribute: str) -> str:
    """JSON in an element that no text in it can end."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" {attribute}>{text}</script>\n'


def _describe(made: Provenance) -> str:
    parts = [f"model {made.model} ({made.weights}, {made.precision})", f'prompts "{made.prompts}"']
    parts += [f"calibration {made.calibration}"] if made.calibration else []
    parts += [f"classifier {made.classifier}"] if made.classifier else []
    return ", ".join([*parts, *(["refined"] if made.refined else [])])
