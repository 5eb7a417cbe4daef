"""Write labels as keywords of each image, into XMP sidecars or into the images themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from clipcls.errors import ImageError, SidecarError, os_reason
from clipcls.organize.report import Report, no_images_error, start_report
from clipcls.organize.xmp_embed import open_exiftool
from clipcls.organize.xmp_packet import need_lxml
from clipcls.organize.xmp_sidecar import SidecarNames
from clipcls.predictions import Result


def write_keywords(
    results: Sequence[Result],
    *,
    root: str | os.PathLike[str] = ".",
    embed: bool = False,
    full_name: bool = False,
    remove: bool = False,
    watch: Callable[[int], None] = lambda failed: None,
) -> Report:
    """Write each image's labels as keywords; an image without labels loses its earlier ones.

    Args:
        results: of `read_results`.
        root: what the results' paths are relative to.
        embed: write into the images themselves, by exiftool, instead of into XMP sidecars.
        full_name: `photo.jpg.xmp` for each image, not just where `photo.xmp` belongs to another
            file; see `SidecarNames`.
        remove: remove what was written before, under either name, and write nothing.
        watch: called after each image with the number that failed so far.

    Raises:
        InputError: lxml or what embedding needs is missing, or none of the images exists.
    """
    need_lxml()
    verb = "removed from" if remove else "written into"
    report, local = start_report(f"{verb} {'images' if embed else 'sidecars'}", results, root)
    images = [(result, Path(os.path.abspath(Path(root) / result.path))) for result in local]
    if images and not any(image.is_file() for _, image in images):
        raise no_images_error(images[0][0].path)
    sidecars = contextlib.nullcontext(SidecarNames(full_name).update)
    with open_exiftool() if embed else sidecars as update:
        for result, image in images:
            try:
                if not image.is_file():
                    raise SidecarError("no such file")
                changed = update(image, None if remove else result.label_paths)
            except (SidecarError, OSError) as error:
                reason = os_reason(error) if isinstance(error, OSError) else str(error)
                report.failed.append(ImageError(result.path, reason))
            else:
                report.changed += changed
                report.unchanged += not changed
            watch(len(report.failed))
    return report
