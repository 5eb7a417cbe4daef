"""Small videos whose frames have computable colours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from helpers.encoders import COLOURS

OLD = 1_700_000_000


def film(
    path: str,
    colours: Iterable[str],
    *,
    fps: int = 10,
    each: int = 10,
    size: tuple[int, int] = (64, 32),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    gap: int = 5,
    pauses: Iterable[int] = (),
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    shape: int = 1,
    sound: float = 0,
) -> str:
    """Write a video that shows each colour for `each` frames.

    Args:
        path: the file.
        colours: their names; each picture's left half is darker.
        fps: frames per second.
        each: frames per colour.
        size: width and height.
        codec, pixels: how to encode.
        gap: frames from key frame to key frame.
        pauses: frames before which a second passes without any.
        options, container: of the encoder and of the container.
        shape: a pixel's width through its height.
        sound: seconds of silence.
    """
    with av.open(path, "w", options=container or {}) as file:
        stream: Any = file.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *size, pixels, gap
        stream.codec_context.sample_aspect_ratio = Fraction(shape)
        audio: Any = file.add_stream("aac", rate=8000) if sound else None
        number = late = 0
        for colour in colours:
            picture = np.zeros((size[1], size[0], 3), np.uint8)
            picture[:] = np.array(COLOURS[colour]) * 255
            picture[:, : size[0] // 2] //= 2
            for _ in range(each):
                late += fps * (number in pauses)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number + late, Fraction(1, fps)
                file.mux(stream.encode(frame))
                number += 1
        file.mux(stream.encode())
        if audio:
            silence = np.zeros((1, int(8000 * sound)), np.float32)
            heard = av.AudioFrame.from_ndarray(silence, "fltp", "mono")
            heard.rate, heard.pts = 8000, 0
            file.mux(audio.encode(heard))
            file.mux(audio.encode())
    os.utime(path, (OLD, OLD))
    return path
