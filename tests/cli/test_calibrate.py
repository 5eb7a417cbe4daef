"""`clipcls calibrate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(("wrong", "keeps"), [(1, True), (4, False)])
def test_a_temperature_that_makes_the_log_loss_worse_is_not_used(
    run, paint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int, keeps: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for number in range(12):
        paint(f"sorted/{'blue' if number < wrong else 'red'}/{number}.png", "red")
    status, _, err = run("calibrate", "-l", "red", "-l", "blue", "sorted", "-o", "c.json")
    assert (status, "the temperature stays 1: on held-out images" in err) == (0, keeps), err
    made = json.loads(Path("c.json").read_text())
    assert (made["temperature"] == 1) == keeps
    assert all((m["before"] == m["after"]) == keeps for m in made["metrics"].values())
