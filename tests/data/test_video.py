"""Frames of videos: their times, their names, and what is done about bad files."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from clipcls.classification.whole_videos import WholeVideos
from clipcls.classification.zero_shot import ZeroShotClassifier
from clipcls.data import video
from clipcls.data.inputs import NamedImage
from clipcls.data.paths import find_images
from clipcls.data.sources import LocalFile, find_file, find_source, open_image
from clipcls.data.video import VideoFrame, format_time, list_frames, parse_period
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError, InputError
from clipcls.predictions import Prediction
from helpers.cli import Run
from helpers.encoders import ColourEncoder

pytest.importorskip("av", reason="needs PyAV")
from helpers.videos import film

SHOWN = ("red", "green", "blue", "yellow")
LABELS = ("-l", "red", "-l", "green", "-l", "blue", "-l", "yellow", "--model", "fake")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", 0)  # a test cannot set ctime back


def colour(image: Image.Image) -> str:
    """The colour of a frame's brighter half."""
    red, green, blue = np.asarray(image.resize((8, 4)))[2, 6] > 128
    return {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow"}[
        (int(red), int(green), int(blue))
    ]


def frames(path: str, every: int = 1000) -> list[VideoFrame]:
    found = list(list_frames(path, every))
    assert not [error for error in found if isinstance(error, ImageError)]
    return [frame for frame in found if isinstance(frame, VideoFrame)]


def errors(path: str) -> list[str]:
    return [str(found) for found in list_frames(path) if isinstance(found, ImageError)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("a.mp4", "libx264"), ("a.mov", "mpeg4"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")),
        *(("a.webm", "libvpx-vp9"), ("a.ts", "libx264"), ("a.flv", "flv")),
    ],
)
def test_every_second_of_every_container(name: str, codec: str) -> None:
    film(name, SHOWN, codec=codec)
    found = frames(name)
    assert [frame.name for frame in found] == [f"{name}@00:00:0{n}.000" for n in range(4)]
    assert [colour(frame.read()) for frame in found] == [*SHOWN]


def test_the_frame_shown_at_a_time_is_the_same_however_it_is_reached() -> None:
    film("a.mp4", 3 * SHOWN, each=7, gap=20)
    found = frames("a.mp4", 300)
    expected = [(3 * SHOWN)[int(frame.time / 1000 * 10) // 7] for frame in found]
    assert [colour(frame.read()) for frame in found] == expected
    assert [colour(open_image(frame.name)) for frame in found] == expected
    shuffled = list(zip(frames("a.mp4", 300), expected, strict=True))
    random.Random(0).shuffle(shuffled)
    with ThreadPoolExecutor(4) as pool:
        read = pool.map(lambda pair: colour(pair[0].read()), shuffled)
        assert list(read) == [name for _, name in shuffled]


def test_threads_that_read_ahead_do_not_make_the_decoder_go_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film("a.mp4", SHOWN, each=20, gap=100)
    found, seeks = frames("a.mp4", 500), []
    monkeypatch.setattr(video._Decoder, "_seek", lambda self, time: seeks.append(time))
    for late, early in zip(found[1::2], found[::2], strict=True):
        assert [colour(late.read()), colour(early.read())] == 2 * [SHOWN[early.time // 2000]]
    assert seeks == []


def test_seldom_frames_are_sought_by_key_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    film("a.mp4", SHOWN, each=50, gap=10)
    decoded = []
    advance = video._Decoder._advance

    def count(self: video._Decoder) -> None:
        decoded.append(1)
        advance(self)

    monkeypatch.setattr(video._Decoder, "_advance", count)
    assert [colour(frame.read()) for frame in frames("a.mp4", 5000)] == [*SHOWN]
    assert len(decoded) < 20


def test_variable_frame_rate_holds_the_last_frame() -> None:
    film("a.mp4", ("red", "green"), each=1, pauses=(1,))
    assert [colour(frame.read()) for frame in frames("a.mp4", 550)] == ["red", "red", "green"]


def test_sound_that_lasts_longer_adds_no_frames() -> None:
    film("a.mp4", ("red", "green"), sound=5)
    assert len(frames("a.mp4")) == 2


def test_a_phone_held_upright() -> None:
    film("a.mp4", ("red",))
    data = bytearray(Path("a.mp4").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter clockwise
    data[matrix : matrix + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in turned)
    Path("a.mp4").write_bytes(data)
    image = open_image("a.mp4@00:00:00.000")
    assert image.size == (32, 64)
    top, bottom = (image.getpixel((16, y)) for y in (8, 56))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] < 160 < bottom[0]  # the left, darker half is on top


def test_pixels_that_are_not_square() -> None:
    film("a.mkv", ("red",), shape=2)
    assert open_image("a.mkv@00:00:00.000").size == (128, 32)
    film("a.mkv", ("red",), shape=60000)
    assert open_image("a.mkv@00:00:00.000").size == (64, 32)


def test_ten_bits_and_hdr(caplog: pytest.LogCaptureFixture) -> None:
    params = "log-level=none:transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"
    film("a.mp4", SHOWN, codec="libx265", pixels="yuv420p10le", options={"x265-params": params})
    for frame in frames("a.mp4"):
        assert frame.read().mode == "RGB"
    assert caplog.messages == ["a.mp4: HDR (PQ), whose colours come out pale"]


def test_a_file_of_the_very_name_comes_first() -> None:
    assert isinstance(find_source("a.mp4@00:00:01.000"), VideoFrame)
    Path("a.mp4@00:00:01.000").write_bytes(b"")
    for name in ("a.mp4@00:00:01.000", "a.jpg@00:00:01.000", "a.mp4@00:61:01.000", "me@home.jpg"):
        assert isinstance(find_source(name), LocalFile)


def test_frames_can_be_pickled() -> None:
    film("a.mp4", SHOWN)
    frame = frames("a.mp4")[2]
    assert frame.read()
    assert colour(pickle.loads(pickle.dumps(frame)).read()) == "blue"


def test_a_second_run_decodes_nothing(
    encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    film("a.mp4", SHOWN)
    with EmbeddingCache("cache.sqlite3") as cache:
        first = list(embed_images(encoder, "a.mp4", cache))
        assert encoder.images == 4
        monkeypatch.setattr(video._Decoder, "_open", None)
        again = list(embed_images(encoder, "a.mp4", cache))
        assert [item.path for item in again] == [item.path for item in first]
        assert cache.prune() == 0
        os.utime("a.mp4", (1_600_000_000, 1_600_000_000))
        assert cache.prune() == 4


def test_bad_videos() -> None:
    film("sound.mp4", (), sound=1)
    film("whole.mp4", SHOWN)
    data = Path("whole.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) // 2])
    Path("text.mp4").write_text("not a video")
    Path("empty.mp4").touch()
    os.mkfifo("pipe.mp4")
    Path("list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    assert errors("sound.mp4") == ["sound.mp4: has sound, but no pictures"]
    assert "mp4: damaged or cut short" in errors("cut.mp4")[0]
    assert "not a video, damaged or cut short" in errors("text.mp4")[0]
    assert "not a video, damaged or cut short" in errors("list.mp4")[0]
    assert errors("empty.mp4") == ["empty.mp4: is empty"]
    assert errors("pipe.mp4") == ["pipe.mp4: not a regular file"]
    assert errors("missing.mp4") == ["missing.mp4: no such file"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_download_that_stopped_gives_its_first_frames_and_one_error(name: str) -> None:
    moov_first = {"movflags": "faststart"} if name == "a.mp4" else {}
    film(name, SHOWN, each=30, container=moov_first)
    data = Path(name).read_bytes()
    begin = data.index(b"mdat") if name == "a.mp4" else 0
    Path(name).write_bytes(data[: begin + (len(data) - begin) * 6 // 10])
    error, *rest = list_frames(name)
    assert "cut short: the last 00:00:0" in str(error)
    shown = [colour(frame.read()) for frame in rest if isinstance(frame, VideoFrame)]
    assert 3 < len(shown) < 10
    assert shown[:4] == ["red", "red", "red", "green"]


def test_titles_in_latin_1_and_unknown_codecs() -> None:
    film("a.avi", SHOWN, codec="mpeg4")
    data = Path("a.avi").read_bytes()
    Path("a.avi").write_bytes(data.replace(b"Lavf", b"L\xe4vf"))
    assert [colour(frame.read()) for frame in frames("a.avi")] == [*SHOWN]
    Path("b.avi").write_bytes(data.replace(b"FMP4", b"?!?!"))
    assert errors("b.avi") == ["b.avi: is in a video format that PyAV does not decode"]


def test_a_damaged_part_is_passed_over() -> None:
    film("a.avi", 3 * SHOWN, codec="mpeg4")
    data = bytearray(Path("a.avi").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = random.Random(0).randbytes(200)
    Path("a.avi").write_bytes(data)
    assert len([frame.read() for frame in frames("a.avi")]) == 12


def test_without_pyav_one_line_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    film("a.mp4", SHOWN)
    monkeypatch.setitem(sys.modules, "av", None)
    (error,) = errors("a.mp4")
    assert error.startswith("a.mp4: videos need PyAV: ")
    assert "install" in error


def test_named_and_matched_but_left_out_of_folders() -> None:
    os.makedirs("p")
    film("p/a.mp4", ("red", "green"))
    Image.new("RGB", (8, 8)).save("p/b.jpg")
    names = ["p/a.mp4@00:00:00.000", "p/a.mp4@00:00:01.000"]

    def find(*inputs: str, every: int = 1000) -> list[str]:
        return [
            found.name if isinstance(found, NamedImage) else str(found)
            for found in find_images(inputs, every=every)
        ]

    assert find("p/a.mp4") == find("p/*.mp4") == names
    assert find("p/a.mp4", every=2000) == names[:1]
    assert find("p") == ["p/b.jpg"]


def test_python_takes_a_video_as_its_frames(encoder: ColourEncoder) -> None:
    film("a.mp4", SHOWN)
    classifier = ZeroShotClassifier([*SHOWN], model=encoder, cache=False).fit()
    answers = list(classifier.classify("a.mp4"))
    assert [answer.label for answer in answers if isinstance(answer, Prediction)] == [*SHOWN]
    assert classifier.predict("a.mp4@00:00:02.000").tolist() == ["blue"]


def test_behind_a_url(encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    with memory.open("/clips/a.mp4", "wb") as file:
        file.write(Path(film("a.mp4", SHOWN)).read_bytes())
    with memory.open("/clips/text.mp4", "wb") as file:
        file.write(b"no video")
    names = [f"memory://clips/a.mp4@00:00:0{n}.000" for n in range(4)]
    for url in ("memory://clips/a.mp4", "memory://clips/a*.mp4"):
        found = [item for item in find_images([url]) if isinstance(item, NamedImage)]
        assert [item.name for item in found] == names
    assert colour(open_image(names[2])) == "blue"
    assert find_file(names[2]) == ""
    (text,), (missing,) = (find_images([f"memory://clips/{n}.mp4"]) for n in ("text", "none"))
    assert "not a video" in str(text)
    assert "none.mp4" in str(missing)
    with EmbeddingCache("cache.sqlite3") as cache:
        list(embed_images(encoder, find_images(["memory://clips/a.mp4"]), cache))
        monkeypatch.setattr(video._Decoder, "_open", None)
        again = list(embed_images(encoder, find_images(["memory://clips/a.mp4"]), cache))
        assert [item.path for item in again if isinstance(item, Embedded)] == names
        assert cache.prune() == 0
    memory.rm("/clips", recursive=True)


def test_one_answer_per_file(encoder: ColourEncoder) -> None:
    film("a.mp4", ("green", "red", "red", "red"))
    film("b.mp4", ("blue",))
    Image.new("RGB", (8, 8), "yellow").save("c.png")
    images = WholeVideos(find_images(["a.mp4", "none.mp4", "b.mp4", "c.png"]))
    classifier = ZeroShotClassifier([*SHOWN], model=encoder, cache=False).fit()
    logits = classifier.decision_function("a.mp4").mean(axis=0)
    results = images.name_best(classifier.classify(images, top=4), {"": classifier})
    a, none, b, c = results
    assert isinstance(none, ImageError)
    assert isinstance(a, Prediction)
    assert isinstance(b, Prediction)
    assert isinstance(c, Prediction)
    assert (a.path, a.label) == ("a.mp4", "red")
    assert sorted(a.frames or ()) == [f"a.mp4@00:00:0{n}.000" for n in (1, 2, 3)]
    scores = np.exp(logits) / np.exp(logits).sum()
    by_label = {one.label: one.score for one in a.top}
    np.testing.assert_allclose([by_label[name] for name in SHOWN], scores, atol=1e-3)
    assert (b.path, b.label, b.frames) == ("b.mp4", "blue", ("b.mp4@00:00:00.000",))
    assert (c.path, c.label, c.frames) == ("c.png", "yellow", None)


def test_per_file_commands(run: Run) -> None:
    film("a.mkv", ("red", "red", "red", "green", "blue"), each=30)
    data = Path("a.mkv").read_bytes()
    Path("a.mkv").write_bytes(data[: len(data) * 8 // 10])
    status, out, err = run("classify", *LABELS, "--per-file", "-o", "a.csv", "a.mkv")
    assert "cut short: the last" in err
    head, row = (line.split(",") for line in Path("a.csv").read_text().splitlines())
    record = dict(zip(head, row, strict=True))
    assert (status, out, record["path"], record["label"]) == (0, "", "a.mkv", "red")
    assert record["frames"].split("|")[0] == "a.mkv@00:00:00.000"
    status, out, _ = run(
        "tag", *LABELS, "--per-file", "--format", "jsonl", "--min-score=.6", "a.mkv"
    )
    assert len(json.loads(out)["frames"]) == 3
    colours = ("--labels", "c=c.txt", "--labels", "d=d.txt", "--model", "fake")
    Path("c.txt").write_text("red\ngreen\n")
    Path("d.txt").write_text("blue\ngreen\n")
    status, out, err = run("classify", *colours, "--per-file", "a.mkv", "--format", "jsonl")
    assert status == 0, err
    assert all(answer["frames"] for answer in json.loads(out)["questions"].values())
    assert json.loads(out)["questions"]["d"]["label"] == "green"
    (tmp := Path("tree.txt")).write_text("warm > red\ncold > green\ncold > blue\n")
    status, out, err = run(
        *("classify", "--labels", str(tmp), "--model", "fake", "--level", "1", "--per-file"),
        *("a.mkv", "--format", "jsonl"),
    )
    assert json.loads(out)["label"] == "warm", err
    assert len(json.loads(out)["frames"]) == 3
    status, _, err = run("classify", *LABELS, "--per-file", "--heatmap", "maps", "a.mkv")
    assert (status, "leave out --per-file" in err) == (2, True)


@pytest.mark.parametrize(
    ("text", "time"),
    [("1s", 1000), ("2", 2000), ("500ms", 500), ("1min", 60_000), (".5 h", 1_800_000)],
)
def test_periods(text: str, time: int) -> None:
    assert parse_period(text) == time


@pytest.mark.parametrize("text", ["", "0", "-1", "1 week", "0.0001s", "nan", "1e3"])
def test_bad_periods(text: str) -> None:
    with pytest.raises(InputError, match="write a time"):
        parse_period(text)


def test_times_beyond_a_day() -> None:
    assert format_time(100 * 3_600_000 + 61_001) == "100:01:01.001"
    assert find_source("a.mp4@100:01:01.001") == VideoFrame("a.mp4", b"", 100 * 3_600_000 + 61_001)


def test_command(run: Run) -> None:
    film("a.mp4", SHOWN)
    status, out, _ = run("classify", *LABELS, "--every", "2s", "--no-cache", "a.mp4")
    rows = [line.split(",")[:2] for line in out.splitlines()[1:]]
    assert (status, rows) == (
        0,
        [["a.mp4@00:00:00.000", "red"], ["a.mp4@00:00:02.000", "blue"]],
    )
    status, _, err = run("classify", *LABELS, "--every", "never", "a.mp4")
    assert status == 2
    assert "write a time" in err
    os.mkdir("p")
    film("p/a.mp4", SHOWN)
    status, _, err = run("classify", *LABELS, "p")
    assert status == 2
    assert "1 video (.mp4) left out; to read videos, name them" in err
