from __future__ import annotations

import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clipcls.files import hashing
from clipcls.files.hashing import hash_file
from clipcls.models.facts import ModelFacts

FACTS = {"logit_scale": 13.0, "preprocess": {"size": [260, 260]}}


@pytest.fixture
def facts(tmp_path: Path) -> ModelFacts:
    return ModelFacts(tmp_path / "facts")


def test_facts_are_kept_under_their_key_alone(tmp_path: Path, facts: ModelFacts) -> None:
    assert facts.get("a") is None
    facts.set("a", {"old": 1})
    facts.set("a", FACTS)
    facts.set("a\udcff", {"of": "a path that is not UTF-8"})
    for again in (ModelFacts(tmp_path / "facts"), pickle.loads(pickle.dumps(facts))):
        assert again.get("a") == FACTS
        assert again.get("a\udcff") == {"of": "a path that is not UTF-8"}
        assert again.get("b") is None
    facts.delete("a")
    facts.delete("a")
    assert facts.get("a") is None
    facts.clear()
    facts.clear()
    assert not (tmp_path / "facts").exists()


def test_no_damage_changes_a_fact(tmp_path: Path, facts: ModelFacts) -> None:
    facts.set("a", FACTS)
    (file,) = (tmp_path / "facts").iterdir()
    whole = file.read_bytes()
    for seed in range(500):
        chance, data = np.random.default_rng(seed), bytearray(whole)
        at = int(chance.integers(len(data)))
        if seed % 3:
            data[at] ^= 1 << chance.integers(8)
        elif seed % 2:
            del data[at:]
        else:
            data[at : at + 9] = bytes(9)
        file.write_bytes(data)
        assert facts.get("a") in (None, FACTS), seed
        facts.set("a", FACTS)
        assert facts.get("a") == FACTS, seed
    other = file.with_name("other.json")
    facts.set("b", {"b": 1})
    file.rename(other)  # whole, but of another key
    (named_b,) = set((tmp_path / "facts").iterdir()) - {other}
    other.replace(named_b)
    assert facts.get("b") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    facts = ModelFacts(tmp_path / "file" / "facts")
    facts.set("a", FACTS)
    facts.delete("a")
    assert facts.get("a") is None
    assert facts.file_hash(tmp_path / "file") == hash_file(str(tmp_path / "file"))


def test_a_files_hash_is_remembered_and_follows_changes(
    tmp_path: Path, facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "RACY_NS", 0)  # a test cannot set a file's ctime back
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    time.sleep(0.02)
    first = facts.file_hash(path)
    assert first == hash_file(str(path))
    with monkeypatch.context() as patch:
        patch.setattr("clipcls.models.facts.hash_file", None)
        patch.chdir(tmp_path)
        assert facts.file_hash("weights") == first
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert facts.file_hash(path) == hash_file(str(path)) != first
    with pytest.raises(OSError, match="none"):
        facts.file_hash(tmp_path / "none")


def test_a_file_just_written_is_not_trusted_by_its_times(tmp_path: Path, facts: ModelFacts) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    facts.file_hash(path)
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert facts.file_hash(path) == hash_file(str(path))


def _set_often(folder: Path, number: int) -> bool:
    facts = ModelFacts(folder)
    for _ in range(50):
        facts.set("a", {"number": number})
        found = facts.get("a")
        if found is None or found["number"] not in (0, 1):
            return False
    return True


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        assert all(pool.map(_set_often, [tmp_path] * 2, (0, 1)))
