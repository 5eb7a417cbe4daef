"""`clipcls index` and searching in what it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipcls.embeddings.embedded import Embedded
from clipcls.embeddings.index_build import build_index
from clipcls.embeddings.search import search_images
from clipcls.embeddings.vector_files import open_vectors, sidecar_path
from clipcls.embeddings.vector_index import EXACT, IndexInfo, VectorIndex, choose_kind, open_index
from clipcls.embeddings.vectors_info import VectorsInfo
from clipcls.errors import InputError, OutputError
from clipcls.numerics import unit_rows
from helpers.cli import Run
from helpers.encoders import ColourEncoder

ROWS, DIM = 20_000, 32


def make_rows(seed: int = 0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((200, DIM))
    rows = centres[chance.integers(200, size=ROWS)] + 0.5 * chance.standard_normal((ROWS, DIM))
    return unit_rows(rows.astype(np.float32))


def write_npy(
    path: str, rows: NDArray[np.float32], weights: str = "c0" * 32, start: int = 0
) -> None:
    info = VectorsInfo("colours", weights, "fp32", {}, "image colours", rows.shape[1])
    np.save(path, rows)
    with open(sidecar_path(path), "w") as file:
        file.write(f"{info.to_json()}\n")
        for number in range(start, start + len(rows)):
            file.write(json.dumps({"path": f"{number}.jpg", "hash": "", "size": 1}) + "\n")


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    return make_rows()


@pytest.fixture(scope="module")
def vectors(rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("vectors") / "v.npy")
    write_npy(path, rows)
    return path


@pytest.fixture(scope="module")
def lists(vectors: str) -> Path:
    path = Path(vectors).with_name("lists.index")
    build([vectors], path, recall=0.9)
    return path


def build(
    vectors: list[str],
    path: Path,
    recall: float | None = None,
    code_bytes: int | None = None,
    **settings: Any,
) -> IndexInfo:
    files = [open_vectors(each) for each in vectors]
    kind = choose_kind(sum(map(len, files)), DIM, recall, code_bytes)
    return build_index(files, path, kind, recall=recall, **settings)


def find(index: VectorIndex, query: NDArray[np.float32], k: int = 10) -> list[str]:
    return index.search(query, k)[1]


def measure_recall(index: VectorIndex, rows: NDArray[np.float32]) -> float:
    """recall@10 of some rows, each without itself, by NumPy."""
    found = []
    for number in range(7, ROWS, 97):
        similar = rows @ rows[number]
        similar[number] = -1
        nearest = {f"{row}.jpg" for row in np.argsort(-similar)[:10]}
        others = [path for path in index.search(rows[number], 11)[1] if path != f"{number}.jpg"]
        found.append(len(nearest & set(others[:10])) / 10)
    return float(np.mean(found))


def test_the_exact_kind_answers_as_search_does(
    vectors: str, rows: NDArray[np.float32], encoder: ColourEncoder, tmp_path: Path
) -> None:
    info = build([vectors], tmp_path / "i")
    assert (info.kind, info.rows, info.recall, info.probes) == (EXACT, ROWS, {}, 0)
    images = [Embedded(f"{number}.jpg", row) for number, row in enumerate(rows)]
    index = open_index(tmp_path / "i")
    for query in make_rows(1)[:5]:
        similarities, paths = index.search(query, 12)
        hits = search_images(encoder, query, images, 12)
        assert paths == [hit.path for hit in hits]
        assert list(similarities) == [hit.similarity for hit in hits]


@pytest.mark.parametrize(
    ("rows", "recall", "code_bytes", "kind"),
    [
        (9_999, 0.9, 8, EXACT),
        (1_000_000, None, None, EXACT),
        (5_000_000, 1, None, EXACT),
        (1_000_001, None, None, "IVF1024,SQ8"),
        (10_000_000, None, 64, "OPQ64_512,IVF4096,PQ64"),
        (10_000_000, None, 100, "OPQ100_500,IVF4096,PQ100"),
        (1_000_000_000, 0.9, None, "IVF32768_HNSW32,SQ8"),
    ],
)
def test_the_kind_follows_from_size_recall_and_memory(
    rows: int, recall: float | None, code_bytes: int | None, kind: str
) -> None:
    assert choose_kind(rows, 512, recall, code_bytes) == kind


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.97])
def test_the_recall_asked_for_is_reached_on_other_queries(
    vectors: str, rows: NDArray[np.float32], tmp_path: Path, recall: float
) -> None:
    info = build([vectors], tmp_path / "i", recall=recall)
    index = open_index(tmp_path / "i")
    assert info.kind == "IVF128,SQ8"
    assert index.info == info
    reached = measure_recall(index, rows)
    assert reached >= recall
    assert info.recall["images"] == pytest.approx(reached, abs=0.04)
    assert info.probes < 64


def test_candidates_are_compared_with_their_whole_vectors(
    lists: Path, rows: NDArray[np.float32]
) -> None:
    similarities, paths = open_index(lists).search(rows[5], 10)
    assert (paths[0], list(similarities)) == ("5.jpg", sorted(similarities, reverse=True))
    exact = [rows[int(path[:-4])] @ rows[5] for path in paths]
    np.testing.assert_allclose(similarities, exact, atol=1e-4)


@pytest.mark.slow
def test_short_codes_find_candidates(
    vectors: str, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    info = build([vectors], tmp_path / "i", recall=0.9, code_bytes=8)
    assert info.kind == "OPQ8_32,IVF128,PQ8"
    assert measure_recall(open_index(tmp_path / "i"), rows) >= 0.9


def test_a_graph_finds_the_lists_when_there_are_many(
    vectors: str, rows: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.embeddings.inverted_lists._FLAT_LISTS", 64)
    info = build([vectors], tmp_path / "i", recall=0.9)
    assert info.kind == "IVF128_HNSW32,SQ8"
    assert measure_recall(open_index(tmp_path / "i"), rows) >= 0.9


def test_texts_far_from_the_images_have_more_lists_read(
    vectors: str, rows: NDArray[np.float32], lists: Path, tmp_path: Path
) -> None:
    texts = unit_rows(rows[:400] + 2 * unit_rows(make_rows(3)[:400] + make_rows(4)[:1]))
    info = build([vectors], tmp_path / "i", recall=0.9, texts=texts)
    assert info.probes > open_index(lists).info.probes
    index = open_index(tmp_path / "i")
    nearest = np.argsort(-texts @ rows.T, axis=1)[:, :10]
    found = [[int(path[:-4]) for path in index.search(text, 10)[1]] for text in texts]
    reached = np.mean([np.isin(a, b).mean() for a, b in zip(found, nearest, strict=True)])
    assert reached >= 0.9
    assert info.recall["texts"] == pytest.approx(reached, abs=0.04)


def test_as_many_images_are_found_as_asked_for(lists: Path, rows: NDArray[np.float32]) -> None:
    index = open_index(lists)
    assert len(set(find(index, rows[0], 5_000))) == 5_000
    assert len(set(find(index, rows[0], ROWS + 5))) == ROWS


def test_parts_make_the_same_index(
    vectors: str,
    rows: NDArray[np.float32],
    lists: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clipcls.embeddings.inverted_lists._PART_BYTES", 200_000)
    monkeypatch.setattr("clipcls.embeddings.index_build._BLOCK", 4_096)
    write_npy(str(tmp_path / "1.npy"), rows[:12_345])
    write_npy(str(tmp_path / "2.npy"), rows[12_345:], start=12_345)
    info = build([str(tmp_path / "1.npy"), str(tmp_path / "2.npy")], tmp_path / "i", recall=0.9)
    whole, index = open_index(lists), open_index(tmp_path / "i")
    assert (info.recall, info.probes) == (whole.info.recall, whole.info.probes)
    for query in make_rows(1)[:50]:
        (one, names), (same, same_names) = whole.search(query, 10), index.search(query, 10)
        assert names == same_names
        np.testing.assert_array_equal(one, same)
    (large,) = (tmp_path / "i").glob("*.lists")
    assert large.read_bytes() == next(lists.glob("*.lists")).read_bytes()
    assert len(os.listdir(tmp_path / "i")) == 7


def test_rows_without_a_unit_vector_are_left_out(rows: NDArray[np.float32], tmp_path: Path) -> None:
    damaged = rows[:20].copy()
    damaged[3], damaged[5] = np.nan, 0
    write_npy(str(tmp_path / "v.npy"), damaged)
    assert build_index([open_vectors(str(tmp_path / "v.npy"))], tmp_path / "i").rows == 18
    assert find(open_index(tmp_path / "i"), rows[6], 1) == ["6.jpg"]
    write_npy(str(tmp_path / "none.npy"), damaged[3:4])
    with pytest.raises(InputError, match=r"none\.npy"):
        build_index([open_vectors(str(tmp_path / "none.npy"))], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_few_whole_vectors_among_damaged_ones_are_searched_exactly(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    damaged = np.zeros((12_000, DIM), np.float32)
    damaged[:20] = rows[:20]
    write_npy(str(tmp_path / "v.npy"), damaged)
    info = build([str(tmp_path / "v.npy")], tmp_path / "i", recall=0.9)
    assert (info.kind, info.rows) == (EXACT, 20)
    assert find(open_index(tmp_path / "i"), rows[7], 1) == ["7.jpg"]


def test_copies_are_equally_near(rows: NDArray[np.float32], tmp_path: Path) -> None:
    write_npy(str(tmp_path / "v.npy"), np.repeat(rows[:250], 50, axis=0))
    info = build([str(tmp_path / "v.npy")], tmp_path / "i", recall=0.95)
    assert info.recall["images"] == 1


def test_vectors_of_two_models_are_refused(rows: NDArray[np.float32], tmp_path: Path) -> None:
    write_npy(str(tmp_path / "a.npy"), rows[:5])
    write_npy(str(tmp_path / "b.npy"), rows[:5], "e2" * 32)
    files = [open_vectors(str(tmp_path / name)) for name in ("a.npy", "b.npy")]
    with pytest.raises(InputError, match=r"b\.npy.*a\.npy"):
        build_index(files, tmp_path / "i")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("suffix", [".json", ".txt", ".ends", ".faiss", ".lists", ".sizes", "f16"])
@pytest.mark.parametrize("how", ["cut", "missing", "foreign"])
def test_damaged_indexes_are_refused(
    lists: Path, rows: NDArray[np.float32], tmp_path: Path, suffix: str, how: str
) -> None:
    place = tmp_path / "i"
    shutil.copytree(lists, place)
    (name,) = [each for each in place.iterdir() if each.name.endswith(suffix)]
    size = name.stat().st_size
    if how == "cut":
        os.truncate(name, size // 2)
    elif how == "missing":
        name.unlink()
    elif suffix in ("f16", ".lists"):
        pytest.skip("numbers without a mark")
    else:
        name.write_bytes(os.urandom(size))
    with pytest.raises(InputError, match="i"):
        find(open_index(place), rows[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"probes": "many"},
        {"probes": -1},
        {"probes": True},
        {"rows": ROWS + 1},
        {"rows": 0},
        {"rows": 1.5},
        {"files": {}},
        {"files": []},
        {"files": {"../v.npy": 1}},
        {"format": "clipcls index 2"},
        {"vectors": {}},
        {"more": 1},
    ],
)
def test_damaged_manifests_are_refused(
    lists: Path, rows: NDArray[np.float32], tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(lists, tmp_path / "i")
    manifest = tmp_path / "i" / "index.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    with pytest.raises(InputError, match=r"clipcls|anew"):
        find(open_index(tmp_path / "i"), rows[0])


def test_a_killed_build_leaves_no_index_and_the_next_removes_its_files(
    vectors: str, tmp_path: Path
) -> None:
    code = (
        "import time; from clipcls.embeddings.vector_files import open_vectors\n"
        "from clipcls.embeddings.index_build import build_index\n"
        f"build_index([open_vectors({vectors!r})], {str(tmp_path / 'i')!r}, "
        "kind='IVF128,SQ8', on_rows=lambda count: time.sleep(60))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(tmp_path.glob("i/rows-*")):
        time.sleep(0.05)
        assert process.poll() is None
    with pytest.raises(OutputError, match="another run"):
        build([vectors], tmp_path / "i")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError, match="not whole"):
        open_index(tmp_path / "i")
    build([vectors], tmp_path / "i")
    assert len(os.listdir(tmp_path / "i")) == 4


def test_a_failed_build_keeps_the_former_index(vectors: str, tmp_path: Path) -> None:
    build([vectors], tmp_path / "i")
    before = sorted(os.listdir(tmp_path / "i"))

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([vectors], tmp_path / "i", recall=0.9, on_rows=stop)
    assert sorted(os.listdir(tmp_path / "i")) == before
    open_index(tmp_path / "i")


# -- the command line ---------------------------------------------------------------------------


@pytest.fixture
def photos(paint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", "red"), ("b", "green"), ("c", "blue"), ("d", "yellow")):
        paint(f"photos/{name}.png", colour)


@pytest.mark.parametrize("output", ["v.parquet", "v.npy", "v"])
def test_an_index_takes_the_place_of_the_images(photos: None, run: Run, output: str) -> None:
    expected = run("search", "a red thing", "photos", "-f", "csv", "-k", "3")
    by_image = run("search", "--image", "photos/b.png", "photos", "-f", "csv")
    run("embed", "photos", "-o", output)
    status, _, errors = run("index", output, "-o", "photos.index")
    assert status == 0
    assert "4 images indexed (exact)" in errors
    found = run("search", "a red thing", "--index", "photos.index", "-f", "csv", "-k", "3")
    assert found[:2] == expected[:2]
    found = run("search", "--image", "photos/b.png", "--index", "photos.index", "-f", "csv")
    assert found[:2] == by_image[:2]


@pytest.mark.parametrize(
    "given", ["parts/1.index parts/2.index parts/3.index", "parts", "parts/1.index others"]
)
def test_several_indexes_are_searched_as_one(photos: None, run: Run, given: str) -> None:
    rows = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    rows[60:70] = rows[:10]  # equal ones, in the order of the indexes
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    starts = (0, 20, 60)
    Path("parts").mkdir()
    for number, part in enumerate(np.split(rows, starts[1:])):
        write_npy(f"{number + 1}.npy", part, start=starts[number])
        assert run("index", f"{number + 1}.npy", "-o", f"parts/{number + 1}.index")[0] == 0
    assert run("index", "1.npy", "2.npy", "3.npy", "-o", "all.index")[0] == 0
    if "others" in given:
        Path("others").mkdir()
        for number in (2, 3):
            Path(f"parts/{number}.index").rename(f"others/{number}.index")
    names = [word for name in given.split() for word in ("--index", name)]
    for query in (("a red thing",), ("--image", "photos/b.png")):
        for k in ("1", "12", "200"):
            status, found, err = run("search", *query, *names, "-k", k, "-f", "csv")
            assert status == 0, err
            assert found == run("search", *query, "--index", "all.index", "-k", k, "-f", "csv")[1]
    lacking = names[-1] if names[-1].endswith(".index") else f"{names[-1]}/3.index"
    Path(lacking, "index.json").unlink()
    status, _, err = run("search", "red", *names)
    assert (status, lacking in err, err.count("\n")) == (2, True, 1)


def test_recall_is_printed_and_a_shortfall_is_a_warning(
    vectors: str, run: Run, tmp_path: Path
) -> None:
    status, _, errors = run("index", vectors, "-o", str(tmp_path / "i"), "--recall", "0.9")
    assert status == 0
    assert "recall@10 0.9" in errors
    assert "warning" not in errors


def test_another_models_index_is_refused(photos: None, run: Run, encoder: ColourEncoder) -> None:
    run("embed", "photos", "-o", "v.npy")
    run("index", "v.npy", "-o", "photos.index")
    encoder.weights = "e2" * 32
    status, _, errors = run("search", "red", "--index", "photos.index")
    assert (status, errors.count("\n")) == (2, 1)
    assert [word in errors for word in ("photos.index", "c0c0", "e2e2")] == [True] * 3


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("index", "photos", "-o", "i"), 2, "photos: holds no vectors"),
        (("index", "nothing", "-o", "i"), 2, "nothing: holds no vectors or is missing"),
        (("index", "v.npy", "-o", "photos"), 2, "photos: holds a.png"),
        (("index", "v.npy", "-o", "no/folder"), 3, "no/folder"),
        (("index", "v.npy", "-o", "v.npy"), 2, "v.npy"),
        (("search", "red", "--index", "photos"), 2, "photos: holds no index"),
        (("search", "red", "--index", "nothing"), 2, "nothing: no such file"),
        (("search", "red", "photos", "--index", "v"), 2, "--index"),
    ],
)
def test_errors_name_the_file(
    photos: None, run: Run, arguments: tuple[str, ...], status: int, named: str
) -> None:
    run("embed", "photos", "-o", "v.npy")
    found, _, errors = run(*arguments)
    assert found == status
    assert named in errors
    assert "internal" not in errors
    assert not Path("i").exists()
