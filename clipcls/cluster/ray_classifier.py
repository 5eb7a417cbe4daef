"""`RayClassifier`, which classifies images in a pipeline of Ray Data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.classification.multi_question import MultiQuestionClassifier
from clipcls.output.columns import RESULT, flatten
from clipcls.predictions import PROVENANCE

_NUMBER = re.compile(r"(^|_)(score|similarity|margin|nearness)(_\d+)?$")
_SOURCES = ("image", "bytes", "path")


class RayClassifier:
    """A callable class for Ray Data's `map_batches`, which adds answers to batches of images.

        clf = clipcls.ZeroShotClassifier(["cat", "dog"], cache=False).fit()
        photos = ray.data.read_images("s3://bucket/photos/", mode="RGB", include_paths=True)
        answers = photos.map_batches(
            clipcls.RayClassifier,
            fn_constructor_kwargs={"classifier": clf},
            compute=ray.data.ActorPoolStrategy(size=4),
        )
        answers.write_parquet("s3://bucket/results/")

    A fitted classifier takes the vectors of its labels along; each worker opens the model itself.

    Args:
        classifier: a `ZeroShotClassifier`, `FewShotClassifier`, `MultiLabelClassifier` or
            `MultiQuestionClassifier`; one that is not fitted is fitted by each worker.
        column: the column with images as uint8 arrays, files' bytes or paths; None: the first of
            `image`, `bytes` and `path` that exists.
        keep_images: keep that column in the answers, if it holds arrays or bytes.
        options: of the classifier's `classify`, such as `top`.
    """

    def __init__(
        self,
        classifier: Any,
        *,
        column: str | None = None,
        keep_images: bool = False,
        **options: Any,
    ) -> None:
        is_fitted = not isinstance(classifier, MultiQuestionClassifier) and (
            classifier.__sklearn_is_fitted__()
        )
        self._classifier = classifier if is_fitted else classifier.fit()
        self._column, self._keep_images, self._options = column, keep_images, options

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Classify a batch of (n,) images.

        Returns:
            the batch with `label` (str; several labels are joined by `|`), `score` and `similarity`
            (float64), the other columns of a csv of results, and `error` (str, or None). An image
            that cannot be read has an `error`, no label and NaN as score.

        Raises:
            ValueError: the batch has no column of images.
        """
        column = self._column or next((name for name in _SOURCES if name in batch), "")
        if column not in batch:
            wanted = column or f"{', '.join(_SOURCES[:-1])} or {_SOURCES[-1]}"
            raise ValueError(f"the batch has no column {wanted}; it has {', '.join(batch)}")
        images = list(batch[column])
        has_paths = all(isinstance(image, str) for image in images)
        rows = [
            _join(list(flatten(result.to_dict())))
            for result in self._classifier.classify(images, **self._options)
        ]
        asked = isinstance(self._classifier, MultiQuestionClassifier)
        names = dict.fromkeys([] if asked else RESULT)
        names |= dict.fromkeys(name for row in rows for name in row)
        kept = {
            name: values
            for name, values in batch.items()
            if name != column or has_paths or self._keep_images
        }
        left_out = {"path", "error", *PROVENANCE}
        found = {name: [row.get(name) for row in rows] for name in names if name not in left_out}
        errors = np.array([row.get("error") for row in rows], object)
        return (
            kept
            | {name: _make_column(name, cells) for name, cells in found.items()}
            | {"error": errors}
        )


def _join(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row for the labels of one image."""
    first = rows[0]
    return first | ({"label": "|".join(row["label"] for row in rows)} if len(rows) > 1 else {})


def _make_column(name: str, cells: list[Any]) -> NDArray[Any]:
    """A column whose type is the same in every batch, also in one without answers."""
    return np.array(cells, np.float64 if _NUMBER.search(name) else object)
