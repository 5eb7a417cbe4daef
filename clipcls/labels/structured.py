"""Read JSON, YAML, and lists pasted from code, as far as `Item`s with their lines.

Numbers and words such as `yes` come back as they were written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clipcls.errors import ClipclsError, LabelsError
from clipcls.files.jsonfiles import check_depth, unique_keys
from clipcls.files.text import canonical
from clipcls.labels.entries import Item, Number

if TYPE_CHECKING:
    import yaml

__all__ = ["read_json", "read_python", "read_yaml"]

_NUMBER = re.compile(r"[-+]?\d[\d_]*(?:\.\d*)?(?:[eE][-+]?\d+)?")
_SPACE = re.compile(r"[\s,:]*")


def read_json(path: str, text: str, error: type[ClipclsError] = LabelsError) -> list[Item]:
    """The items of a JSON list or mapping. A key may come twice at the top, as labels may.

    Raises:
        json.JSONDecodeError: it is not JSON.
        error: it is neither list nor mapping, or one that no label file has.
    """
    import json

    decoder = json.JSONDecoder(
        object_pairs_hook=unique_keys, parse_int=Number, parse_float=Number, parse_constant=Number
    )

    def values() -> Iterator[tuple[str, Any]]:
        """(`where`, value) of each value of the top level, keys included."""
        at = _SPACE.match(text).end() + 1  # type: ignore[union-attr]
        while text[at := _SPACE.match(text, at).end()] not in "]}":  # type: ignore[union-attr]
            where = f"{path}:{text.count(chr(10), 0, at) + 1}"
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as e:
                raise error(f"{where}: {e}") from e
            yield where, value

    check_depth(text, path, error)
    if not text.strip():
        return []
    # Only for its errors, with line and column; then value by value, to know the line of each.
    top = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    if isinstance(top, list):
        return [Item(where, None, value) for where, value in values()]
    if isinstance(top, dict):
        walk = values()
        return [
            Item(where, key, value) for (where, key), (_, value) in zip(walk, walk, strict=True)
        ]
    raise error(f"{path}: must be a list of labels, or a mapping from label to texts")


def read_yaml(path: str, text: str) -> list[Item]:
    """The items of a YAML list or mapping.

    Raises:
        LabelsError: it is something else, with file and line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Makes nodes only: they keep what was written, line by line, and keys that come twice.

        Aliases are refused, since a few of them can stand for a billion texts.
        """

        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not supported", mark)
            if self.depth > 20:
                raise yaml.MarkedYAMLError(None, None, "too deeply nested for labels", mark)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

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
                raise LabelsError(f"{where(node)}: a key is twice in one entry; keep one")
            return {key: value(item) for key, item in found.items()}
        if getattr(node, "style", None) is None:
            if node.value.lower() in ("", "~", "null"):
                return None
            if _NUMBER.fullmatch(node.value):
                return Number(node.value)
        return node.value

    try:
        top = yaml.compose(text, Loader)
    except (ValueError, OverflowError) as e:  # of an escape beyond Unicode, or a huge version
        raise LabelsError(f"{path}: is not YAML: {e}") from e
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f":{mark.line + 1}" if mark else ""
        column = f" (column {mark.column + 1})" if mark else ""
        raise LabelsError(f"{path}{line}: is not YAML for labels: {e.problem}{column}") from e
    except yaml.reader.ReaderError as e:
        number = text.count("\n", 0, e.position) + 1
        raise LabelsError(
            f"{path}:{number}: is not YAML: it has the character {chr(e.character)!r}"
        ) from e
    if top is None:
        return []
    if isinstance(top, yaml.SequenceNode):
        return [Item(where(node), None, value(node)) for node in top.value]
    if isinstance(top, yaml.MappingNode):
        return [
            Item(where(k), k.value if isinstance(k, yaml.ScalarNode) else value(k), value(v))
            for k, v in top.value
        ]
    raise LabelsError(f"{where(top)}: must be a list of labels, or a mapping from label to texts")


def read_python(path: str, text: str, error: type[ClipclsError] = LabelsError) -> list[Item] | None:
    """The items of a list, tuple, set or dict that was pasted from Python.

    An assignment (`CLASSES = [...]`), a call around it (`np.array([...])`) and what other
    languages put in front (`const labels = [...];`) are skipped, and the brackets may be missing.

    Returns:
        None if the text is no such literal.

    Raises:
        error: a comma is missing, so that Python would join two texts.
    """
    import ast

    text = "\n" * (len(text) - len(text.lstrip("\n"))) + canonical(text)
    prefix = re.match(r"(?:\s*#.*\n)*\s*[A-Za-z_][\w.]*\s*(?::[^=\n]+)?=\s*", text)
    if prefix:
        text = "\n" * prefix[0].count("\n") + text[prefix.end() :]
    straight = text.translate(str.maketrans("“”„‘’", '"""\'\''))
    inner = re.sub(r"\A[^\"'\n]*?(?=[\[({]\s*[\"'])", "", straight)
    for source in dict.fromkeys(
        (text, f"[{text}\n]", f"{{{text}\n}}", straight, f"[{straight}\n]", inner)
    ):
        try:
            node: Any = ast.parse(source.rstrip("; \n"), mode="eval").body
            while isinstance(node, ast.Call) and node.args:
                node = node.args[0]
            if isinstance(node, ast.Dict):
                pairs = list(zip(node.keys, node.values, strict=True))
                found = [(item.lineno, _value(key), _value(item)) for key, item in pairs]
            elif isinstance(node, ast.List | ast.Tuple | ast.Set):
                found = [(item.lineno, None, _value(item)) for item in node.elts]
            else:
                continue
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            continue
        _refuse_joined(source, path, error)
        return [Item(f"{path}:{line}", key, value) for line, key, value in found]
    return None


def _value(node: Any) -> Any:
    import ast

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


def _refuse_joined(source: str, path: str, error: type[ClipclsError]) -> None:
    """Two strings without a comma between them, which Python joins to one."""
    import io
    import tokenize

    last = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING:
            if last is not None:
                raise error(
                    f"{path}:{token.start[0]}: a comma is missing between {last} and {token.string}"
                )
            last = token.string
        elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT):
            last = None
