"""Frames of videos, each an image with a name of its own: `clip.mp4@00:01:05.000`.

The time counts from the first frame, and names the frame that a player shows then, however the
video is read. Which times a video has follows from its packets, without decoding: that is where a
second run finds all frames in the cache.
"""

from __future__ import annotations

import bisect
import contextlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from clipcls.data.budget import Reserve, never_wait
from clipcls.data.container_file import Contained, container_errors, open_container, stamp_container
from clipcls.data.file_kinds import FRAME_PERIOD, is_video
from clipcls.data.images import check_size
from clipcls.data.remote import open_remote
from clipcls.errors import CutShortError, ImageError, InputError, install_command
from clipcls.files.on_disk import is_url

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame as Picture
    from av.container import InputContainer
    from av.video.stream import VideoStream

log = logging.getLogger("clipcls")

_NAME = re.compile(r"(.+)@(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})", re.DOTALL)
_UNITS = {"ms": 1, "": 1000, "s": 1000, "sec": 1000, "min": 60_000, "m": 60_000, "h": 3_600_000}
_PERIOD = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)")

# Not playlists, which make FFmpeg open other files and addresses.
_FORMATS = "asf,avi,flv,matroska,mov,mp3,mpeg,mpegts,mpegvideo,mxf,ogg,wav"

_HDR = {16: "PQ", 18: "HLG"}  # transfer functions, by their numbers in ITU-T H.273
_KEPT = 8  # frames that one thread passed, for others that ask for them a little later
_NEAR = 500  # milliseconds that are decoded sooner than a key frame is sought
_FAR = 10_000  # the same if the file has no index of its key frames
_TOLERANCE = 1_000  # milliseconds that a header may promise too much


def parse_period(text: str) -> int:
    """The milliseconds that `1s`, `0.5`, `500ms`, `2min` or `1h` mean; seconds without a unit.

    Raises:
        InputError: they mean none, or less than a millisecond.
    """
    found = _PERIOD.fullmatch(text.strip().lower())
    if not found or found[2] not in _UNITS or (period := float(found[1]) * _UNITS[found[2]]) < 1:
        raise InputError(f"{text}: write a time of at least 1ms, like 1s, 500ms, 2min or 1h")
    return round(period)


def format_time(time: int) -> str:
    """Milliseconds as `00:01:05.000`."""
    seconds, rest = divmod(time, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


def find_frame(name: str) -> VideoFrame | None:
    """The frame that a name means; None if it means none, or a file has that very name."""
    found = _NAME.fullmatch(name) if "@" in name else None
    if not found or not is_video(found[1]) or os.path.lexists(name):
        return None
    hours, minutes, seconds, rest = map(int, found.groups()[1:])
    return VideoFrame(found[1], b"", ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest)


def list_frames(path: str, every: int = FRAME_PERIOD) -> Iterator[VideoFrame | ImageError]:
    """The frames of a video at 0, `every`, 2 x `every` ... milliseconds, before its end.

    Nothing is decoded. The frames share one decoder, which is fast if they are read in about this
    order, by any number of threads.

    Yields:
        the frames; or, first, the `ImageError` of a video that cannot be read, or a
            `CutShortError`.
    """
    try:
        end, missing = _find_end(path)
    except ImageError as error:
        yield error
        return
    if missing > _TOLERANCE:
        yield CutShortError(path, f"cut short: the last {format_time(missing)} are missing")
    decoder, mark = _Decoder(path, every), stamp_container(path)
    for time in range(0, max(end, 1), every):
        yield VideoFrame(path, mark, time, decoder)


@dataclass(frozen=True, slots=True)
class VideoFrame(Contained):
    """The frame of a video that is shown at a time, in milliseconds from its first one."""

    time: int
    decoder: _Decoder | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name that leads to this frame."""
        return f"{self.container}@{format_time(self.time)}"

    def stamp(self) -> bytes:
        """The video's stamp; b"" if it has none."""
        return self.stamp_place(b" frame")

    def read(self, reserve: Reserve = never_wait) -> Image.Image:
        """The frame, upright.

        Raises:
            ImageError: it cannot be decoded.
        """
        try:
            return (self.decoder or _Decoder(self.container, 0)).read(self.time, reserve)
        except ImageError as error:
            raise ImageError(self.name, error.reason) from error


class _Decoder:
    """Decodes one video forwards, for threads that ask for frames in about their order.

    Args:
        path: the file.
        every: the milliseconds from one wanted frame to the next; 0: one is wanted.
    """

    def __init__(self, path: str, every: int) -> None:
        self._path, self._every = path, every
        self._lock = threading.Lock()
        self._stream: VideoStream | None = None
        self._shown: Picture | None = None
        self._next: Picture | None = None  # the one after it
        self._passed: deque[tuple[int, int, Picture]] = deque(maxlen=_KEPT)  # begin, end, frame

    def __reduce__(self) -> Any:
        return _Decoder, (self._path, self._every)  # frames that are pickled together share it

    def read(self, time: int, reserve: Reserve) -> Image.Image:
        """The frame shown at a time, as an upright RGB image."""
        with self._lock:
            stream = self._stream or self._open()
        # Not under the lock: a thread that waits for memory must not hold up those that have it.
        reserve(5 * stream.width * stream.height)  # as decoded, and as RGB
        with _video_errors(self._path):
            with self._lock:
                picture = self._find(time)
            return _make_upright(picture, stream.sample_aspect_ratio)

    def _open(self) -> VideoStream:
        with _video_errors(self._path):
            self._container, self._stream = _open(self._path)
            self._start, self._unit = self._stream.start_time or 0, self._stream.time_base or 1
            self._stream.thread_type = "AUTO"
            if name := _HDR.get(self._stream.codec_context.color_trc):
                log.warning("%s: HDR (%s), whose colours come out pale", self._path, name)
            self._index = [
                self._milliseconds(entry.timestamp)
                for entry in self._stream.index_entries
                if entry.is_keyframe
            ]
            self._pictures = self._decode()
            self._next = next(self._pictures, None)
            return self._stream

    def _find(self, time: int) -> Picture:
        for begin, end, picture in self._passed:
            if begin <= time < end:
                return picture
        if self._shown is None and self._next is not None:
            self._advance()  # the first is shown from 0 on, even if it begins later
        if self._shown is None or self._is_sought(time):
            self._seek(time)
        while self._next is not None and self._begin(self._next) <= time:
            self._advance()
        if self._shown is None:
            raise ImageError(self._path, "no frame can be decoded: damaged or cut short")
        is_named = not self._every  # others are listed before the end
        if is_named and self._next is None and time > self._begin(self._shown):
            end, _ = _find_end(self._path)
            if time >= end:
                raise ImageError(self._path, f"ends at {format_time(end)}")
        return self._shown

    def _is_sought(self, time: int) -> bool:
        """Whether to look for a key frame instead of decoding on."""
        assert self._shown is not None
        now = self._begin(self._shown)
        if time < now:
            return now > 0
        if len(self._index) < 2:
            return time - now > _FAR
        key = bisect.bisect_right(self._index, time)
        return key > 0 and self._index[key - 1] > now + _NEAR

    def _seek(self, time: int) -> None:
        """Go to the last key frame up to a time; to the start if there is none."""
        import av

        for place in (time, 0):
            offset = self._start + int(place / (1000 * self._unit))
            try:
                self._container.seek(offset, stream=self._stream)
            except av.error.FFmpegError:  # such as a stream without an index
                self._container, self._stream = _open(self._path)
            self._pictures = self._decode()
            self._shown, self._next = None, next(self._pictures, None)
            if self._next is not None and self._begin(self._next) <= time:
                break
        if self._next is not None:
            self._advance()

    def _advance(self) -> None:
        shown, self._shown = self._shown, self._next
        self._next = next(self._pictures, None)
        if shown and self._shown and self._every:
            begin, end = self._begin(shown), self._begin(self._shown)
            if -(-begin // self._every) * self._every < end:
                self._passed.append((begin, end, shown))

    def _begin(self, picture: Picture) -> int:
        moment = picture.pts if picture.pts is not None else picture.dts
        return 0 if moment is None else self._milliseconds(moment)

    def _milliseconds(self, moment: int) -> int:
        return round(1000 * (moment - self._start) * self._unit)

    def _decode(self) -> Iterator[Picture]:
        """The frames from here on, without damaged ones."""
        import av

        with contextlib.suppress(av.error.FFmpegError):  # where the file ends too early
            for packet in self._container.demux(self._stream):
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode():
                        if isinstance(frame, av.VideoFrame) and not frame.is_corrupt:
                            yield frame


def _open(path: str) -> tuple[InputContainer, VideoStream]:
    """A video file and its pictures' stream."""
    import av

    if not is_url(path):
        open_container(path).close()  # refuses pipes and folders
    # `file:`, lest a name is taken for another protocol.
    file: Any = open_remote(path) if is_url(path) else f"file:{path}"
    options = {"format_whitelist": _FORMATS}
    container = av.open(file, options=options, metadata_errors="replace")  # titles in Latin-1
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not streams:
        raise ImageError(
            path, "has sound, but no pictures" if container.streams.audio else "has no pictures"
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise ImageError(path, "is in a video format that PyAV does not decode")
    check_size(path, (stream.width, stream.height))
    return container, stream


def _find_end(path: str) -> tuple[int, int]:
    """Where a video ends, and how much more its header promises, in milliseconds.

    Only packets are read, and usually only the last ones.
    """
    with _video_errors(path):
        import av

        container, stream = _open(path)
        with container:
            promised = (container.duration or 0) // 1000
            for place in (max(0, promised - _FAR), 0):
                offset = int(place / (1000 * (stream.time_base or 1))) + (stream.start_time or 0)
                with contextlib.suppress(av.error.FFmpegError):  # then from the start
                    container.seek(offset, stream=stream)
                ends = _read_ends(container)
                if stream.index in ends:
                    # Sound may last longer than the pictures.
                    return ends[stream.index], promised - max(ends.values())
        raise ImageError(path, "has no frames: damaged or cut short")


def _read_ends(container: InputContainer) -> dict[int, int]:
    """Where the pictures and the sound end, in milliseconds, by the number of their stream."""
    import av

    ends: dict[int, int] = {}
    with contextlib.suppress(av.error.FFmpegError):  # where the file ends too early
        for packet in container.demux([*container.streams.video, *container.streams.audio]):
            stream, moment = packet.stream, packet.pts if packet.pts is not None else packet.dts
            if moment is not None and packet.size and stream.time_base:
                moment += (packet.duration or 0) - (stream.start_time or 0)
                end = round(1000 * moment * stream.time_base)
                ends[stream.index] = max(end, ends.get(stream.index, 0))
    return ends


def _make_upright(picture: Picture, shape: Fraction | None) -> Image.Image:
    """A frame as an RGB image with square pixels, turned as its file says.

    `shape` is a pixel's width through its height.
    """
    image: Image.Image = picture.to_image()  # type: ignore[no-untyped-call]
    if shape and shape != 1 and 1 / 4 <= shape <= 4:  # others are damage, and may be huge
        image = image.resize((max(1, round(image.width * shape)), image.height))
    return image.rotate(picture.rotation, expand=True) if picture.rotation else image


@contextlib.contextmanager
def _video_errors(path: str) -> Iterator[None]:
    """Turn FFmpeg's errors, or the lack of PyAV, into an `ImageError` with a short reason."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImageError(path, f"videos need PyAV: {install_command('video')}") from error
    with container_errors(path, "a video"):
        yield
