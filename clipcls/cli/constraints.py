"""Which options exclude or need each other, and which files would get in each other's way."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = ["EXCLUSIVE", "check", "long_name", "refuse_inside", "refuse_over"]

_OWN_LABELS = "a classifier has its own labels"
_REFINED = "what it promises would not hold for refined scores"
_ONE_LABEL = "it is for one label per image"
_KEYWORDS = "keywords are written where the images are; sort after that, and sidecars go with them"

# By long name, the most telling reason first. `settings` reads this too: where one of a pair is
# given, it does not take the other from a weaker place.
EXCLUSIVE: tuple[tuple[str, str, str], ...] = (
    ("labels", "label", "write --labels FILE, or -l for each label"),
    *((other, "classifier", _OWN_LABELS) for other in ("labels", "label", "prompts", "reject")),
    ("classifier", "multi-label", "it was learnt to choose one label per image"),
    ("reject", "multi-label", _ONE_LABEL),
    ("level", "multi-label", _ONE_LABEL),
    *(("refine", x, _REFINED) for x in ("calibration", "coverage", "max-error", "prediction-sets")),
    ("classifier", "refine", "its answers are not refined"),
    ("level", "refine", "answers are not refined where labels have a hierarchy"),
    ("coverage", "max-error", ""),
    ("cache", "no-cache", ""),
    ("move", "link", ""),
    *(("undo", x, "it stands alone") for x in ("into", "move", "link", "dry-run")),
    *(("undo", x, "it stands alone") for x in ("xmp", "xmp-full-name", "embed-xmp", "xmp-remove")),
    *(("into", x, _KEYWORDS) for x in ("xmp", "xmp-full-name", "embed-xmp", "xmp-remove")),
    ("embed-xmp", "xmp", "run sort for each"),
    ("embed-xmp", "xmp-full-name", "run sort for each"),
)

_CALIBRATED = "--calibration FILE, from `clipcls calibrate`"
_NEEDS = (
    *((x, "calibration", _CALIBRATED) for x in ("coverage", "max-error", "prediction-sets")),
    *((x, "sort-into", "--sort-into DIR") for x in ("move", "link")),
    *((x, "into", "--into DIR") for x in ("move", "link", "dry-run")),
)


def long_name(option: click.Parameter) -> str:
    """`min-score` for `--min-score`."""
    return next((text[2:] for text in option.opts if text.startswith("--")), "")


def check(context: click.Context) -> None:
    """Refuse a command line whose options, with settings, exclude or lack each other.

    Raises:
        click.UsageError: they do.
    """
    options = {long_name(param): param for param in context.command.params}
    given = {name for name, param in options.items() if _is_given(context, str(param.name))}
    for one, other, why in EXCLUSIVE:
        if {one, other} <= given:
            names = f"{options[one].opts[0]} and {options[other].opts[0]}"
            raise click.UsageError(
                f"{names} exclude each other" + (f": {why}" if why else ""), context
            )
    for one, other, cure in _NEEDS:
        if one in given and other in options and other not in given:
            raise click.UsageError(f"--{one} needs {cure}", context)


def _is_given(context: click.Context, name: str) -> bool:
    is_default = context.get_parameter_source(name) in (None, ParameterSource.DEFAULT)
    return not is_default and context.params.get(name) not in (None, False, ())


def refuse_inside(folder: Path, inputs: Iterable[str], *, mirrored: bool = False) -> None:
    """A folder for pictures that would lie where this run, or the next, looks for images.

    Args:
        folder: the folder.
        inputs: as the command was given them; a list on stdin is not looked at.
        mirrored: whether the pictures lie in it as `occlusion.mirrored` says.

    Raises:
        click.UsageError: they would.
    """
    place = Path(os.path.realpath(folder))
    for name, searched in _image_folders(inputs).items():
        images = Path(os.path.realpath(name))
        if searched and place.is_relative_to(images):
            raise click.UsageError(
                f"{folder}: lies in {name}, where images are looked for; name another folder"
            )
        if mirrored:
            from clipcls.classification.occlusion import mirrored as mirrored_in

            there = Path(os.path.realpath(mirrored_in(folder, name)))
            if there == images or (searched and there.is_relative_to(images)):
                raise click.UsageError(
                    f"{folder}: the pictures would lie among the images of {name}; name another "
                    "folder"
                )


def _image_folders(inputs: Iterable[str]) -> dict[str, bool]:
    """Folders that images are in, and whether all below is searched for them."""
    found: dict[str, bool] = {}
    for name in inputs:
        names: Iterable[str] = [name]
        if name != "-" and not os.path.lexists(name):
            names = glob.iglob(name.partition("**")[0] or os.curdir)
        for each in names:
            if os.path.isdir(each):
                found[each] = True
            elif os.path.lexists(each):
                found.setdefault(os.path.dirname(each) or os.curdir, False)
    return found


def refuse_over(output: Path | None, *files: str | os.PathLike[str] | list[str] | None) -> None:
    """A result file in the place of one that the command reads.

    Args:
        output: the result file.
        files: what is read; names of other things, lists of templates and None are passed over.

    Raises:
        click.UsageError: it is one of them.
    """
    if output is None or not output.is_file():
        return
    for file in files:
        if isinstance(file, list) or file is None:
            continue
        if os.path.isfile(file) and os.path.samefile(output, file):
            raise click.UsageError(
                f"{output}: is read by this command and would be overwritten; give the output "
                "another name"
            )
