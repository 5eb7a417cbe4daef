"""A run that will take long says so after its first batches, and which model takes less time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipcls.cli import console, estimate, progress
from clipcls.cli.console import Console, watching
from clipcls.cli.estimate import format_time
from clipcls.embeddings import embed, forecast
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.errors import ImageError
from clipcls.models.aliases import ALIASES, find_faster
from helpers.encoders import ColourEncoder

SECONDS = 2.0  # per image


class SlowEncoder(ColourEncoder):
    """Takes a known time, on a clock of its own."""

    name = ALIASES["base"].name
    now = 1000.0

    def encode_images(self, pixels: Any) -> Any:
        self.now += SECONDS * len(pixels)
        return super().encode_images(pixels)

    def clock(self) -> float:
        for thread in threading.enumerate():  # the images are counted before time goes on
            if thread.daemon and "_count" in thread.name:
                thread.join()
        return self.now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowEncoder:
    encoder = SlowEncoder()
    for module in (console, estimate, progress, embed):
        clock = SimpleNamespace(monotonic=encoder.clock, perf_counter=encoder.clock)
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", -(10**10))  # a new file is settled
    return encoder


@pytest.fixture
def shown() -> Iterator[Console]:
    made = Console()
    logger = logging.getLogger("clipcls")
    made.attach(logger)
    yield made
    logger.removeHandler(made)
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def embed_all(
    shown: Console, encoder: ColourEncoder, images: list[str], total: Any, cache: Any = None
) -> None:
    with watching(shown, total) as watch:
        for item in embed.embed_images(encoder, images, cache):
            watch(item if isinstance(item, ImageError) else None)


def paint_many(paint: Callable[..., str], number: int) -> list[str]:
    return [paint(f"{n}.png", (n % 256, n // 256, 40), 4) for n in range(number)]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "about" in line]


def test_a_long_run_says_how_long_and_what_is_faster(slow, shown, paint, capsys) -> None:
    images = paint_many(paint, 24)
    embed_all(shown, slow, images, lambda: [*images, *(f"{n}.jpg" for n in range(2_000))])
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("clipcls: about 1 h 7 min for 2,0")
    share = ALIASES["base"].speed / ALIASES["fast"].speed
    assert f"; --model fast would take about {format_time(67 * 60 * share)[:2]}" in line


@pytest.mark.parametrize("setting", [{"quiet": True}, {"style": "none"}])
def test_who_wants_no_progress_gets_no_estimate(slow, shown, paint, capsys, setting) -> None:
    for name, value in setting.items():
        setattr(shown, name, value)
    images = paint_many(paint, 24)
    embed_all(shown, slow, images, lambda: [*images, *map(str, range(2_000))])
    assert capsys.readouterr().err == ""


def test_images_in_the_cache_take_no_time(slow, shown, paint, capsys, tmp_path: Path) -> None:
    images = paint_many(paint, 624)
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        known, new = images[24:], images[:24]
        fast = ColourEncoder()
        list(embed.embed_images(fast, known, cache))
        # With the others counted, or with the rate of the first ones, it would be 20 minutes.
        embed_all(shown, slow, [*new, *known], lambda: [*new, *known], cache)
        assert slow.images == len(new)
        embed_all(shown, slow, [*known, *new], images, cache)
    assert lines(capsys.readouterr().err) == []


def test_known_images_that_come_first_do_not_hide_the_rest(
    slow, shown, paint, capsys, tmp_path: Path
) -> None:
    images = paint_many(paint, 224)
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        list(embed.embed_images(ColourEncoder(), images[:200], cache))
        embed_all(shown, slow, images, [*images, *map(str, range(1_000))], cache)
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("clipcls: about 34 min for 1,0")


def test_a_short_run_and_one_of_unknown_length_say_nothing(slow, shown, paint, capsys) -> None:
    images = paint_many(paint, 24)
    for total in (images, None, 100_000):
        embed_all(shown, slow, images, total)
    assert lines(capsys.readouterr().err) == []


def test_the_faster_model_is_the_most_accurate_one_that_is_worth_it() -> None:
    names = {alias: info.name for alias, info in ALIASES.items()}
    found = find_faster(names["base"], 1.0, 1.5)
    assert found is not None
    assert found[0] == "fast"
    assert found[1] == pytest.approx(1 / ALIASES["fast"].speed)
    assert (find_faster(names["best"], 1.0, 1.5) or "")[0] == "accurate"
    # Where decoding takes the time, no model helps.
    assert find_faster(names["base"], 0.1, 1.5) is None
    for name in (names["fast"], names["mini"], names["biology"], "x/y"):
        assert find_faster(name, 1.0, 1.5) is None


def test_times_are_those_that_people_say() -> None:
    assert [format_time(s) for s in (0.2, 59, 61, 3599, 8040)] == [
        "1 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "2 h 14 min",
    ]


def test_bench_of_a_folder_names_each_model(run, paint, monkeypatch) -> None:
    rows = [forecast.Forecast("mini", 0.5, True), forecast.Forecast("base", 4.0, False)]
    monkeypatch.setattr(forecast, "forecast", lambda images, *_, **__: rows)
    folder = str(Path(paint_many(paint, 900)[0]).parent)
    status, out, err = run("bench", folder)
    assert (status, err) == (0, "")
    head, _, mini, base = out.splitlines()
    assert head.startswith("900 images on ")
    assert mini.split() == ["mini", "8", "min", "2.0"]  # of 7.5, rounded to even
    assert base.split() == ["base", "1", "h", "0", "min", "0.2", "(estimated)"]
