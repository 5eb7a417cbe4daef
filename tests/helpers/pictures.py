"""Images, and files that hold them in every format."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Smooth, without symmetry: no turn or flip of it equals another."""
    y, x = np.mgrid[:height, :width]
    red, green, blue = x * 255 // width, y * 255 // height, (x + 2 * y) % 256
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(e[:4], e[4:]) for e in extra)]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(width: int, height: int, bits: int, strip: bytes) -> bytes:
    """Grey, uncompressed, little endian."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, len(strip))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(strip))
        + strip
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


LOSSLESS = ("PNG", "BMP", "DIB", "PPM", "TIFF", "QOI", "SGI", "TGA", "PCX", "DDS")


LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "GIF")


def every_file() -> dict[str, bytes]:
    """One small file of each kind that Pillow can write, and of the modes that differ inside."""
    rgb = picture()
    files = {kind: saved(rgb, kind) for kind in (*LOSSLESS, *LOSSY) if can_write(kind)}
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        files[f"{kind} animated"] = saved(rgb, kind, save_all=True, append_images=[rgb.rotate(90)])
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        files[f"TIFF {compression}"] = saved(rgb, "TIFF", compression=compression)
    files["TIFF group4"] = saved(rgb.convert("1"), "TIFF", compression="group4")
    files["JPEG progressive"] = saved(rgb, "JPEG", progressive=True)
    files["JPEG CMYK"] = saved(rgb.convert("CMYK"), "JPEG")
    files["JPEG EXIF"] = saved(rgb, "JPEG", exif=exif(6))
    files["PNG palette"] = saved(rgb.quantize(16), "PNG", transparency=3)
    files["PNG 16"] = saved(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG")
    files["ICO"] = saved(rgb.convert("RGBA"), "ICO", sizes=[(16, 16), (32, 32)])
    files["ICO BMP"] = saved(rgb.convert("RGBA"), "ICO", sizes=[(16, 16)], bitmap_format="bmp")
    files["XBM"] = saved(rgb.convert("1"), "XBM")
    files["CUR"] = b"\0\0\2\0" + saved(rgb, "ICO", sizes=[(16, 16)], bitmap_format="bmp")[4:]
    files["PSD"] = (
        struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 30, 40, 8, 3)
        + bytes(12)
        + b"\0\0"
        + np.asarray(rgb).transpose(2, 0, 1).tobytes()
    )
    return files


def can_write(kind: str) -> bool:
    Image.init()
    return kind in Image.SAVE


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags
