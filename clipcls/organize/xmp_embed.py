"""Labels as keywords in the XMP of the images themselves, by exiftool.

exiftool writes a new file with all other metadata and the image data unchanged; that file replaces
the image in one step, with its times and permissions. PyExifTool runs one exiftool for all images.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clipcls.data.file_kinds import RAW_SUFFIXES
from clipcls.errors import InputError, SidecarError, require_extra
from clipcls.files.atomic import temporary_path
from clipcls.files.folders import is_inside, sync_folder
from clipcls.organize.fileops import read_version
from clipcls.organize.xmp_packet import Labels, update_packet


@contextlib.contextmanager
def open_exiftool() -> Iterator[Callable[[Path, Labels | None], bool]]:
    """One exiftool for all images.

    Yields:
        a function that writes labels into an image (None: removes ours) and returns whether
        something was changed; if it raises `OSError` or `SidecarError`, the image is unchanged.

    Raises:
        InputError: PyExifTool or exiftool is missing.
    """
    with require_extra("xmp", "--embed-xmp"):
        import exiftool
    if not shutil.which("exiftool"):
        raise InputError("--embed-xmp needs exiftool on the PATH: see https://exiftool.org")
    common = ["-charset", "filename=utf8"] if os.name == "nt" else []
    with (
        tempfile.TemporaryDirectory(prefix="clipcls-xmp-") as folder,
        exiftool.ExifTool(common_args=common) as tool,
    ):
        packet = Path(folder) / "packet.xmp"
        if "%" in folder:
            raise InputError(
                f"{folder}: exiftool cannot read a path with %; set TMPDIR to another folder"
            )
        yield lambda image, labels: _update(tool, image, labels or (), packet)


def _update(tool: Any, image: Path, labels: Labels, packet: Path) -> bool:
    """Replace an image by one whose XMP has the labels; False if it has them already."""
    file = Path(os.path.realpath(image))
    if not is_inside(file, image.parent):
        raise SidecarError(f"is a link out of its folder, to {file}; name that file")
    if file.suffix.lower() in RAW_SUFFIXES:
        raise SidecarError("is a raw file, which is left as the camera wrote it: use --xmp")
    if any(c in os.fspath(file) for c in "\r\n"):
        raise SidecarError("its path has a line break, which cannot be passed to exiftool")
    version = read_version(file.stat())
    before = _run(tool, "-b", "-XMP", os.fsencode(file))
    if b"HasExtendedXMP" in before:  # its second half would be lost
        raise SidecarError("its XMP has several parts and is left alone: use --xmp")
    after = update_packet(before, labels, f"the XMP in {image.name}")
    if after is None:
        return False
    change = b"-XMP="
    if after:
        packet.write_bytes(after)
        change = b"-XMP<=" + os.fsencode(packet)
    with temporary_path(file, file.suffix) as part:
        # Our own copy, since exiftool expands % in a name given by -o and knows no escape.
        with file.open("rb") as read, part.open("xb") as write:
            shutil.copyfileobj(read, write)
        try:
            _run(tool, change, "-overwrite_original", os.fsencode(part))
        finally:
            # A killed exiftool leaves this file.
            part.with_name(f"{part.name}_exiftool_tmp").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            shutil.copystat(file, part)
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        if read_version(file.stat()) != version:
            raise SidecarError("was changed in the meantime; run it again")
        os.replace(part, file)
    sync_folder(file.parent)
    return True


def _run(tool: Any, *arguments: str | bytes) -> bytes:
    """exiftool's output."""
    printed: bytes = tool.execute(*arguments, raw_bytes=True)
    if tool.last_status:
        text = tool.last_stderr
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        reason = (text.strip().splitlines() or ["failed"])[0].removeprefix("Error: ")
        raise SidecarError(f"exiftool: {reason.partition(' - ')[0]}")
    return printed
