"""How near images are to their labels, on a scale that is the same for every model.

Cosines of images and texts have another level and spread for each model. So an image's similarity
to its label is standardised by its similarities to everyday names (a z-score against a text bank,
as in `multilabel`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipcls.embeddings.embed import embed_texts
from clipcls.labels.prompts import everyday_texts
from clipcls.numerics import row_blocks

if TYPE_CHECKING:
    from clipcls.embeddings.cache import EmbeddingCache
    from clipcls.models.encoder import Encoder

NEAR = 2.0
"""An image below it is near no label; chosen on development sets (docs/evidence/doubt.md)."""

_BLOCK = 1024  # images; bounds memory
_SAMPLE = 256  # images of a block, at least
_EVERY = 12  # of the names; as good as all of them, and quickly embedded


class Nearness:
    """Standardises similarities by those of 96 everyday names, which it embeds.

    Args:
        encoder: the model.
        cache: where the names' vectors are kept, or None.
        is_sampled: whether to measure only some images of each block, which tells the share of far
            ones well enough; the others get NaN.
    """

    def __init__(
        self, encoder: Encoder, cache: EmbeddingCache | None, *, is_sampled: bool = False
    ) -> None:
        self.is_sampled = is_sampled
        self._names = embed_texts(encoder, self.texts(), cache).astype(np.float64)

    @staticmethod
    def texts() -> tuple[str, ...]:
        """The texts of the everyday names."""
        return tuple(everyday_texts(_EVERY))

    def measure(
        self, vectors: NDArray[np.float32], similarities: NDArray[Any]
    ) -> NDArray[np.float64]:
        """How many standard deviations similarities are above those of everyday names.

        Args:
            vectors: unit rows of images, float32 (n, dim).
            similarities: of each image to its label, (n,).

        Returns:
            float64 (n,).
        """
        if self.is_sampled and (every := len(vectors) // _SAMPLE) > 1:
            sampled = np.full(len(vectors), np.nan)
            sampled[::every] = self._measure(vectors[::every], similarities[::every])
            return sampled
        return self._measure(vectors, similarities)

    def _measure(
        self, vectors: NDArray[np.float32], similarities: NDArray[Any]
    ) -> NDArray[np.float64]:
        found = np.empty(len(vectors))
        for rows in row_blocks(len(vectors), _BLOCK):
            names = vectors[rows].astype(np.float64) @ self._names.T
            spread = np.maximum(names.std(axis=1), 1e-9)
            found[rows] = (similarities[rows] - names.mean(axis=1)) / spread
        return found
