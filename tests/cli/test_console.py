"""What stderr shows of a run: progress with and without a terminal, and its exit status."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from clipcls.cli import console as console_module
from clipcls.cli import progress as progress_module
from clipcls.cli.console import Console, MaxErrors
from clipcls.cli.progress import Pace, format_rate


class Clock:
    """A clock that stands still between calls of `wait`."""

    now = 1000.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that is a terminal, and what a person sees on it."""

    def isatty(self) -> bool:
        return True

    def seen(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            shown: list[str] = []
            for part in line.split("\r"):
                shown[: len(part)] = part
            lines.append("".join(shown).rstrip())
        return lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (console_module, progress_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def batches(step, clock: Clock, number: int, *, of: int = 32, seconds: float = 1.6) -> None:
    for _ in range(number):
        clock.wait(seconds)
        for _ in range(of):
            step(0)


def test_without_a_terminal_a_line_comes_once_a_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().progress(6400) as step:
        batches(step, clock, 37)  # 59.2 s
        assert capsys.readouterr().err == ""
        batches(step, clock, 38)
    assert capsys.readouterr().err == "clipcls: 1,185 of 6,400 images, 20 images/s, 4 min left\n"


@pytest.mark.parametrize(
    ("style", "quiet", "lines"), [("log", False, 1), ("none", False, 0), ("log", True, 0)]
)
def test_the_style_of_progress_can_be_chosen(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, style, quiet: bool, lines: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console = Console()
    console.style, console.quiet = style, quiet
    with console.progress(100) as step:
        for _ in range(3):
            clock.wait(40)
            step(0)
    assert terminal.getvalue().count("\n") == lines


def test_slow_images_are_told_in_seconds_and_skipped_ones_are_counted(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().progress(None) as step:
        for number in range(13):
            clock.wait(5.2)
            step(1 if number else 0)
    assert capsys.readouterr().err == "clipcls: 12 images, 5.2 s per image, 1 skipped\n"


def test_images_are_counted_only_where_someone_waits(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = []
    before = set(threading.enumerate())

    def count() -> range:
        counted.append(1)
        time.sleep(0.1)
        return range(400)

    with Console().progress(count) as step:
        step(0)
        clock.wait(5)
        step(0)
        assert not counted
        clock.wait(30)
        step(0)
        (counting,) = set(threading.enumerate()) - before
        counting.join()
        clock.wait(30)
        step(0)
    assert "4 of 400 images" in capsys.readouterr().err


def test_preparing_the_model_is_said_and_is_no_part_of_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    logger = logging.getLogger("clipcls.test_preparing")
    console.attach(logger)
    with console.progress(1000) as step:
        batches(step, clock, 4, seconds=0.4)  # from the cache
        logger.info("preparing mini for images on this machine, once", extra={"is_preparing": True})
        assert "preparing mini" in capsys.readouterr().err
        batches(step, clock, 1, seconds=40)
        assert console.pace is not None
        assert console.pace.rate is None
        batches(step, clock, 13)
    assert capsys.readouterr().err.endswith(" images, 20 images/s, 24 s left\n")
    assert console.pace.rate == pytest.approx(20)


def test_news_of_the_library_comes_as_seldom_as_progress(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console()
    logger = logging.getLogger("clipcls.test_news")
    console.attach(logger)
    for number in range(100):
        clock.wait(1)
        logger.info("%d of 100 prompts embedded", number)
    logger.warning("odd")
    assert capsys.readouterr().err == "clipcls: 59 of 100 prompts embedded\nclipcls: warning: odd\n"


@pytest.mark.parametrize("total", [60, None, lambda: range(60)])
def test_the_bar_is_gone_before_the_last_line(monkeypatch: pytest.MonkeyPatch, total) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(progress_module, "_BAR_AFTER", 0.0)
    monkeypatch.setitem(progress_module._COUNT_AFTER, "bar", 0.0)
    console = Console()
    with console.progress(total) as step:
        for number in range(59):
            step(0)
            if number == 30:
                time.sleep(0.2)  # the images are being counted
            console.hide_progress()
            terminal.write(f"{number}.jpg cat\n")
        step(0)
        assert ("60 of 60" if total else "60 images") in terminal.seen()[-1]
    console.say("60 classified")
    assert terminal.seen()[-3:] == ["58.jpg cat", "clipcls: 60 classified", ""]


def test_a_short_run_shows_no_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Console().progress(60) as step:
        batches(step, clock, 2, seconds=0.4)
    assert terminal.getvalue() == ""


def test_unreadable_images_do_not_start_the_clock(clock: Clock) -> None:
    pace = Pace()
    pace.count(failed=True)
    clock.wait(60)
    for _ in range(3):
        pace.count()
        clock.wait(2)
    assert pace.rate == 0.5


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.19, "5.3 s per image"),
        (0.0005, "2,000.0 s per image"),
        (1, "1.0 images/s"),
        (1234, "1,234 images/s"),
    ],
)
def test_no_rate_is_nought(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("max_errors", "unreadable", "read", "status"),
    [
        (MaxErrors(0), 0, 10, 0),
        (MaxErrors(0), 1, 10, 1),
        (MaxErrors(2), 2, 10, 0),
        (MaxErrors(2), 3, 10, 1),
        (MaxErrors(10, is_percent=True), 1, 9, 0),
        (MaxErrors(10, is_percent=True), 1, 8, 1),
        (MaxErrors(0), 3, 0, 2),
        (MaxErrors(100, is_percent=True), 3, 0, 2),
    ],
)
def test_the_exit_status(max_errors: MaxErrors, unreadable: int, read: int, status: int) -> None:
    console = Console()
    console.max_errors = max_errors
    assert console.status(unreadable, read) == status
