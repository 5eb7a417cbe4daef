"""Images in archives: named, listed in their order, read without unpacking."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from clipcls.cluster.job import split
from clipcls.data import archives, container_file, images
from clipcls.data.archives import Member
from clipcls.data.file_kinds import LeftOut
from clipcls.data.inputs import NamedImage
from clipcls.data.paths import find_images
from clipcls.data.sources import find_source, open_image
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.errors import ImageError
from helpers.encoders import ColourEncoder

Paint = Callable[..., str]
KINDS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]
COLOURS = {"b.png": "blue", "sub/a.png": "red", "../up.png": "green"}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    with EmbeddingCache(tmp_path / "cache.db") as cache:
        yield cache


def pack(
    kind: str,
    members: dict[str, bytes],
    name: str = "photos",
    more: Iterable[tuple[str, bytes]] = (),
) -> str:
    path, files = f"{name}.{kind}", [*members.items(), *more]
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for member, data in files:
                file.writestr(member, data)
    else:
        mode: Any = {"tar": "w", "tgz": "w:gz"}.get(kind, f"w:{kind.partition('.')[2]}")
        with tarfile.open(path, mode) as tar:
            for member, data in files:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    old = os.stat(path)
    assert old.st_size
    return path


def pictures(paint: Paint) -> dict[str, bytes]:
    return {m: Path(paint(f"{c}.png", c)).read_bytes() for m, c in COLOURS.items()}


def count_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that are opened from now on."""
    opened: list[str] = []
    open_container = container_file.open_container

    def count(name: str) -> Any:
        opened.append(name)
        return open_container(name)

    monkeypatch.setattr(archives, "open_container", count)
    return opened


def found(*inputs: str, left_out: LeftOut | None = None) -> list[str]:
    items = find_images(inputs, left_out=left_out)
    return [item.name if isinstance(item, NamedImage) else str(item) for item in items]


@pytest.mark.parametrize("kind", KINDS)
def test_members_in_the_order_of_the_archive(
    kind: str, paint: Paint, encoder: ColourEncoder, cache: EmbeddingCache
) -> None:
    other = {"._b.png": b"x", "__MACOSX/b.png": b"x", "notes.txt": b"x", "inner.zip": b"x"}
    path = pack(kind, {**other, **pictures(paint)})
    left_out = LeftOut()
    names = [f"{path}!{member}" for member in COLOURS]
    assert found(path, left_out=left_out) == names
    assert left_out.counts["nested archive"] == {".zip": 1}
    assert "1 nested archive (.zip) left out; unpack the archive" in str(left_out)
    results = list(embed_images(encoder, find_images([path]), cache))
    assert [r.path for r in results if isinstance(r, Embedded)] == names
    for name, result in zip(names, results, strict=True):
        (alone,) = embed_images(encoder, name)  # by its name alone
        assert isinstance(alone, Embedded)
        assert isinstance(result, Embedded)
        assert (alone.vector == result.vector).all()
    assert open_image(names[1]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("root", ["", "memory://"])
def test_of_a_name_that_occurs_twice_the_first_is_read_and_the_other_reported(
    kind: str, root: str, paint: Paint, encoder: ColourEncoder, cache: EmbeddingCache
) -> None:
    photos = pictures(paint)
    path = pack(kind, photos, more=[("b.png", photos["sub/a.png"]), ("c.txt", b""), ("c.txt", b"")])
    if root:
        fsspec.filesystem("memory").pipe(f"/{path}", Path(path).read_bytes())
    name = f"{root}{path}!b.png"
    (part,) = split(find_images([root + path]), 9)
    for listed in (find_images([root + path]), part.load()):
        first, _, _, second = embed_images(encoder, listed, cache)
        assert isinstance(second, ImageError)
        assert (second.path, "again" in second.reason) == (name, True)
        assert isinstance(first, Embedded)
        assert (first.path, int(first.vector.argmax())) == (name, 2)
    (alone,) = embed_images(encoder, name)
    assert isinstance(alone, Embedded)
    assert alone.vector.argmax() == 2


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_unchanged_archive_is_not_read_again(
    kind: str,
    paint: Paint,
    encoder: ColourEncoder,
    cache: EmbeddingCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pack(kind, pictures(paint))
    monkeypatch.setattr("clipcls.files.hashing.RACY_NS", -(1 << 62))  # old enough
    list(embed_images(encoder, find_images([path]), cache))

    def refuse(*_: object, **__: object) -> bytes:
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(Member, "read", refuse)
        again = list(embed_images(encoder, find_images([path]), cache))
    assert [r.stored for r in again if isinstance(r, Embedded)] == [True] * 3
    assert cache.prune() == 0
    Path(path).unlink()
    assert cache.prune() == 3


def test_shards_by_numbers(paint: Paint) -> None:
    red = Path(paint("red.png", "red")).read_bytes()
    for number in range(2):
        pack("tar", {"0.png": red, "0.json": b"{}"}, f"shard-{number:03}")
    assert found("shard-{000..002}.tar") == [
        "shard-000.tar!0.png",
        "shard-001.tar!0.png",
        "shard-002.tar: no such file",
    ]
    assert found("*.tar") == ["shard-000.tar!0.png", "shard-001.tar!0.png"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_an_archive_cut_short(
    kind: str, share: float, encoder: ColourEncoder, paint: Paint
) -> None:
    red = Path(paint("n.png", "red")).read_bytes()
    path = Path(pack(kind, {f"{n}.png": red + os.urandom(9_000) for n in range(9)}))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size) - 9_000])
    *results, last = embed_images(encoder, find_images([str(path)]))
    assert isinstance(last, ImageError)
    assert last.path == str(path)
    assert "damaged or cut short" in last.reason
    assert all(isinstance(r, Embedded) for r in results)  # nothing is reported twice
    assert len(results) >= (0 if kind == "zip" else 3)
    for result in results:
        assert open_image(result.path).getpixel((0, 0)) == (255, 0, 0)  # also by its name


def test_members_that_cannot_be_read(
    paint: Paint, encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(pack("zip", pictures(paint)))
    data = bytearray(path.read_bytes())
    for start in (b"PK\x03\x04", b"PK\x01\x02"):  # the first member: encrypted
        data[data.index(start) + (6 if start[2] == 3 else 8)] |= 1
    path.write_bytes(data)
    first, *others = embed_images(encoder, find_images([str(path)]))
    assert isinstance(first, ImageError)
    assert "is encrypted" in first.reason
    assert all(isinstance(item, Embedded) for item in others)
    opened = count_opened(monkeypatch)
    for module in (archives, images):
        monkeypatch.setattr(module, "MAX_BYTES", 50)
    for kind in KINDS:
        (item,) = embed_images(encoder, find_images([pack(kind, {"bomb.png": bytes(99)})]))
        assert isinstance(item, ImageError)
        assert "too large" in item.reason
    assert len(opened) == len(KINDS)  # a stream is not read again for it
    (item,) = embed_images(encoder, "photos.zip!none.png")
    assert isinstance(item, ImageError)
    assert "no such member" in item.reason


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_behind_a_url(kind: str, paint: Paint, encoder: ColourEncoder) -> None:
    path = pack(kind, pictures(paint))
    files = fsspec.filesystem("memory")
    files.pipe(f"/a/{path}", Path(path).read_bytes())
    results = list(embed_images(encoder, find_images([f"memory://a/{path}"])))
    assert [r.path for r in results if isinstance(r, Embedded)] == [
        f"memory://a/{path}!{member}" for member in COLOURS
    ]
    (alone,) = embed_images(encoder, f"memory://a/{path}!b.png")
    assert isinstance(alone, Embedded)
    files.rm("/a", recursive=True)


def test_the_name_of_one_image_is_an_input(paint: Paint) -> None:
    pack("zip", pictures(paint) | {"[1].png": b"x"})
    names = ["photos.zip!b.png", "photos.zip![1].png", "clip.mp4@00:00:01.000", "t.parquet#2"]
    items = list(find_images(names))
    assert [item.name for item in items if isinstance(item, NamedImage)] == names
    listed = io.BytesIO("\n".join(names).encode())
    assert list(find_images(["-"], stdin=listed)) == items
    assert found("photos.zip!z.png", "z.png") == ["photos.zip!z.png", "z.png: no such file"]


def test_a_pattern_for_files_named_like_members() -> None:
    Path("a.zip!b.png").write_bytes(b"x")
    assert found("*.zip!b.png") == ["a.zip!b.png"]


def test_a_file_of_this_name_comes_first() -> None:
    Path("a.zip!b.png").write_bytes(b"x")
    assert not isinstance(find_source("a.zip!b.png"), Member)
    assert isinstance(find_source("a.zip!c.png"), Member)


SHOWN = {
    "zip": b"PK\x03\x04",
    "tar.gz": b"\x1f\x8b",
    "tar": bytes(257) + b"ustar",
    "a web page": b"<!doctype html>\n<title>Log in</title>",
    "a server's error message (AccessDenied)": b"<?xml version='1.0'?><Code>AccessDenied</Code>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1",
    "JSON": b'{"error": 403}',
}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.parquet", "a.mp4"])
@pytest.mark.parametrize("kind", SHOWN)
@pytest.mark.parametrize("root", ["", "memory://shown/"])
def test_what_is_there_instead_is_named(name: str, kind: str, root: str) -> None:
    if name.endswith(kind) or (".tar" in name and "tar" in kind and (root or name != "a.tar")):
        return  # streams are decompressed, whatever their suffix
    with fsspec.open(root + name, "wb") as file:
        file.write(SHOWN[kind] + bytes(99))
    (error,) = found(root + name)
    assert error.startswith(f"{root}{name}: is ")
    assert f"the suffix .{kind}" in error or f"is {kind}" in error
    part = {"a.parquet": "#0", "a.mp4": "@00:00:00.000"}.get(name, "!a.png")
    with pytest.raises(ImageError, match=r"is (a|JSON)"):
        open_image(root + name + part)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.parquet", "a.mp4"])
def test_empty_files_and_pipes_are_named(name: str) -> None:
    Path(name).touch()
    assert found(name) == [f"{name}: is empty"]
    Path(name).unlink()
    os.mkfifo(name)
    assert found(name) == [f"{name}: not a regular file"]


@pytest.mark.parametrize("kind", ["tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_a_list_of_members_reads_a_stream_once(
    kind: str, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(kind, {f"{n}.png": Path(paint(f"{n}.png", "red")).read_bytes() for n in range(9)})
    opened = count_opened(monkeypatch)
    archives._open_forward.cache_clear()
    for order in (range(9), [3, 2], [8, 8]):
        for number in order:
            source = find_source(f"{path}!{number}.png")
            assert isinstance(source, Member)
            assert source.load().read() == Path(f"{number}.png").read_bytes()
    assert len(opened) <= 1 + 1 + 2 + 2
    missing = find_source(f"{path}!none.png")
    assert isinstance(missing, Member)
    with pytest.raises(ImageError, match="no such member"):
        missing.load().read()
