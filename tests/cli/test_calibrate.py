"""`clipcls calibrate`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(("wrong", "warns"), [(1, True), (4, False)])
def test_a_calibration_that_makes_the_log_loss_worse_says_so(
    run, paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, warns: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for number in range(12):
        paint(f"sorted/{'blue' if number < wrong else 'red'}/{number}.png", "red")
    status, _, err = run("calibrate", "-l", "red", "-l", "blue", "sorted", "-o", "c.json")
    assert (status, "warning: on held-out images" in err) == (0, warns), err
