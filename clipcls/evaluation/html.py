"""An evaluation as one page that needs nothing else: figures, curves, confusions, thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from clipcls.evaluation.tables import NAMES, number

__all__ = ["EvaluationPage", "MultiLabelPage"]


class EvaluationPage:
    """Writes the record of `page_record` by Jinja2, which escapes every text."""

    template = "evaluation.html"

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
        # A no-break space: a column must not break "43.3 %" over two lines.
        environment.filters["percent"] = lambda x: "–" if x is None else f"{100 * x:.1f}\N{NBSP}%"
        environment.filters["points"] = lambda x: f"{100 * x:+.1f}"
        page = environment.get_template(self.template).render(
            record, names=NAMES, **self._figures(record)
        )
        # Stray bytes of a path that is not valid UTF-8.
        self._stream.write(page.encode(errors="replace").decode())
        self._stream.flush()

    def _figures(self, record: Mapping[str, Any]) -> dict[str, Any]:
        reliability = record["reliability"]["curve"]
        return {
            "number": lambda name, value: number(name, value).replace(" ", "\N{NBSP}"),
            "reliability_line": _line((b["confidence"], b["accuracy"]) for b in reliability),
            "risk_line": _line((p["coverage"], p["risk"]) for p in record["risk_coverage"]),
        }


class MultiLabelPage(EvaluationPage):
    """Writes the record of `multilabel_page_record`."""

    template = "multilabel.html"

    def _figures(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Points between 0 and 1 on a square of 300 whose y goes up, as SVG writes them."""
    return " ".join(f"{300 * x:.1f},{300 - 300 * y:.1f}" for x, y in points)
