"""Labels that form a tree, and the answers at each of its levels.

All labels compete in one softmax; the score of a node is the sum over the classes at and below it,
as in CHiLS (Novack et al. 2023, arXiv 2302.02551).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import LabelsError
from clipcls.labels.names import join_levels, make_distinct


class Level:
    """The answers at one level: nodes, each with the classes at and below it.

    A class above the level is a node of its own, so every class belongs to one node.

    Args:
        paths: each class's names from the root; no two are the same.
        depth: the level, from 1.

    Attributes:
        paths: each node's names from the root, in the order of the classes.
        names: each node's name; its path if several share the name.
        node: the node of each class, int64 (n_classes,).
    """

    def __init__(self, paths: Sequence[tuple[str, ...]], depth: int) -> None:
        numbers: dict[tuple[str, ...], int] = {}
        node = [numbers.setdefault(path[:depth], len(numbers)) for path in paths]
        self.paths = tuple(numbers)
        self.names = make_distinct(self.paths)
        self.node = np.array(node, np.int64)
        self._by_node = np.argsort(self.node, kind="stable")
        self._starts = np.searchsorted(self.node[self._by_node], np.arange(len(self.paths)))

    def labels(self, node: int) -> list[int]:
        """The classes at and below a node."""
        found: list[int] = np.flatnonzero(self.node == node).tolist()
        return found

    def sums(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum each node's scores: (n, n_classes) -> (n, n_nodes)."""
        return np.add.reduceat(scores[:, self._by_node], self._starts, axis=1)

    def best(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The highest value of each node: (n, n_classes) -> (n, n_nodes)."""
        return np.maximum.reduceat(values[:, self._by_node], self._starts, axis=1)

    def log_sums(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-sum-exp of each node's logits: (n, n_classes) -> (n, n_nodes)."""
        rows = logits[:, self._by_node]
        return np.logaddexp.reduceat(rows, self._starts, axis=1)


class Hierarchy:
    """The tree of some labels.

    Args:
        paths: each class's names from the root; no two are the same.
        level_names: a name per level, or none.
        source: the labels' file, for error messages.

    Attributes:
        levels: the nodes at level 1 (the roots), 2, ...; the last are the classes.
    """

    def __init__(
        self,
        paths: Sequence[tuple[str, ...]],
        level_names: Sequence[str] = (),
        source: str = "labels",
    ) -> None:
        self._paths = tuple(paths)
        self._source = source
        self.level_names = tuple(level_names)
        self.levels = tuple(
            Level(self._paths, depth) for depth in range(1, max(map(len, paths)) + 1)
        )

    def level(self, rank: int | str) -> Level:
        """Find a level by its number, from 1, or its name.

        Raises:
            LabelsError: no such level exists.
        """
        text = str(rank).strip()
        names = [name.casefold() for name in self.level_names]
        if text.casefold() in names:
            return self.levels[names.index(text.casefold())]
        if text.isdecimal() and 1 <= int(text) <= len(self.levels):
            return self.levels[int(text) - 1]
        numbers = f"1 to {len(self.levels)}" if len(self.levels) > 1 else "1 only"
        named = f", by name {', '.join(self.level_names)}" if names else ""
        raise LabelsError(f"{self._source}: has no level {text!r}; its levels are {numbers}{named}")

    def meanings(self, level: Level) -> dict[str, tuple[int, ...]]:
        """Map every name and path in the tree to the nodes of `level` above or below it.

        A name that several nodes share means the answers of all of them.
        """
        found: dict[str, dict[int, None]] = {}
        for path, answer in zip(self._paths, level.node.tolist(), strict=True):
            for depth in range(1, len(path) + 1):
                for name in (path[depth - 1], join_levels(path[:depth])):
                    found.setdefault(name, {})[answer] = None
        return {name: tuple(answers) for name, answers in found.items()}
