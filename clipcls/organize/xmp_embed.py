"""Labels as keywords in the XMP of the images themselves, by exiftool.

exiftool writes a new file with all other metadata and the image data as they were; that file takes
the image's place at once, with its times and permissions. PyExifTool runs one exiftool for all.
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
from clipcls.errors import InputError, SidecarError, install_command
from clipcls.files.atomic import temporary_path
from clipcls.files.folders import is_inside, sync_folder
from clipcls.organize.fileops import read_version
from clipcls.organize.xmp_packet import Labels, update_packet

__all__ = ["open_exiftool"]


@contextlib.contextmanager
def open_exiftool() -> Iterator[Callable[[Path, Labels | None], bool]]:
    """One exiftool for all images.

    Yields:
        what makes an image carry these labels, or none of ours (None); returns whether something
        was changed; raises `OSError` or `SidecarError` where the image is left as it was.

    Raises:
        InputError: PyExifTool or exiftool is missing.
    """
    try:
        import exiftool
    except ImportError as error:
        raise InputError(f"--embed-xmp needs PyExifTool: {install_command('xmp')}") from error
    if not shutil.which("exiftool"):
        raise InputError("--embed-xmp needs exiftool on the PATH: see https://exiftool.org")
    common = ["-charset", "filename=utf8"] if os.name == "nt" else []
    with (
        tempfile.TemporaryDirectory(prefix="clipcls-xmp-") as folder,
        exiftool.ExifTool(common_args=common) as tool,
    ):
        packet = Path(folder) / "packet.xmp"
        if "%" in folder:
            raise InputError(f"{folder}: exiftool takes no % there; set TMPDIR to another folder")
        yield lambda image, labels: _update(tool, image, labels or (), packet)


def _update(tool: Any, image: Path, labels: Labels, packet: Path) -> bool:
    """Replaces one image by one whose XMP carries the labels; says whether it had to.

    Raises:
        OSError, SidecarError: it was not done, and the image is as it was.
    """
    file = Path(os.path.realpath(image))
    if not is_inside(file, image.parent):
        raise SidecarError(f"is a link out of its folder, to {file}; name that file")
    if file.suffix.lower() in RAW_SUFFIXES:
        raise SidecarError("is a raw file, which is left as the camera wrote it: use --xmp")
    if any(c in os.fspath(file) for c in "\r\n"):
        raise SidecarError("a line break in its path, which exiftool does not take from us")
    version = read_version(file.stat())
    before = _run(tool, "-b", "-XMP", os.fsencode(file))
    if b"HasExtendedXMP" in before:  # its second half would be lost
        raise SidecarError("its XMP is in several parts, which are left alone: use --xmp")
    after = update_packet(before, labels, f"the XMP in {image.name}")
    if after is None:
        return False
    change = b"-XMP="
    if after:
        packet.write_bytes(after)
        change = b"-XMP<=" + os.fsencode(packet)
    with temporary_path(file, file.suffix) as part:
        # A copy of our own, since exiftool expands % in a name given by -o, without an escape.
        with file.open("rb") as read, part.open("xb") as write:
            shutil.copyfileobj(read, write)
        try:
            _run(tool, change, "-overwrite_original", os.fsencode(part))
        finally:
            part.with_name(f"{part.name}_exiftool_tmp").unlink(
                missing_ok=True
            )  # where it is killed
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
    """What exiftool prints."""
    printed: bytes = tool.execute(*arguments, raw_bytes=True)
    if tool.last_status:
        said = tool.last_stderr
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        reason = (text.strip().splitlines() or ["failed"])[0].removeprefix("Error: ")
        raise SidecarError(f"exiftool: {reason.partition(' - ')[0]}")
    return printed
