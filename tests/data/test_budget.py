"""Threads that share a budget never hold more than its limit together, and none waits for ever."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcls.data.budget import Budget
from clipcls.data.images import FILES, MAX_PIXELS, PIXELS, decode_image
from clipcls.errors import ImageError
from helpers.pictures import png


def test_threads_together_stay_within_the_limit() -> None:
    budget, lock, held, most = Budget(lambda: 10), threading.Lock(), 0, 0

    def work(units: int) -> None:
        nonlocal held, most
        with budget.share() as reserve:
            reserve(units)
            with lock:
                held += units
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= units

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [3, 4, 5, 6, 7, 1, 2, 9] * 10))
    assert 7 <= most <= 10


def test_a_demand_above_the_limit_is_met_alone_and_not_overtaken() -> None:
    budget, order = Budget(lambda: 10), []
    with budget.share() as first, ThreadPoolExecutor(2) as pool:
        first(1)

        def ask(units: int) -> None:
            with budget.share() as reserve:
                reserve(units)
                order.append(units)

        large = pool.submit(ask, 100)
        while not budget._line:
            time.sleep(0.001)
        small = pool.submit(ask, 1)  # there is room, but the large demand was first
        time.sleep(0.05)
        assert order == []
        first(0)
        large.result(5)
        small.result(5)
    assert order == [100, 1]


def test_a_share_that_is_filled_again_holds_only_the_last() -> None:
    budget = Budget(lambda: 10)
    with budget.share() as one, budget.share() as other:
        one(10)
        one(2)
        other(8)  # would wait for ever otherwise


def test_files_that_are_held_leave_less_for_pixels() -> None:
    with FILES.share() as file, PIXELS.share() as one, PIXELS.share() as other:
        file(1 << 27)
        one(MAX_PIXELS // 2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(other, MAX_PIXELS // 2)
            time.sleep(0.1)
            assert not waiting.done()
            one(0)
            waiting.result(10)


def encoded(size: tuple[int, int], kind: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def qoi(width: int, height: int) -> bytes:
    """A file of this size by its header; Pillow would take seconds to encode it."""
    data = encoded((1, 1), "QOI")
    return data[:4] + struct.pack(">II", width, height) + data[12:]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: encoded((8000, 8000), "WEBP", lossless=True, method=0), "takes too much memory"),
        (lambda: qoi(4000, 4000), "takes too much time"),
        (lambda: png(1, 89_000_000, 8, 2, b""), "takes too much memory"),  # 8 bytes per row
        (lambda: png(89_000_000, 1, 8, 2, b""), "takes too much memory"),  # rows in the decoder
    ],
    ids=["webp", "decoded in Python", "many rows", "long rows"],
)
def test_what_takes_too_much_of_either_is_refused_by_its_header(
    make: Callable[[], bytes], reason: str
) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(make(), "bomb")


DECODE = """
import sys
from pathlib import Path
from PIL import Image
from clipcls.data.images import decode_image

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name)[1].split()[0])

Image.init()
import numpy
data = Path(sys.argv[1]).read_bytes()
before, reserved = kilobytes("VmRSS:"), [0]
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
decode_image(data, reserve=reserved.append)
print((kilobytes("VmHWM:") - before) * 1024 - 4 * max(reserved))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "PNG", {"transparency": (1, 2, 3), "compress_level": 1}),
        ("I;16", "PNG", {"transparency": 7, "compress_level": 1}),
        ("RGB", "SGI", {}),
        ("RGB", "WEBP", {"lossless": True, "quality": 0, "method": 0}),  # of 24 MB
    ],
)
def test_decoding_takes_no_more_than_it_reserves(
    tmp_path: Path, mode: str, kind: str, options: dict
) -> None:
    pixels = np.random.default_rng(0).bytes(8_000_000 * (2 if mode == "I;16" else 3))
    Image.frombytes(mode, (4000, 2000), pixels).save(tmp_path / "image", kind, **options)
    command = [sys.executable, "-c", DECODE, str(tmp_path / "image")]
    beyond = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert beyond < 8_000_000  # rounding and small things: a byte per pixel


def test_a_jpeg_of_hundreds_of_scans_is_refused() -> None:
    data = encoded((6000, 4000), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data, least_side=64).size[0] < 1000
    with pytest.raises(ImageError, match="takes too much time"):
        decode_image(data[:-2] + 200 * scan + data[-2:], least_side=64)


def test_a_tiff_of_millions_of_strips_is_refused() -> None:
    strips = 200_000
    entries = [(256, 1), (257, strips), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    table = [(tag, 4, 1, value) for tag, value in entries]
    table += [(273, 4, strips, 300), (279, 4, strips, 300 + 4 * strips)]
    ifd = len(table).to_bytes(2, "little")
    for tag, kind, count, value in sorted(table):
        ifd += tag.to_bytes(2, "little") + kind.to_bytes(2, "little")
        ifd += count.to_bytes(4, "little") + value.to_bytes(4, "little")
    head = (b"II*\0" + (8).to_bytes(4, "little") + ifd).ljust(300, b"\0")
    data = head + (8).to_bytes(4, "little") * strips + (1).to_bytes(4, "little") * strips
    with pytest.raises(ImageError, match=r"too many strips or tiles \(200000"):
        decode_image(data, "bomb.tif")
