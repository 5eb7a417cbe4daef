"""An evaluation -> what its page shows: curves, confusions, and thumbnails of telling images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from clipcls.data.thumbnails import data_uri, thumbnail
from clipcls.errors import ImageError

if TYPE_CHECKING:
    from clipcls.evaluation.compare import Comparison, MultiLabelComparison
    from clipcls.evaluation.evaluate import Evaluation
    from clipcls.evaluation.multilabel import MultiLabelEvaluation

__all__ = ["multilabel_page_record", "page_record"]

_SHOWN = 24
_SIDE = 160  # of a thumbnail, pixels
_CLASSES = 30  # in the confusion matrix


def page_record(
    evaluation: Evaluation, source: str, comparisons: Sequence[Comparison] = ()
) -> dict[str, Any]:
    """The record that `writers.evaluation_page` makes a page of.

    Args:
        evaluation: what to show.
        source: the data's name, for the heading.
        comparisons: of others with this one.

    Returns:
        `Evaluation.record`, with `source`; `errors`, the most confident wrong answers, and
        `doubts`, the least confident right ones, each with the image as a data URI ("" where it
        cannot be read any more); `matrix`; and `compare`, a record per comparison with `sides`,
        the images that changed sides.
    """
    wrong = sorted((a for a in evaluation.answers if a[1] != a[2]), key=lambda a: -a[3])
    right = sorted((a for a in evaluation.answers if a[1] == a[2]), key=lambda a: a[3])
    return {
        **evaluation.record(),
        "source": source,
        "errors": list(_examples(wrong[:_SHOWN])),
        "doubts": list(_examples(right[:_SHOWN])),
        "matrix": _matrix(evaluation),
        "compare": _compared(comparisons),
    }


def multilabel_page_record(
    evaluation: MultiLabelEvaluation,
    source: str,
    comparisons: Sequence[MultiLabelComparison] = (),
) -> dict[str, Any]:
    """The record that `writers.evaluation_page` makes a page of.

    Returns:
        `MultiLabelEvaluation.record`, with `source`, and `wrong` and `missed`, each with the image
        as a data URI ("" where it cannot be read any more); and `compare`, as in `page_record`.
    """

    def shown(items: Iterable[tuple[str, str, float]]) -> list[dict[str, Any]]:
        return [
            {"path": path, "label": label, "score": score, "image": _thumbnail(path)}
            for path, label, score in items
        ]

    return {
        **evaluation.record(),
        "source": source,
        "wrong": shown(evaluation.wrong),
        "missed": shown(evaluation.missed),
        "compare": _compared(comparisons),
    }


def _compared(comparisons: Sequence[Comparison | MultiLabelComparison]) -> list[dict[str, Any]]:
    """Each comparison's record, with the first images that changed sides and how many did."""
    return [
        {
            **comparison.record(),
            "sides": [
                {
                    "what": what,
                    "count": len(changes),
                    "shown": [
                        {**change._asdict(), "image": _thumbnail(change.path)}
                        for change in changes[:_SHOWN]
                    ],
                }
                for what, changes in (
                    ("right here, wrong in the first", comparison.gained),
                    ("wrong here, right in the first", comparison.lost),
                )
            ],
        }
        for comparison in comparisons
    ]


def _examples(answers: Iterable[tuple[str, str, str, float]]) -> Iterable[dict[str, Any]]:
    for path, label, answer, score in answers:
        yield {
            "path": path,
            "label": label,
            "answer": answer,
            "score": score,
            "image": _thumbnail(path),
        }


def _thumbnail(path: str) -> str:
    try:
        return data_uri(thumbnail(path, _SIDE))
    except ImageError:
        return ""


def _matrix(evaluation: Evaluation) -> dict[str, Any]:
    """The confusion matrix; of many classes those with the most errors, the rest together."""
    wrong: dict[str, int] = {}
    for right, answer, count in evaluation.confused:
        wrong[right] = wrong.get(right, 0) + count
        wrong[answer] = wrong.get(answer, 0) + count
    seen = [
        label
        for label, figures in zip(evaluation.labels, evaluation.classes, strict=True)
        if figures.support or figures.answers
    ]
    kept = set(sorted(seen, key=lambda label: -wrong.get(label, 0))[:_CLASSES])
    labels = [label for label in seen if label in kept]
    at = {label: number for number, label in enumerate(labels)}
    others = len(labels)
    counts = [[0] * (others + 1) for _ in labels]
    for label, figures in zip(evaluation.labels, evaluation.classes, strict=True):
        if label in at and figures.support:
            counts[at[label]][at[label]] = round(figures.recall * figures.support)
    for right, answer, count in evaluation.confused:
        if right in at:
            counts[at[right]][at.get(answer, others)] += count
    return {"labels": labels, "counts": counts, "others": len(seen) - len(labels)}
