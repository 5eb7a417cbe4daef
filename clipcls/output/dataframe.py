"""Results -> a pandas table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from clipcls.errors import ImageError, InputError, install_command
from clipcls.files.text import escape_bytes
from clipcls.output.columns import RESULT, flatten
from clipcls.predictions import PROVENANCE, Hit, Prediction

if TYPE_CHECKING:
    import pandas

__all__ = ["to_dataframe"]


def to_dataframe(
    results: Prediction | ImageError | Hit | Iterable[Prediction | ImageError | Hit],
) -> pandas.DataFrame:
    """A table of results: one row per image, or per image and label where it can have several.

    The columns are those of a csv of `clipcls classify`: `path`, `label`, `score`, `best`,
    `similarity`, ..., `error`; of hits `rank`, `path`, `similarity`. What made the results is in
    `attrs` (`model`, `weights`, `precision`, `prompts`, ...); results that were made in different
    ways have it in columns.

    Args:
        results: what `classify` or `search_images` yields, or `read_results` returns: one or many.

    Raises:
        InputError: pandas is missing.
        TypeError: something else is among the results.

    Example:
        >>> from clipcls import Candidate, Prediction
        >>> from clipcls.predictions import Provenance
        >>> provenance = Provenance("mini", "0123456789ab", "fp32", "photo")
        >>> found = [Prediction("a.jpg", "cat", (Candidate("cat", 0.93, 0.31),), provenance)]
        >>> to_dataframe([*found, ImageError("b.jpg", "truncated")])[["path", "label", "error"]]
            path label      error
        0  a.jpg   cat        NaN
        1  b.jpg   NaN  truncated
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError(f"a DataFrame needs pandas: {install_command('pandas')}") from error
    kinds = (Prediction, ImageError, Hit)
    columns: dict[str, list[Any]] = {name: [] for name in (*RESULT, "error")}
    count = 0
    for result in cast(Iterable[Any], [results] if isinstance(results, kinds) else results):
        if not isinstance(result, kinds):
            kind = type(result).__name__
            raise TypeError(f"give what classify() or search_images() yields, not {kind}")
        if not count and isinstance(result, Hit):
            columns = {}
        for row in flatten(result.to_dict()):
            for name in row:
                if name not in columns:
                    columns[name] = [None] * count
            for name, values in columns.items():
                values.append(row.get(name))
            count += 1
    made = {name: columns[name] for name in PROVENANCE if name in columns}
    once = {name: {*values} - {None} for name, values in made.items()}
    is_once = all(len(values) == 1 for values in once.values())
    order = [name for name in columns if name not in ("error", *PROVENANCE)]
    order += [*([] if is_once else made), *(["error"] if "error" in columns else [])]

    def column(values: list[Any]) -> Any:
        texts = (value for value in values if isinstance(value, str))
        if escape_bytes(joined := "".join(texts)) == joined:
            return values
        return pandas.Series(values, dtype=object)  # pandas's own strings are UTF-8

    frame = pandas.DataFrame({name: column(columns[name]) for name in order})
    if is_once:
        frame.attrs.update((name, values.pop()) for name, values in once.items())
    return frame
