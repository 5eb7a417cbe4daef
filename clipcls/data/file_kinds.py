"""Kinds of files by suffix: images, raw files, videos, archives, tables and what else there is."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec

from clipcls.errors import install_command
from clipcls.files.on_disk import is_url


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SUFFIXES = _words(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .tif .tiff .bmp .dib .heic .heif .hif .avif "
    ".avifs .jp2 .j2k .jpc .jpf .jpx .j2c .ppm .pgm .pbm .pnm .pfm .psd .ico .cur .dds .qoi .pcx "
    ".sgi .rgb .rgba .bw .ras .tga .icb .vda .vst .xbm .xpm .fits"
)
"""Lower-case suffixes of the files that are taken from a folder. (Asking Pillow would import all
its plugins, and silently leave out HEIC photos if their plugin is missing.)"""

RAW_SUFFIXES = _words(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw "
    ".orf .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
)
"""Lower-case suffixes of cameras' raw files; taken from a folder if rawpy is installed."""

VIDEO_SUFFIXES = _words(
    ".3gp .asf .avi .flv .insv .lrv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob "
    ".webm .wmv"
)
"""Lower-case suffixes of videos."""

_SUFFIXES_BY_KIND = {
    "raw file": RAW_SUFFIXES,
    "video": VIDEO_SUFFIXES,
    "document": _words(".doc .docx .djvu .epub .odp .ods .odt .pdf .ppt .pptx"),
    "drawing": _words(
        ".afdesign .afphoto .ai .cdr .dwg .dxf .emf .eps .kra .ps .psb .sketch .svg .svgz .wmf .xcf"
    ),
    "image file of another format": _words(
        ".bpg .czi .dcm .dicom .dpx .exr .flif .hdr .heics .jpm .jxl .jxr .livp .ndpi .nii .svs "
        ".wdp"
    ),
    "archive": _words(".tar .tbz2 .tgz .txz .zip"),
    # Data, backups and unfinished downloads, which are not opened to look for images.
    "other file": _words(
        ".7z .aae .bak .bat .bin .c .cfg .conf .crdownload .css .csv .db .dll .download .exe .flac "
        ".gpx .gz .h5 .htm .html .ini .ipynb .jpeg_original .jpg_original .js .json .jsonl .lnk "
        ".log .lrcat .m4a .mat .md .mp3 .npy .npz .old .onnx .orig .parquet .part .pickle .pkl "
        ".pp3 .pt .pth .py .rar .rtf .safetensors .sh .sqlite .srt .tfrecord .thm .tmp .toml "
        ".tsv .txt .url .wav .xls .xlsx .xml .xmp .yaml .yml"
    ),
}
NESTED = {"archive": "nested archive", "video": "nested video"}
"""Names in `LeftOut` for files in an archive that are read only outside of one."""

KINDS = {suffix: kind for kind, suffixes in _SUFFIXES_BY_KIND.items() for suffix in suffixes}
"""Suffixes of other files -> their kind, such as `video`; "other file" for data."""

# Trash, snapshots and copies, in lower case: Windows, macOS, Synology, QNAP, Samba, ext4. Names
# with a leading dot (.Trash-1000, .thumbnails) are hidden anyway.
_SYSTEM_FOLDERS = frozenset(
    (
        *("$recycle.bin", "system volume information", "lost+found", "found.000"),
        *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("#recycle", "#snapshot", "@eadir", "@tmp", "@recycle", "@recently-snapshot"),
        *("@__thumb", "@transcode", "@synoresource", "@sharebin", "network recycle bin"),
        "_gsdata_",
    )
)

ARCHIVE_SUFFIX = r"\.(?:zip|tar|tgz|tbz2|txz|tar\.(?:gz|bz2|xz))"
_ARCHIVE = re.compile(f".+{ARCHIVE_SUFFIX}", re.IGNORECASE | re.DOTALL)
_TABLE = re.compile(
    r".+\.(?:csv|tsv|tab|jsonl|ndjson)(?:\.gz)?|.+\.parquet", re.IGNORECASE | re.DOTALL
)

FRAME_PERIOD = 1000
"""The milliseconds from one frame of a video to the next, unless the user says otherwise."""

VECTORS_KEY = b"clipcls.vectors"
"""The key of the metadata of a parquet file of vectors (see `embeddings.vector_files`)."""

VECTORS_MANIFEST = "clipcls-vectors.json"
"""The file in a folder that makes it a folder of vectors."""


def find_suffix(path: str) -> str:
    """The suffix as `os.path.splitext` finds it, in lower case; each image's is needed often.

    >>> find_suffix("photos.d/a.JPG"), find_suffix("photos.d/a"), find_suffix(".jpg")
    ('.jpg', '', '')
    """
    stem, _, suffix = path.rpartition(".")
    if stem[-1:].isalnum() and suffix.isalnum():  # splitext takes twice the time
        return f".{suffix.lower()}"
    return os.path.splitext(path)[1].lower()


def is_video(path: str) -> bool:
    """Whether a file is a video, by its suffix."""
    return find_suffix(path) in VIDEO_SUFFIXES


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its suffix."""
    return _ARCHIVE.fullmatch(name) is not None


def is_stream(name: str) -> bool:
    """Whether an archive can only be read from its beginning on."""
    is_plain = name.lower().endswith(".tar") and not is_url(name)
    return is_archive(name) and not is_plain and not name.lower().endswith(".zip")


def is_table(name: str) -> bool:
    """Whether a file that was named is a table of images, by its suffix."""
    return _TABLE.fullmatch(name) is not None


def is_vectors(path: str) -> bool:
    """Whether a file or folder holds stored vectors, judged by its content, not by its name."""
    if find_suffix(path) in SUFFIXES:  # without opening a million photos
        return False
    try:
        if os.path.isdir(path):
            return os.path.isfile(os.path.join(path, VECTORS_MANIFEST))
        if not os.path.isfile(path):  # opening a pipe or a device may wait or have side effects
            return False
        with open(path, "rb") as file:
            begin = file.read(6)
            if begin[:4] != b"PAR1":
                return begin == b"\x93NUMPY"
            # The metadata are at the end, before their length and the magic number.
            size = file.seek(-8, os.SEEK_END)
            length, end = int.from_bytes(file.read(4), "little"), file.read(4)
            file.seek(max(0, size - length))
            return end == b"PAR1" and VECTORS_KEY in file.read(length)
    except (OSError, ValueError):
        return False


def is_system_folder(name: str) -> bool:
    """Whether a system keeps a trash, snapshots or copies in a folder of this name."""
    # The last two are Windows XP's; in lower case they may be a person's own.
    return name.lower() in _SYSTEM_FOLDERS or name in ("RECYCLER", "RECYCLED")


@lru_cache(1)
def reads_raw() -> bool:
    """Whether rawpy is installed, so that raw files are taken as images."""
    return find_spec("rawpy") is not None


@dataclass(slots=True)
class LeftOut:
    """Counts of what folders contain besides the images taken from them.

    Attributes:
        counts: kind ("raw file", "video", ...) -> suffix -> number of files. System folders, which
            are not searched, count under their names.
        classes: WebDataset's label of each sample of archives (see `archives.Member`); None: they
            are not read.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    classes: dict[tuple[str, str], str] | None = None

    def add(self, kind: str, suffix: str) -> None:
        """Count one file or folder."""
        self.counts.setdefault(kind, Counter())[suffix] += 1

    @property
    def may_be_images(self) -> bool:
        """Whether any of them may contain pictures: all kinds but data and system folders."""
        return bool(self.counts.keys() - {"other file", "system folder"})

    def __str__(self) -> str:
        """`2 raw files (.nef), 1 video (.mp4) left out`, and how to read them."""
        if not self.counts:
            return ""
        parts = []
        others = "file not downloaded from iCloud", "file without a suffix", "system folder"
        order = [*_SUFFIXES_BY_KIND, *NESTED.values(), *others]
        for kind in sorted(self.counts, key=order.index):
            suffixes = [name for name, _ in self.counts[kind].most_common() if name]
            total = self.counts[kind].total()
            if total > 1:
                kind = kind.replace("file", "files") if "file" in kind else f"{kind}s"
            more = ", ..." if len(suffixes) > 4 else ""
            names = f" ({', '.join(suffixes[:4])}{more})" if suffixes else ""
            parts.append(f"{total:,} {kind}{names}")
        named = {"archive": "*.zip", "video": "*.mp4"}
        examples = (
            f"; to read {kind}s, name them or a pattern like {example}"
            for kind, example in named.items()
            if kind in self.counts
        )
        cure = "".join(examples)
        if self.counts.keys() & {*NESTED.values()}:
            cure += "; unpack the archive to read what is nested in it"
        if "raw file" in self.counts:
            cure += f"; to read raw files: {install_command('raw')}"
        return f"{', '.join(parts)} left out{cure}"


def has_image_name(name: str, left_out: LeftOut) -> bool:
    """Whether a file is taken because of its suffix; if not, count it."""
    suffix = find_suffix(name)
    kind = KINDS.get(suffix)
    if suffix in SUFFIXES or (kind == "raw file" and reads_raw()):
        return True
    left_out.add(kind or ("other file" if suffix else "file without a suffix"), suffix)
    return False
