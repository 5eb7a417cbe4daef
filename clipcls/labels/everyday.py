"""Everyday names, with which images and labels are compared."""

from __future__ import annotations

from clipcls.files.text import number_lines, read_text
from clipcls.labels.names import fill_template
from clipcls.labels.presets import list_sets
from clipcls.labels.prompts import TEMPLATE

_SETS = ("imagenet", "scenes", "textures")  # lists of plain names, one per line


def everyday_texts(every: int = 1) -> list[str]:
    """One text per name of the ready label sets `imagenet`, `scenes` and `textures`.

    Args:
        every: take only each such name, for a sample.
    """
    files = list_sets("labels")
    names = (line for name in _SETS for _, line in number_lines(read_text(files[name])))
    return [fill_template(TEMPLATE, name) for name in [*dict.fromkeys(names)][::every]]
