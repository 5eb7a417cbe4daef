"""Suggested labels as a text file to edit, which `classify --labels` reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipcls.errors import format_count, printable
from clipcls.output.writer import Writer


class LabelFileWriter(Writer):
    """Writes a line per label; a comment above it has its images, an example and other names.

    Clusters without a label are comments.
    """

    def format(self, record: Mapping[str, Any]) -> str:
        """The label file of a `Suggestion`'s record."""
        labels, images = record["labels"], format_count(record["images"], "image")
        lines = [
            f"# {format_count(len(labels), 'label')} for {images}, suggested by clipcls "
            f"with {printable(record['model'])} ({record['weights']}).",
            "# Edit it, then: clipcls classify --labels FILE",
        ]
        for label in labels:
            also = ", ".join(map(printable, label["merged"]))
            lines += [
                f"# {format_count(label['images'], 'image')}, such as {printable(label['example'])}"
                f"{'; also: ' * bool(also)}{also}",
                printable(label["line"]) if self._stream.isatty() else label["line"],
            ]
        if record["unnamed"]:
            lines.append("# No name of the vocabulary fits the images below: look, and add labels.")
        for cluster in record["unnamed"]:
            examples = ", ".join(map(printable, cluster["examples"]))
            lines.append(f"# {format_count(cluster['images'], 'image')}, such as {examples}")
        return "\n".join(lines) + "\n"
