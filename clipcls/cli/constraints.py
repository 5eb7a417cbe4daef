"""Which options exclude or need each other, and which files would collide."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

_OWN_LABELS = "a classifier has its own labels"
_REFINED = "its promises would not hold for refined scores"
_ONE_LABEL = "it is for one label per image"
_FILING = ("sort-into", "xmp")
_KEYWORDS = "write keywords first; sidecars then move with their images"

# By long name, the most telling reason first. `settings` reads this too: where one of a pair is
# given, it does not take the other from a weaker place.
EXCLUSIVE: tuple[tuple[str, str, str], ...] = (
    ("labels", "label", "write --labels FILE, or -l for each label"),
    *((other, "classifier", _OWN_LABELS) for other in ("labels", "label", "prompts")),
    ("classifier", "multi-label", "it was learnt to choose one label per image"),
    ("level", "multi-label", _ONE_LABEL),
    *(("refine", x, _REFINED) for x in ("calibration", "coverage", "max-error", "prediction-sets")),
    ("classifier", "refine", "its answers are not refined"),
    ("classifier", "min-similarity", "its similarities are not to texts"),
    ("level", "refine", "answers are not refined where labels have a hierarchy"),
    ("refine", "shard", "all images are refined together"),
    *(("ray", x, "filing needs one file of results: run `clipcls sort`") for x in _FILING),
    *(("ray", x, "workers have no cache of embeddings") for x in ("cache", "explain")),
    ("ray", "refine", "all images are refined together"),
    ("ray", "heatmap", "classify the images in question on this machine"),
    ("coverage", "max-error", ""),
    ("cache", "no-cache", ""),
    ("move", "link", ""),
    *(("undo", x, "it stands alone") for x in ("into", "move", "link", "dry-run", "question")),
    *(("undo", x, "it stands alone") for x in ("xmp", "xmp-full-name", "embed-xmp", "xmp-remove")),
    *(("into", x, _KEYWORDS) for x in ("xmp", "xmp-full-name", "embed-xmp", "xmp-remove")),
    ("embed-xmp", "xmp", "run sort for each"),
    ("embed-xmp", "xmp-full-name", "run sort for each"),
)

_CALIBRATED = "--calibration FILE, from `clipcls calibrate`"
_NEEDS = (
    *((x, "calibration", _CALIBRATED) for x in ("coverage", "max-error", "prediction-sets")),
    *((x, "ray", "--ray") for x in ("cpus-per-worker", "gpus-per-worker", "shard-size")),
    *((x, "sort-into", "--sort-into DIR") for x in ("move", "link")),
    *((x, "boxes", "--boxes FILE") for x in ("empty", "box-confidence", "box-category")),
    ("box-margin", "boxes", "--boxes FILE"),
    *((x, "into", "--into DIR") for x in ("move", "link", "dry-run")),
)


def long_name(option: click.Parameter) -> str:
    """`min-score` for `--min-score`."""
    return next((text[2:] for text in option.opts if text.startswith("--")), "")


def check(context: click.Context) -> None:
    """Refuse a command line whose options, with settings, exclude or lack each other."""
    options = {long_name(param): param for param in context.command.params}
    given = {name for name, param in options.items() if _is_given(context, str(param.name))}
    is_for_a_question = "" not in (context.params.get("classifier") or {""})
    for one, other, why in EXCLUSIVE:
        if {one, other} <= given and not (is_for_a_question and why == _OWN_LABELS):
            names = f"{options[one].opts[0]} and {options[other].opts[0]}"
            raise click.UsageError(
                f"{names} exclude each other" + (f": {why}" if why else ""), context
            )
    for one, other, cure in _NEEDS:
        if one in given and other in options and other not in given:
            raise click.UsageError(f"--{one} needs {cure}", context)


def _is_given(context: click.Context, name: str) -> bool:
    is_default = context.get_parameter_source(name) in (None, ParameterSource.DEFAULT)
    value = context.params.get(name)
    return not is_default and value is not None and value is not False and value != ()


def refuse_inside(folder: Path, inputs: Iterable[str], *, mirrored: bool = False) -> None:
    """Refuse a folder for pictures where this run, or the next, would find them as images.

    Paths on stdin are not checked. `mirrored` pictures are in it as `occlusion.mirror_path` says.
    """
    for name in inputs:
        names: Iterable[str] = [name]
        if name != "-" and not os.path.lexists(name):
            names = glob.iglob(name.partition("**")[0] or os.curdir)
        for each in names:
            is_folder = os.path.isdir(each)
            images = each if is_folder else os.path.dirname(each) or os.curdir
            if os.path.lexists(each) and _is_among(folder, images, is_folder, mirrored):
                raise click.UsageError(
                    f"{folder}: the pictures would lie among the images of {images}; name another "
                    "folder"
                )


@functools.lru_cache  # of many images in one folder
def _is_among(folder: Path, images: str, searched: bool, mirrored: bool) -> bool:
    """Whether pictures in a folder would lie in a folder of images, or below a searched one."""
    place, root = Path(os.path.realpath(folder)), Path(os.path.realpath(images))
    if searched and place.is_relative_to(root):
        return True
    if mirrored:
        from clipcls.classification.occlusion import mirror_path

        place = Path(os.path.realpath(mirror_path(folder, images)))
        return place == root or (searched and place.is_relative_to(root))
    return False


def refuse_overwriting(output: Path | None, *files: Any) -> None:
    """Refuse a result file in the place of one that the command reads.

    Of `files`, names of other things, lists of templates and None are ignored; a mapping has a file
    per question.
    """
    for file in files:
        if isinstance(file, Mapping):
            refuse_overwriting(output, *file.values())
        if output is None or not isinstance(file, str | os.PathLike):
            continue
        if os.path.isfile(output) and os.path.isfile(file) and output.samefile(file):
            raise click.UsageError(
                f"{output}: is read by this command and would be overwritten; give the output "
                "another name"
            )
