"""An evaluation as one page that needs nothing else: metrics, curves, confusions, thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from clipcls.data.thumbnails import make_data_uri, make_thumbnail
from clipcls.errors import ImageError
from clipcls.evaluation.compare import Change, Comparison
from clipcls.evaluation.evaluate import BaseEvaluation, Evaluation, MultiLabelEvaluation
from clipcls.evaluation.tables import NAMES, format_cell, format_metric, rank_classes

__all__ = ["EvaluationPage", "page_record"]

_SHOWN = 24
_SIDE = 160  # of a thumbnail, pixels
_CLASSES = 30  # in the confusion matrix


class EvaluationPage:
    """Writes the record of `page_record` by Jinja2, which escapes every text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes the page, handed to the system at once."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("clipcls", "evaluation"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        columns, classes = rank_classes(record)
        environment.filters["percent"] = lambda x: _keep_together("accuracy", x)
        environment.filters["points"] = lambda x: f"{100 * x:+.1f}"
        page = environment.get_template("evaluation.html").render(
            record,
            several="labels_per_image" in record,
            names=NAMES,
            number=lambda name, value: format_metric(name, value).replace(" ", "\N{NBSP}"),
            cell=_keep_together,
            columns=columns,
            classes=classes,
        )
        # Stray bytes of a path that is not valid UTF-8.
        self._stream.write(page.encode(errors="replace").decode())
        self._stream.flush()


def _keep_together(key: str, value: float | None) -> str:
    """With a no-break space: a column must not break "43.3 %" over two lines."""
    return format_cell(key, value).replace(" ", "\N{NBSP}")


def page_record(
    evaluation: BaseEvaluation, source: str, comparisons: Sequence[Comparison] = ()
) -> dict[str, Any]:
    """What `EvaluationPage` shows.

    Args:
        evaluation: what to show.
        source: the data's name, for the heading.
        comparisons: of others with this one.

    Returns:
        the evaluation's record, with `source`; `examples`, titles and telling images, each with its
        image as a data URI ("" where it cannot be read any more); `compare`, a record per
        comparison with `sides`, the images that changed sides; with one label per image `matrix`,
        and the points of the curves.
    """
    return {
        **evaluation.to_dict(),
        "source": source,
        "examples": _examples(evaluation),
        "compare": [
            {
                **comparison.to_dict(),
                "sides": [
                    _changed("right here, wrong in the first", comparison.gained),
                    _changed("wrong here, right in the first", comparison.lost),
                ],
            }
            for comparison in comparisons
        ],
        **(_curves(evaluation) if isinstance(evaluation, Evaluation) else {}),
    }


def _examples(evaluation: BaseEvaluation) -> list[tuple[str, list[dict[str, Any]]]]:
    """Titles and the images that tell the most."""
    if isinstance(evaluation, MultiLabelEvaluation):
        return [
            (title, [_photo(path, label=label, score=score) for path, label, score in items])
            for title, items in (
                ("Labels wrongly given, the most confident", evaluation.wrong),
                ("Labels that were missed, the least confident", evaluation.missed),
            )
        ]
    assert isinstance(evaluation, Evaluation)
    outcomes, order = evaluation.outcomes, evaluation.outcomes.confidence.argsort(kind="stable")
    correct = outcomes.correct
    errors = [at for at in reversed(order.tolist()) if not correct[at]]
    doubts = [at for at in order.tolist() if correct[at]]

    def photo(at: int) -> dict[str, Any]:
        label, answer = outcomes.describe(at, evaluation.labels)
        score = float(outcomes.confidence[at])
        return _photo(evaluation.paths[at], label=label, answer=answer, score=score)

    return [
        ("The most confident errors", [photo(at) for at in errors[:_SHOWN]]),
        ("The least confident hits", [photo(at) for at in doubts[:_SHOWN]]),
    ]


def _changed(what: str, changes: Sequence[Change]) -> dict[str, Any]:
    """The first images that changed sides, and how many did."""
    shown = [
        _photo(change.path, label=change.right, before=change.before, after=change.after)
        for change in changes[:_SHOWN]
    ]
    return {"what": what, "count": len(changes), "shown": shown}


def _photo(path: str, **details: Any) -> dict[str, Any]:
    try:
        image = make_data_uri(make_thumbnail(path, _SIDE))
    except ImageError:
        image = ""
    return {"path": path, "image": image, **details}


def _curves(evaluation: Evaluation) -> dict[str, Any]:
    reliability, risk = evaluation.outcomes.reliability(), evaluation.outcomes.risk_coverage()
    return {
        "matrix": _matrix(evaluation),
        "reliability_line": _line((b.confidence, b.accuracy) for b in reliability),
        "risk_line": _line((p.coverage, p.risk) for p in risk),
    }


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points between 0 and 1 on a square of 300 whose y goes up, as SVG writes them."""
    return " ".join(f"{300 * x:.1f},{300 - 300 * y:.1f}" for x, y in points)


def _matrix(evaluation: Evaluation) -> dict[str, Any]:
    """The confusion matrix; of many classes those with the most errors, the rest together."""
    wrong: dict[str, int] = {}
    for right, answer, count in evaluation.confused:
        wrong[right] = wrong.get(right, 0) + count
        wrong[answer] = wrong.get(answer, 0) + count
    seen = [
        label
        for label, metrics in zip(evaluation.labels, evaluation.classes, strict=True)
        if metrics.support or metrics.answers
    ]
    kept = set(sorted(seen, key=lambda label: -wrong.get(label, 0))[:_CLASSES])
    labels = [label for label in seen if label in kept]
    at = {label: number for number, label in enumerate(labels)}
    others = len(labels)
    counts = [[0] * (others + 1) for _ in labels]
    for label, metrics in zip(evaluation.labels, evaluation.classes, strict=True):
        if label in at and metrics.support:
            counts[at[label]][at[label]] = round(metrics.recall * metrics.support)
    for right, answer, count in evaluation.confused:
        if right in at:
            counts[at[right]][at.get(answer, others)] += count
    return {"labels": labels, "counts": counts, "others": len(seen) - len(labels)}
