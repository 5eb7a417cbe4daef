from __future__ import annotations

import numpy as np
import pytest

from clipcls.embeddings.index import find_nearest, neighbours, search_blocks


@pytest.fixture(params=[1000, 3000], ids=["numpy", "faiss"])
def rows(request: pytest.FixtureRequest) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((request.param, 32), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_search_is_numpys_answer(rows: np.ndarray) -> None:
    similarities, found = find_nearest(rows, rows[:50], 10)
    expected = np.argsort(-(rows[:50] @ rows.T), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        similarities, np.take_along_axis(rows[:50] @ rows.T, expected, 1), atol=1e-6
    )


def test_blocks_give_what_one_index_gives(rows: np.ndarray) -> None:
    blocks = (rows[start : start + 64] for start in range(0, len(rows), 64))
    whole = find_nearest(rows, rows[:5], 20)
    for got, expected in zip(search_blocks(blocks, rows[:5], 20), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_no_more_than_there_is(rows: np.ndarray) -> None:
    similarities, found = find_nearest(rows[:3], rows[:2], 10)
    assert similarities.shape == found.shape == (2, 3)
    assert search_blocks([], rows[:2], 10)[1].shape == (2, 0)


def test_equal_rows_come_in_their_order() -> None:
    rows = np.array([[0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    _, found = find_nearest(rows, np.array([[1, 0]], np.float32), 4)
    np.testing.assert_array_equal(found, [[1, 2, 0, 3]])


def test_of_many_equal_rows_the_first_ones_come(rows: np.ndarray) -> None:
    rows[5:45] = rows[5]  # copies of one photo, more than are asked for
    _, found = find_nearest(rows, rows[[5, 0]], 3)
    np.testing.assert_array_equal(found[0], [5, 6, 7])
    assert found[1, 0] == 0


def test_an_answer_does_not_depend_on_its_batch(rows: np.ndarray) -> None:
    together = find_nearest(rows, rows[:100], 5)
    for n in range(100):
        for alone, among in zip(find_nearest(rows, rows[n : n + 1], 5), together, strict=True):
            np.testing.assert_array_equal(alone[0], among[n])


def test_rows_have_neighbours_where_most_are_equal(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As in a folder with thousands of copies of one photo: nearly all cells are empty."""
    monkeypatch.setattr("clipcls.embeddings.index._EXACT_UP_TO", 500)
    rows[: len(rows) - 20] = rows[0]
    similarities, found = neighbours(rows, 15)
    assert found.min() >= 0
    assert all(len(set(near) - {n}) == 15 for n, near in enumerate(found.tolist()))
    exact = np.take_along_axis(rows @ rows.T, found.astype(np.int64), 1)
    np.testing.assert_allclose(similarities, exact, atol=1e-6)
    assert capfd.readouterr().err == ""
