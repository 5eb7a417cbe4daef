"""Options that contradict each other, and files that would be in each other's way: refused."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import click
from click.core import ParameterSource

__all__ = [
    "refuse_beside_classifier",
    "refuse_inside",
    "refuse_over",
    "refuse_with_multi_label",
    "refuse_with_refine",
]

_NOT_BESIDE_A_CLASSIFIER = {
    "label_source": "--labels",
    "label_list": "-l",
    "prompts": "--prompts",
    "reject": "--reject",
    "multi_label": "--multi-label",
}


def refuse_beside_classifier() -> None:
    """Options of the command in hand that say again what a learnt classifier brings.

    Raises:
        click.UsageError: one of them was given.
    """
    context = click.get_current_context()
    for name, option in _NOT_BESIDE_A_CLASSIFIER.items():
        if context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT):
            why = "a classifier has its own labels"
            if name == "multi_label":
                why = (
                    "a classifier was learnt to choose one label per image; what several "
                    "labels mean is learnt by `clipcls calibrate --multi-label`"
                )
            raise click.UsageError(f"{option} and --classifier exclude each other: {why}")


def refuse_inside(folder: Path, inputs: tuple[str, ...], *, mirrored: bool = False) -> None:
    """A folder for pictures that would lie where this run, or the next, looks for images.

    Args:
        folder: the folder.
        inputs: as the command was given them; a list on stdin is not looked at.
        mirrored: whether the pictures lie in it as `heatmap.mirrored` says.

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


def _image_folders(inputs: tuple[str, ...]) -> dict[str, bool]:
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


def refuse_with_multi_label(**given: object) -> None:
    """Options that only apply to one label per image.

    Raises:
        click.UsageError: one of them was given.
    """
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name} is for one label per image, not for --multi-label")


def refuse_with_refine(**given: object) -> None:
    """Options whose answers `--refine` cannot keep or was not made for.

    Raises:
        click.UsageError: one of them was given.
    """
    why = {
        "calibration": "what it promises (--max-error, --coverage, --prediction-sets) would not "
        "hold for refined scores",
        "classifier": "its answers are not refined",
        "level": "answers are not refined where labels have a hierarchy",
    }
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name} and --refine exclude each other: {why[name]}")
