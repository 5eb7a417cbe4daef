from __future__ import annotations

import collections
import contextlib
import io
import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipcls.errors import ImageError, InputError, OutputError, install_command
from clipcls.output import parquet
from clipcls.output.reader import read_results
from clipcls.output.writing import open_output
from clipcls.predictions import (
    Candidate,
    Prediction,
    Provenance,
    as_record,
)
from helpers.predictions import all_of

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
from pyarrow.parquet import ParquetFile, read_table  # noqa: E402

MADE_BY = Provenance("mini", "0123456789ab", "fp32", "photo")
TOP = (Candidate("cat", 0.93, 0.31), Candidate("dog", 0.05, 0.22))


def written(path: Path, *records: dict) -> Path:
    with open_output(path, "parquet") as writer:
        for record in records:
            writer.write(record)
    return path


def test_rows_have_types_and_both_kinds_of_results_one_schema(tmp_path: Path) -> None:
    one = written(
        tmp_path / "one.parquet",
        Prediction("a.jpg", "cat", TOP, MADE_BY, label_set=("cat", "dog")).to_dict(),
        ImageError("b.jpg", "truncated").to_dict(),
        Prediction(os.fsdecode(b"caf\xe9.jpg"), "unknown", TOP, MADE_BY).to_dict(),
    )
    several = written(
        tmp_path / "several.parquet",
        Prediction("c.jpg", "cat", TOP[:1], MADE_BY, labels=TOP).to_dict(),
        Prediction("d.jpg", "unknown", TOP[1:], MADE_BY, labels=()).to_dict(),
    )
    schema = read_table(one).schema
    assert str(schema.field("label").type) == "dictionary<values=string, indices=int32, ordered=0>"
    assert str(schema.field("score").type) == "double"
    assert str(schema.field("error").type) == "string"
    assert schema == read_table(several).schema
    first, bad, unknown, both, none = (
        {key: value for key, value in row.items() if value is not None}
        for row in pyarrow.concat_tables([read_table(one), read_table(several)]).to_pylist()
    )
    made = {"model": "mini", "weights": "0123456789ab", "precision": "fp32", "prompts": "photo"}
    top = [as_record(c) for c in TOP]
    assert first == {"path": "a.jpg", **top[0], "top": top, "set": ["cat", "dog"], **made}
    assert bad == {"path": "b.jpg", "error": "truncated"}
    assert unknown == {"path": "caf\\xe9.jpg", **top[0], "label": "unknown", "top": top, **made}
    assert both == {"path": "c.jpg", **top[0], "labels": top, "best": top[0], **made}
    answer = {**top[1], "label": "unknown"}
    assert none == {"path": "d.jpg", **answer, "labels": [], "best": top[1], **made}


def test_row_groups_are_written_as_the_run_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", 10)
    path = tmp_path / "r.parquet"
    record = Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict()
    with open_output(path, "parquet") as writer:
        for _ in range(25):
            writer.write(record)
        assert not path.exists()
        assert (tmp_path / "r.parquet.part").stat().st_size > 1000
    assert [ParquetFile(path).metadata.row_group(n).num_rows for n in range(3)] == [10, 10, 5]
    assert os.listdir(tmp_path) == ["r.parquet"]


def test_what_an_interrupted_run_leaves_can_be_read(tmp_path: Path) -> None:
    record = Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict()
    with (
        contextlib.suppress(KeyboardInterrupt),
        open_output(tmp_path / "r", "parquet") as writer,
    ):
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)
    with (
        contextlib.suppress(KeyboardInterrupt),
        open_output(tmp_path / "r", "parquet") as writer,
    ):
        writer.write(record)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["r.part"]
    (left,) = all_of(Prediction, read_results(tmp_path / "r.part"))
    assert (left.path, left.label, left.top) == ("a.jpg", "cat", TOP)


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    signals, limits = signal.getsignal(signal.SIGXFSZ), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signals)


@pytest.mark.parametrize("rows", [10, 10_000])  # found at a row group's end, or at the file's end
def test_a_full_disk_leaves_no_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(parquet, "_ROWS", rows)
    many = [Prediction(f"{n}.jpg", "cat", TOP, MADE_BY).to_dict() for n in range(9_000)]
    with (
        files_limited_to(5_000),
        pytest.raises(OutputError, match=r"r: cannot be written \(.*\); nothing was kept$"),
    ):
        written(tmp_path / "r", *many)
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs to mount a disk")
@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "json", "html", "x.csv.gz"])
def test_what_a_full_disk_leaves_can_be_read_or_nothing_was_kept(tmp_path: Path, form: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a disk")
    chance = random.Random(0)
    names = [f"{chance.getrandbits(128)}.jpg" for _ in range(6_000)]
    records = [Prediction(name, "cat", TOP, MADE_BY) for name in names]
    try:
        path = disk / f"r.{form}"
        with (
            pytest.raises(OutputError, match="no space left on device") as caught,
            open_output(path, form.removeprefix("x.").removesuffix(".gz")) as writer,
        ):
            collections.deque(map(writer.write, records), maxlen=0)
        left = os.listdir(disk)
        if str(caught.value).endswith("; nothing was kept"):
            assert not left
        else:
            assert str(caught.value).endswith(f"{path}.part")
            assert left == [f"{path.name}.part"]
            if form in ("csv", "jsonl"):  # the others lack their ends, and read_results says so
                found = [result.path for result in read_results(disk / left[0])]
                assert found == names[: len(found)]
                assert len(found) > 100
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "r", Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"r: is not a whole parquet file") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "r", Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=re.escape(install_command("parquet"))):
        read_results(path)
    with (
        pytest.raises(InputError, match=re.escape(install_command("parquet"))),
        open_output(tmp_path / "new", "parquet"),
    ):
        pass
    assert os.listdir(tmp_path) == ["r"]


def test_it_goes_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
    written(tmp_path / "pipe", Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict())
    assert read_table(io.BytesIO(reader.communicate()[0])).num_rows == 1


def test_it_is_read_from_stdin(tmp_path: Path) -> None:
    path = written(tmp_path / "r", Prediction("a.jpg", "cat", TOP, MADE_BY).to_dict())
    script = "from clipcls.output.reader import read_results; print(read_results('-')[0].label)"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=path.open("rb"), capture_output=True, text=True
    )
    assert done.stdout == "cat\n", done.stderr


@pytest.mark.parametrize("value", [{}, [{}]])
def test_a_further_column_of_empty_objects_is_text(tmp_path: Path, value: object) -> None:
    path = written(tmp_path / "r", {"path": "a.jpg", "label": "cat", "meta": value})
    (found,) = all_of(Prediction, read_results(path))
    assert found.kept == {"meta": str(value)}
