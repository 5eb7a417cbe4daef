"""Read JSON, YAML and lists pasted from code as `Item`s, each with its line.

Numbers and words such as `yes` stay as they were written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from clipcls.errors import InputError
from clipcls.files.jsonfiles import check_depth, unique_keys
from clipcls.files.text import canonical
from clipcls.labels.entries import Item, Number

if TYPE_CHECKING:
    import yaml

_NUMBER = re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?(?:[eE][-+]?\d+)?")
_SPACE = re.compile(r"[\s,:]*")
# Text before a list in other languages: `const labels = `, `List.of`, `vector<string> names`.
_PREFIX = re.compile(r"""\s*[^"'\n]*?[\w=>:)\]]\s*(?=[\[({]\s*["'])""")
_STRAIGHT = str.maketrans("“”„‘’", '"""\'\'')
_NEITHER = "must be a list of labels, or a mapping from label to texts"


def read_code(path: str, text: str) -> tuple[str, list[Item]] | None:
    """Read JSON or a list pasted from code: its name and its items; None for any other text.

    Raises:
        InputError: as `read_json` and `read_python`.
    """
    if text.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(json.JSONDecodeError):
            return "JSON", read_json(path, text)
    items = read_python(path, text)
    return None if items is None else ("a list in code", items)


def read_json(path: str, text: str) -> list[Item]:
    """Read the items of a JSON list or mapping; the mapping may repeat a key, as labels may.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        InputError: it is neither a list nor a mapping, nests too deeply, or repeats a key further
            down.
    """
    decoder = json.JSONDecoder(
        object_pairs_hook=unique_keys, parse_int=Number, parse_float=Number, parse_constant=Number
    )

    def values() -> Iterator[tuple[str, Any]]:
        """(`where`, value) of each value at the top level, keys included."""
        at = _SPACE.match(text).end() + 1  # type: ignore[union-attr]
        while text[at := _SPACE.match(text, at).end()] not in "]}":  # type: ignore[union-attr]
            where = f"{path}:{text.count(chr(10), 0, at) + 1}"
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as e:
                raise InputError(f"{where}: {e}") from e
            yield where, value

    check_depth(text, path)
    if not text.strip():
        return []
    # Parsed whole for syntax errors, then value by value for the line of each.
    top = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    walk = values()
    if isinstance(top, list):
        return [Item(where, None, value) for where, value in walk]
    if isinstance(top, dict):
        return [
            Item(where, key, value) for (where, key), (_, value) in zip(walk, walk, strict=True)
        ]
    raise InputError(f"{path}: {_NEITHER}")


def read_yaml(path: str, text: str) -> list[Item]:
    """Read the items of a YAML list or mapping.

    Raises:
        InputError: the text is something else; the message names file and line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses aliases: a few of them can stand for a billion texts."""

        def fetch_alias(self) -> NoReturn:
            problem = "aliases (*name) are not supported"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())

    def where(node: yaml.Node) -> str:
        return f"{path}:{node.start_mark.line + 1}"

    def value(node: yaml.Node) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [value(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            found = {
                value(key) if isinstance(key, yaml.ScalarNode) else "": item
                for key, item in node.value
            }
            if len(found) < len(node.value):
                raise InputError(f"{where(node)}: a key appears twice in one entry; keep one")
            return {key: value(item) for key, item in found.items()}
        if getattr(node, "style", None) is None:  # a plain scalar, without quotes
            if node.value.lower() in ("", "~", "null"):
                return None
            if _NUMBER.fullmatch(node.value):
                return Number(node.value)
        return node.value

    try:
        # Nodes, unlike values, keep lines, spelling and repeated keys.
        top = yaml.compose(text, Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as e:
        # A ValueError comes from an escape beyond Unicode or a huge version number.
        mark = getattr(e, "problem_mark", None) or getattr(e, "context_mark", None)
        line = text.count("\n", 0, mark.index if mark else getattr(e, "position", 0)) + 1
        problem = getattr(e, "problem", None) or e
        if isinstance(e, yaml.reader.ReaderError):
            problem = f"it contains the character {chr(e.character)!r}"
        if isinstance(e, RecursionError):
            problem = "it is too deeply nested"
        raise InputError(f"{path}:{line}: is not YAML for labels: {problem}") from e
    if isinstance(top, yaml.SequenceNode):
        return [Item(where(node), None, value(node)) for node in top.value]
    if isinstance(top, yaml.MappingNode):
        return [
            Item(where(k), k.value if isinstance(k, yaml.ScalarNode) else value(k), value(v))
            for k, v in top.value
        ]
    if top is None:
        return []
    raise InputError(f"{where(top)}: {_NEITHER}")


def read_python(path: str, text: str) -> list[Item] | None:
    """Read the items of a list, tuple, set or dict pasted from code.

    The literal may be assigned (`CLASSES = [...]`), passed to a call (`np.array([...])`), without
    its brackets, or preceded by what another language writes (`const labels = [...];`). Lambdas and
    f-strings are templates: `lambda c: f"a {c}"` is `a {c}`.

    Returns:
        None if the text is not such a literal.

    Raises:
        InputError: a comma is missing, so that Python would join two texts.
    """
    import ast

    text = "\n" * (len(text) - len(text.lstrip("\n"))) + canonical(text)
    if not re.search("[\"']", text):
        text = text.translate(_STRAIGHT)
    prefix = _PREFIX.match(text)
    bare = "\n" * prefix[0].count("\n") + text[prefix.end() :] if prefix else text
    for source in dict.fromkeys((text, f"[{text}\n]", f"{{{text}\n}}", bare)):
        try:
            with warnings.catch_warnings(action="ignore"):  # of odd escapes, on stderr
                (statement,) = ast.parse(source.rstrip("; \n")).body
            node = statement.value  # type: ignore[attr-defined]
            while isinstance(node, ast.Call) and node.args:
                node = node.args[0]
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found = [(item.lineno, _value(key), _value(item)) for key, item in pairs]
            else:
                found = [(item.lineno, None, _value(item)) for item in node.elts]
        except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
            continue
        _refuse_joined(source, path)
        return [Item(f"{path}:{line}", key, value) for line, key, value in found]
    return None


def _value(node: Any) -> Any:
    import ast

    if isinstance(node, ast.Lambda):
        return _value(node.body)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{c}" for part in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Constant) and (
        node.value is None or isinstance(node.value, str | bool)
    ):
        return node.value
    if isinstance(node, ast.Constant | ast.UnaryOp):
        return Number(ast.unparse(node))
    raise ValueError("not a literal")


def _refuse_joined(source: str, path: str) -> None:
    """Refuse two strings without a comma between them, which Python would join."""
    import io
    import tokenize

    blank = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    for one, other in itertools.pairwise(t for t in tokens if t.type not in blank):
        if one.type == other.type == tokenize.STRING:
            raise InputError(
                f"{path}:{other.start[0]}: a comma is missing between {one.string} and "
                f"{other.string}"
            )
