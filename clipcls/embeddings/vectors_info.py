"""The model that made stored vectors, and blocks of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import InputError
from clipcls.models.encoder import Encoder
from clipcls.numerics import unit_rows

FORMAT = "clipcls vectors 1"
_UNIT_TOLERANCE = 5e-3  # of the squared norm; float16 rounds


@dataclass(frozen=True, slots=True)
class VectorsInfo:
    """The model and preprocessing that made the vectors of a file.

    Attributes:
        model: the model's name.
        weights: SHA-256 of its weights in hex.
        precision: the precision it computed in.
        preprocessing: how images were resized and normalised.
        space: the encoder's `image_space`.
        dim: the vectors' length.
        shard: the shares of the images that are all in it, as `1/4` or `1/4 2/4`; "" if it is not
            of shares.
    """

    model: str
    weights: str
    precision: str
    preprocessing: dict[str, Any]
    space: str
    dim: int
    shard: str = ""

    @classmethod
    def of(cls, encoder: Encoder, dim: int, shard: str = "") -> VectorsInfo:
        """The info of vectors that an encoder makes."""
        return cls(
            encoder.name,
            encoder.weights,
            encoder.precision,
            encoder.preprocessing,
            encoder.image_space,
            dim,
            shard,
        )

    @classmethod
    def from_json(cls, text: str | bytes, name: str) -> VectorsInfo:
        """The info of a file's metadata.

        Raises:
            InputError: it is damaged, or of a later version.
        """
        try:
            given = json.loads(text)
            form = given.pop("format")
            info = cls(**given)
            texts = info.model, info.weights, info.precision, info.space, info.shard
            is_valid = all(isinstance(each, str) for each in texts) and info.dim > 0
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{name}: does not say which model made its vectors; make it anew with "
                "`clipcls embed`"
            ) from error
        if form != FORMAT or not is_valid:
            raise InputError(f"{name}: its vectors are of another version of clipcls; embed anew")
        return info

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    def check(self, encoder: Encoder, name: str) -> None:
        """Refuse vectors that this encoder would not make of the same images.

        Another precision is accepted: it changes vectors by less than the model can tell apart.

        Raises:
            InputError: they are another model's, or of images that were prepared otherwise.
        """
        if self.weights != encoder.weights:
            raise InputError(
                f"{name}: its vectors are by the model {self.model} (weights {self.weights[:12]}), "
                f"not by {encoder.name} ({encoder.weights[:12]}); use --model {self.model}, or "
                "embed the images anew"
            )
        is_other = self.space != encoder.image_space and self.precision == encoder.precision
        # A new version of open_clip may prepare images otherwise under the same name.
        preprocessing = json.loads(json.dumps(encoder.preprocessing))  # which has tuples
        if is_other or self.preprocessing != preprocessing:
            named = f"use --model {self.model}, or " if self.model != encoder.name else ""
            raise InputError(
                f"{name}: its images were prepared otherwise than {encoder.name} prepares them "
                f"now; {named}embed them anew"
            )

    def check_same(self, name: str, other: VectorsInfo, other_name: str) -> None:
        """Refuse to put these vectors together with those of another file.

        Another precision is accepted, as by `check`.

        Raises:
            InputError: they are by different models, or of images that were prepared differently.
        """
        if self.weights != other.weights:
            raise InputError(
                f"{name}: its vectors are by {self.model}, those of {other_name} by {other.model}; "
                "name files by one model"
            )
        if (self.preprocessing, self.dim) != (other.preprocessing, other.dim):
            raise InputError(
                f"{name}: its images were prepared otherwise than those of {other_name}; embed "
                "those of one anew"
            )


@dataclass(slots=True)
class VectorBlock:
    """Some images' vectors.

    Attributes:
        paths: the images.
        vectors: float32 (n, dim).
        hashes: SHA-256 of each file's content in hex; "" if unknown.
        sizes: bytes of each file; 0 if unknown.
    """

    paths: Sequence[str]
    vectors: NDArray[np.float32]
    hashes: Sequence[str] = ()
    sizes: Sequence[int] = ()


def is_unit(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows are unit vectors, bool (n,)."""
    return np.asarray(np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) < _UNIT_TOLERANCE)


def as_unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """float32 rows; rounded ones are brought back to unit length, others stay."""
    vectors = np.asarray(rows, np.float32)
    if rows.dtype != np.float32:
        whole = is_unit(vectors)
        vectors[whole] = unit_rows(vectors[whole])
    return vectors
