"""Parse label files of every format into an `Entry` per label, and warnings.

An entry says what is written and where; `label_set` checks whether it can be a label.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from clipcls.errors import LabelsError
from clipcls.files.text import number_lines, read_table
from clipcls.labels.entries import FIELDS, Entry, Parsed, split_cell
from clipcls.labels.formats import parse_items
from clipcls.labels.lists import find_doubts, strip_lines
from clipcls.labels.structured import read_code, read_json, read_yaml

# Names that other tools give to the column of labels, the preferred one first.
_LABEL_COLUMNS = (
    *("display_name", "displayname", "class_name", "classname", "label_name", "name", "labels"),
    *("class", "category", "species", "keyword", "tag", "title"),
)
_LEVELS = re.compile(r"^\s*#+\s*levels:(.*)$", re.MULTILINE | re.IGNORECASE)
# How only a list in code begins: `NAMES = [`, `export const NAMES: string[] = [`, `["`.
_CODE = re.compile(r"""[^"'“‘]*(?:=|=>|\w!?(?=\S))\s*[\[{(]\s*(?:["'“‘]|$)|[\[({]\s*["'“‘]""")
# Keys of label files and of YOLO's data.yaml, in a text file or on stdin.
_YAML = re.compile(
    r"^\s*-?\s*(?:label|prompts?|synonyms?):\s|^[^#\n]*:\s*\{\s*(?:prompts?|synonyms?):|"
    r"\A(?=(?s:.*\n)?names:)(?=(?s:.*\n)?(?:nc|train|val|path):)",
    re.MULTILINE,
)


def parse_labels(path: Path, text: str) -> Parsed:
    """Parse the text of a label file, by its suffix (see `read_labels`).

    Raises:
        LabelsError: label files have no such suffix, or the text does not fit the format; the
            message names file and line.
    """
    suffix = path.suffix.lower()
    parsers = dict.fromkeys(("", ".txt", ".names", ".labels"), _parse_text)
    parsers |= {".pbtxt": _parse_label_map, ".csv": _parse_table, ".tsv": _parse_table}
    parsers |= {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml}
    if suffix not in parsers:
        known = ", ".join(filter(None, parsers))
        raise LabelsError(f"{path}: {suffix} is not a format of label files; use one of {known}")
    return parsers[suffix](str(path), text)


def find_level_names(path: Path, text: str) -> str:
    """The text after `# levels:` in a label file; "" without it, or in csv and JSON."""
    comment = _LEVELS.search(text) if path.suffix.lower() not in (".csv", ".tsv", ".json") else None
    return comment[1] if comment else ""


def _parse_text(path: str, text: str) -> Parsed:
    """One label per line, or another format in a file without its suffix."""
    lines = list(number_lines(text))
    first = lines[0][1] if lines else ""
    cells = [cell.strip(' "').lower() for cell in re.split("[,;\t]", first)]
    if re.match('"?sep=', first, re.IGNORECASE) or (len(cells) > 1 and set(cells) <= set(FIELDS)):
        return _parse_table(path, text).read_as(path, "a table")
    if re.search(r"^\t+\S", text, re.MULTILINE) and not text.startswith("\t"):
        return _parse_indented(path, text).read_as(path, "a hierarchy indented by tabs")
    if re.match(r"item\s*\{", first):
        return _parse_label_map(path, text)
    if _YAML.search(text):
        return _parse_yaml(path, text)
    what, kept = strip_lines(lines)
    if "quotes" not in what and re.search(r"""[\[({"'“‘]""", first):
        if found := read_code(path, text):
            return parse_items(path, found[1], found[0])
        if _CODE.match(first):
            raise LabelsError(
                f"{path}: begins like a list in code or JSON but cannot be read as one (a bracket, "
                "a quote or a comma may be missing); write one label per line"
            )
        if first[0] == "[" and text.rstrip().endswith("]") and "," in text:
            return _parse_yaml(path, text)  # [cat, hot dog]
    parsed = Parsed([Entry(f"{path}:{n}", line) for n, line in kept], find_doubts(path, kept))
    return parsed.read_as(path, what)


def _parse_indented(path: str, text: str) -> Parsed:
    """Keywords as Lightroom exports them: indented by tabs, `{synonym}`, `[only a group]`."""
    above: list[str] = []
    found: list[Entry] = []
    groups: set[tuple[str, ...]] = set()
    for number, line in enumerate(text.split("\n"), 1):
        name = line.strip()
        depth = min(len(line) - len(line.lstrip("\t")), len(above))
        if name.startswith("{") and name.endswith("}") and found:
            found[-1].synonyms = [*(found[-1].synonyms or ()), name[1:-1]]  # type: ignore[misc]
        elif name and not name.startswith("#"):
            above[depth:] = [name[1:-1] if name.startswith("[") and name.endswith("]") else name]
            parents = tuple(above[:-1])
            groups.add(parents)
            found.append(Entry(f"{path}:{number}", above[-1], parents=parents))
    return Parsed([e for e in found if (*(e.parents or ()), e.label) not in groups])


def _parse_json(path: str, text: str) -> Parsed:
    try:
        return parse_items(path, read_json(path, text))
    except json.JSONDecodeError as e:
        if found := read_code(path, text):
            return parse_items(path, found[1], found[0])
        raise LabelsError(f"{path}:{e.lineno}: is not JSON: {e.msg} (column {e.colno})") from e


def _parse_yaml(path: str, text: str) -> Parsed:
    return parse_items(path, read_yaml(path, text))


def _parse_label_map(path: str, text: str) -> Parsed:
    """TensorFlow's label maps: `item { id: 1 name: 'cat' }`, perhaps with a display_name."""
    items = re.findall(r"item\s*\{(.*?)\}", text, re.DOTALL)
    names = [dict(re.findall(r"(\w*name)\s*:\s*[\"'](.*?)[\"']", item)) for item in items]
    found = [Entry(path, known.get("display_name") or known.get("name")) for known in names]
    return Parsed(found).read_as(path, "a TensorFlow label map")


def _parse_table(path: str, text: str) -> Parsed:
    table = read_table(text, path)
    parsed = Parsed([])
    columns = _find_columns(table.where, table.columns, parsed.warnings) if table.columns else {}
    for where, row in table.rows:
        cells = {columns[name]: cell for name, cell in row.items() if name in columns}
        label = cells.get("label", "")
        parsed.entries.append(
            Entry(
                where,
                label,
                split_cell(where, "prompts", cells.get("prompts", ""), label),
                split_cell(where, "synonyms", cells.get("synonyms", "")),
                use_templates=cells.get("use_templates", "").strip() or None,
                group=cells.get("group"),
            )
        )
    return parsed


def _find_columns(where: str, given: tuple[str, ...], warnings: list[str]) -> dict[str, str]:
    """The columns that have a meaning -> the field of an `Entry` that each is."""
    columns = {name: FIELDS[name] for name in given if name in FIELDS}
    if "label" not in columns.values():
        known = next((name for name in _LABEL_COLUMNS if name in given), None)
        if known is None:
            shown = ", ".join(map(repr, filter(None, given[:5])))
            raise LabelsError(
                f"{where}: no column is named `label`: the first line has {shown}; rename the "
                "column of the labels, or write a plain list as a .txt file"
            )
        warnings.append(f"{where}: the labels are read from the column {known!r}")
        columns[known] = "label"
    meant = [columns[name] for name in given if name in columns]
    if twice := [name for name in given if meant.count(columns.get(name, "")) > 1]:
        raise LabelsError(f"{where}: the column {twice[0]!r} appears twice; keep one")
    if others := [name for name in given if name and name not in columns]:
        warnings.append(f"{where}: ignored columns: {', '.join(map(repr, others))}")
    return columns
