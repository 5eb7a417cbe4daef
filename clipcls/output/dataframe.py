"""Results -> a pandas table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

from clipcls.errors import ImageError, require_extra
from clipcls.files.text import escape_bytes
from clipcls.output.columns import RESULT, flatten
from clipcls.predictions import PROVENANCE, Hit, Prediction
from clipcls.questions import Answers

if TYPE_CHECKING:
    import pandas

_Item: TypeAlias = Prediction | Answers | ImageError | Hit


def to_dataframe(
    results: _Item | Iterable[_Item],
) -> pandas.DataFrame:
    """A table of results: one row per image, or per image and label if it can have several.

    The columns are those of a csv of `clipcls classify`: `path`, `label`, `score`, `best`,
    `similarity`, ..., `error`; for hits `rank`, `path`, `similarity`. The model, weights, prompts
    and the like are in `attrs`, or in columns if they differ between results.

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
    with require_extra("pandas", "a DataFrame"):
        import pandas

    kinds = get_args(_Item)
    rows: list[dict[str, Any]] = []
    given = list(cast(Iterable[Any], [results] if isinstance(results, kinds) else results))
    for result in given:
        if not isinstance(result, kinds):
            kind = type(result).__name__
            raise TypeError(f"give what classify() or search_images() yields, not {kind}")
        rows += flatten(result.to_dict())
    found = dict.fromkeys(name for row in rows for name in row)
    if "rank" not in found and not any(isinstance(one, Answers) for one in given):
        found = dict.fromkeys([*RESULT, *(name for name in found if name != "error"), "error"])

    def column(name: str) -> Any:
        values = [row.get(name) for row in rows]
        texts = "".join(value for value in values if isinstance(value, str))
        # pandas's own strings are UTF-8.
        return values if escape_bytes(texts) == texts else pandas.Series(values, dtype=object)

    made = {name: {row.get(name) for row in rows} - {None} for name in PROVENANCE if name in found}
    is_same = all(len(values) == 1 for values in made.values())
    names = [name for name in found if name not in made and name != "error"]
    names += [*([] if is_same else made), *(["error"] if "error" in found else [])]
    frame = pandas.DataFrame({name: column(name) for name in names})
    if is_same:
        frame.attrs.update((name, values.pop()) for name, values in made.items())
    return frame
