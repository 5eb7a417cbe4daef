"""Whatever a file holds, its reader returns something usable or refuses it in one line.

The number of examples per kind is FUZZ_EXAMPLES (100 unless set).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clipcls.calibration.base import Identity
from clipcls.calibration.file import read_calibration
from clipcls.calibration.multilabel import MultiLabelCalibration
from clipcls.calibration.single_label import Calibration
from clipcls.cli import cli
from clipcls.cli.settings import File, list_options, resolve
from clipcls.data.dataset import read_dataset
from clipcls.data.matching import match_labels
from clipcls.data.sorted_folders import read_folder_labels
from clipcls.errors import CalibrationError, ClipclsError, InputError
from clipcls.few_shot.file import Learnt, classifier_bytes, read_classifier
from clipcls.files.jsonfiles import parse_json
from clipcls.labels.folder_names import assign_folders
from clipcls.labels.label_set import LabelSet, read_labels
from clipcls.labels.names import join_levels
from clipcls.labels.prompts import make_prompts, make_texts, read_prompts
from clipcls.models.aliases import MINI
from clipcls.models.registry import resolve as resolve_model
from clipcls.organize.journal import Journal
from clipcls.output.dataframe import to_dataframe
from clipcls.output.reader import read_answers, read_results
from clipcls.output.writing import open_output
from clipcls.predictions import Prediction
from clipcls.web.review.annotations import Corrections

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 100,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

HERE = tempfile.TemporaryDirectory(prefix="clipcls-malformed-")

DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 1_000 + "]" * 1_000, "[" * 40 + "]" * 40]
VALUES = [
    *("null", "true", "0", "-1", "1", "7", "0.5", "1e400", "-1e400", "1e-320", "1e308", "NaN"),
    *("Infinity", "-Infinity", "9" * 30, "9" * 5_000, "2147483648", "-9223372036854775808"),
    *('""', '" "', '"a"', '"ab"', '"\\ud800"', '"\\udcff"', '"\\u0000"', '"a\\nb"', '"../x"'),
    *('"{}"', '"a {} b"', '"a > b"', '"x|y"', '"unknown"', '"NaN"', '"1e999"', '"\\u202a"'),
    *("[]", "{}", "[[]]", "[1]", '["a"]', '[["a", "b"]]', '[{"label": "x"}]', '{"a": 1}'),
    *('{"a": 1, "a": 2}', '{"label": "a", "score": 0.5}', '{"": ""}', '[null, "a", 3]', *DEEP),
]
PIECES = [
    *(piece.encode() for piece in VALUES),
    *(
        b"\n",
        b"\r",
        b"\0",
        b'"',
        b"'",
        b",",
        b";",
        b"\t",
        b"|",
        b":",
        b": ",
        b"- ",
        b"#",
        b"{",
        b"}",
    ),
    *(b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b\x08", b"\xed\xa0\x80", b"\xf0\x9f\x90\xb1"),
    *(
        b"\x0b",
        b"\x1b[31m",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"&a ",
        b"*a",
        b"!!python/object:x ",
        b"? ",
    ),
    *(b'"\\U00110000"', b'"\\x"', b"%YAML 1.99\n---\n", b"%TAG ! x\n", b"---\n", b"...\n", b"<<: "),
    *(b"label,prompts\n", b"path,label\n", b"sep=;\n", b"=1+1", b" > ", b"\\#", b"item {", b"0x1F"),
]


# By number, so that what Hypothesis prints is short.
pieces = st.integers(0, len(PIECES) - 1).map(PIECES.__getitem__)


def mutated_bytes(*valid: bytes) -> st.SearchStrategy[bytes]:
    """A valid file in which some slices are replaced, or only such pieces."""
    change = st.tuples(
        st.floats(0, 1),
        st.sampled_from([0, 0, 1, 2, 8, 64, 10_000]),
        st.one_of(pieces, pieces, st.binary(max_size=6)),
    )

    def change_slices(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
        for where, length, piece in changes:
            at = round(where * len(data))
            data = data[:at] + piece + data[at + length :]
        return data

    mutated = st.builds(
        change_slices, st.sampled_from(valid), st.lists(change, min_size=1, max_size=3)
    )
    return st.one_of(mutated, mutated, st.lists(pieces, max_size=8).map(b"".join))


def mutated_json(*valid: Any) -> st.SearchStrategy[bytes]:
    """Valid JSON in which values are replaced, keys left out or given twice."""
    change = st.tuples(
        st.integers(0, 10_000),
        st.integers(0, len(VALUES) - 1),
        st.sampled_from("===-2"),
    )

    def render(value: Any, changes: list[tuple[int, int, str]]) -> bytes:
        total = count(value)
        swaps = {number % total: (VALUES[text], how) for number, text, how in changes}
        return next(write(value, swaps, iter(range(total))), "").encode()

    whole = st.builds(render, st.sampled_from(valid), st.lists(change, min_size=1, max_size=3))
    return st.one_of(whole, whole, mutated_bytes(*(json.dumps(v).encode() for v in valid)))


def count(value: Any) -> int:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count, below))


def write(value: Any, swaps: dict[int, tuple[str, str]], numbers: Iterator[int]) -> Iterator[str]:
    """JSON of the value; yields nothing where it is left out, and twice where it is doubled."""
    text, how = swaps.get(next(numbers), (None, "="))
    if isinstance(value, dict):
        items = [
            f"{json.dumps(key)}: {one}"
            for key, v in value.items()
            for one in write(v, swaps, numbers)
        ]
        own = f"{{{', '.join(items)}}}"
    elif isinstance(value, list):
        own = f"[{', '.join(one for item in value for one in write(item, swaps, numbers))}]"
    else:
        own = json.dumps(value)
    if how == "2":
        yield own
    if how != "-" or text is None:
        yield own if text is None else text


def refused(read: Callable[[Path], Any], name: str, data: bytes) -> Any:
    """What a reader makes of a file; None where it refuses it, which it must do in one line."""
    path = Path(HERE.name) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    try:
        return read(path)
    except ClipclsError as error:
        message = str(error)
        assert name.split("/")[0] in message, message
        assert len(message.splitlines()) == 1, message
        return None


@pytest.fixture(autouse=True, scope="module")
def _no_warnings() -> Iterator[None]:
    logging.getLogger("clipcls").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("clipcls").setLevel(logging.NOTSET)


# -- labels ------------------------------------------------------------------------------------

LABELS = {
    "l.txt": [
        b"cat\ndog\n# a comment\nhot dog\n",
        b"# levels: kind > breed\nanimal > pug\nanimal > tabby cat\n\\# 5\n",
        b"0 cat\n1 dog\n",
        b"['cat', 'dog', \"bird\"]\n",
        b"item {\n id: 1\n name: 'cat'\n}\n",
        b"CLASSES = ('a', 'b',\n 'c')",
        b"{0: 'tench', 1: 'goldfish'}",
    ],
    "l.csv": [
        b"label,prompts,synonyms,use_templates\ncat,a {} | my cat,kitten | puss,yes\ndog,a,,no\n",
        b"sep=;\nlabel;synonyms\ncat;puss\n\ndog;\n",
    ],
    "l.yaml": [
        b"- cat\n- label: dog\n  prompts: [a dog, 'my {}']\n  synonyms: hound\n- 3.50\n",
        b"cat:\n  prompts: [a, b]\ndog: ~\nbird: 'a {}'\n",
        b"names:\n  0: cat\n  1: dog\nnc: 2\ntrain: x\n",
    ],
}
LABELS_JSON = [
    [
        "cat",
        "dog",
        {"label": "bird", "prompts": ["a {}"], "synonyms": "tit", "use_templates": False},
    ],
    {"cat": None, "dog": {"prompts": ["a"], "synonyms": ["hound"]}, "bird": "a {}"},
    {"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]},
    {"categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}]},
    {"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}},
]


def check_labels(name: str, data: bytes) -> None:
    found: LabelSet | None = refused(read_labels, name, data)
    if found is None:
        return
    for texts in make_texts(found, make_prompts("a photo of a {}.")):
        assert texts
        assert all(text.encode() for text in texts)
    again = [
        {
            "label": join_levels(label.path),
            "prompts": label.prompts,
            "synonyms": label.synonyms,
            "use_templates": label.use_templates,
        }
        for label in found
    ]
    (Path(HERE.name) / "again.json").write_text(json.dumps(again))
    assert read_labels(Path(HERE.name) / "again.json").labels == found.labels


@fuzz
@given(st.one_of(*(st.tuples(st.just(n), mutated_bytes(*files)) for n, files in LABELS.items())))
def test_label_files(file: tuple[str, bytes]) -> None:
    check_labels(*file)


@fuzz
@given(mutated_json(*LABELS_JSON), st.sampled_from(["l.json", "l.txt", "l.yml"]))
def test_label_files_as_json(data: bytes, name: str) -> None:
    check_labels(name, data)


# -- templates, truth, corrections ---------------------------------------------------------------


@fuzz
@given(
    st.one_of(
        mutated_bytes(
            b"a photo of a {}.\n# comment\na {c}\n",
            b"templates = [\n  lambda c: f'a {c}',\n  lambda c: f'the {c}.',\n]\n",
            b"- a {}\n- the {}\n",
        ),
        mutated_json({"cars": ["a {c}.", "the {c}"]}, ["a {}", "the {}"]),
    )
)
def test_template_files(data: bytes) -> None:
    found = refused(read_prompts, "t.txt", data)
    if found is not None:
        (Path(HERE.name) / "again.txt").write_text(json.dumps(found.templates))
        assert read_prompts(Path(HERE.name) / "again.txt").templates == found.templates


TRUTH = (
    b"path,label\na.jpg,cat\nb/c.jpg,cat | dog\n",
    b'path;label;labelled_by\n\'=a.jpg;"b""c";person\nx.jpg;dog;model\n',
)


@fuzz
@given(mutated_bytes(*TRUTH), st.booleans(), st.sampled_from(["t.csv", "t.tsv", "t.csv.gz"]))
def test_truth_files(data: bytes, unlabelled: bool, name: str) -> None:
    found = refused(
        lambda path: read_dataset(path, unlabelled=unlabelled),
        name,
        gzip.compress(data) if name.endswith("gz") else data,
    )
    if found is not None:
        with contextlib.suppress(InputError):
            match_labels(found, ["cat", "dog", "b > c"])


@fuzz
@given(mutated_bytes(b"path,label,best\na.jpg,cat,dog\nb/c.jpg,unknown,\n", *TRUTH))
def test_corrections(data: bytes) -> None:
    def read(path: Path) -> dict[str, str]:
        with Corrections(path) as corrections:
            corrections.set({"new.jpg": "bird"})
            return dict(corrections.labels)

    found = refused(read, "c.csv", data)
    if found is not None:
        with Corrections(Path(HERE.name) / "c.csv") as again:
            assert again.labels == found


# -- results -------------------------------------------------------------------------------------

MADE_BY = {"model": "mini", "weights": "0" * 12, "precision": "fp32", "prompts": "photo"}
RESULTS: list[dict[str, Any]] = [
    {
        "path": "a.jpg",
        "label": "cat",
        "score": 0.9,
        "top": [{"label": "cat", "score": 0.9, "similarity": 0.3}, {"label": "dog", "score": 0.1}],
        **MADE_BY,
    },
    {
        "path": "b.jpg",
        "label": "pug",
        "lineage": ["dog", "pug"],
        "set": ["pug"],
        "score": 1,
        "top": [],
    },
    {
        "path": "c.jpg",
        "labels": [{"label": "cat", "score": 0.5}],
        "best": {"label": "cat", "score": 0.5},
    },
    {"path": "d.jpg", "label": "unknown", "score": 0.2, "labelled_by": "person", "refined": True},
    {"path": "e.jpg", "error": "cut off"},
]


def check_results(name: str, data: bytes) -> None:
    found = refused(read_results, name, data)
    if found is None:
        return
    lines = (json.dumps(result.to_dict()) for result in found)
    again = Path(HERE.name) / "again.jsonl"
    again.write_text("\n".join(lines))
    for one, other in zip(read_results(again), found, strict=True):
        assert one.to_dict() == other.to_dict()  # in which numbers have six decimals
    answers = [result for result in found if isinstance(result, Prediction)]
    for folders in assign_folders(label for p in answers for label in p.label_paths).values():
        assert all(0 < len(os.fsencode(name)) <= 100 for name in folders)
    with open_output(Path(HERE.name) / "again.csv", "csv") as writer:
        for result in found:
            writer.write(result)
    assert len(to_dataframe(found)) >= len(found)


@fuzz
@given(
    st.lists(mutated_json(*RESULTS), min_size=1, max_size=3).map(b"\n".join),
    st.sampled_from(["r.jsonl", "r.jsonl.gz"]),
)
def test_results_as_jsonl(data: bytes, name: str) -> None:
    check_results(name, gzip.compress(data) if name.endswith("gz") else data)


QUESTIONS = {
    "path": "a.jpg",
    "questions": {
        "kind": RESULTS[0] | {"path": 3, "calibration": "c0"},
        "colours": {"labels": [{"label": "red", "score": 0.5}], "best": {"label": "red"}},
    },
    "model": "m",
}


def check_answers(name: str, data: bytes) -> None:
    def read(path: Path) -> list[object]:
        for question in (None, "kind", "colours"):
            with contextlib.suppress(ClipclsError):
                read_results(path, question=question)
        return list(read_answers(path))

    found = refused(read, name, data)
    if found is None:
        return
    for form in ("jsonl", "csv"):
        with open_output(Path(HERE.name) / f"again.{form}", form) as writer:
            for answers in found:
                writer.write(answers)
    again = read_answers(Path(HERE.name) / "again.jsonl")
    assert [one.to_dict() for one in again] == [one.to_dict() for one in found]
    assert len(to_dataframe(found)) >= len(found)


@fuzz
@given(mutated_json(QUESTIONS))
def test_answers_to_several_questions_as_jsonl(data: bytes) -> None:
    check_answers("r.jsonl", data)


@fuzz
@given(
    mutated_bytes(
        b"path,kind,kind_score,kind_label_2,kind_score_2,kind_set,colours,colours_score,error\n"
        b"a.jpg,cat,0.9,dog,0.1,cat|dog,red|blue,0.5|0.25,\nb.jpg,,,,,,,,x\n",
    ),
    mutated_json({"notes": [{**MADE_BY, "kind_calibration": "c0"}]}),
)
def test_answers_to_several_questions_as_csv(data: bytes, metadata: bytes) -> None:
    (Path(HERE.name) / "r.csv-metadata.json").write_bytes(metadata)
    check_answers("r.csv", data)


@fuzz
@given(mutated_json(RESULTS))
def test_results_as_json(data: bytes) -> None:
    check_results("r.json", data)


@fuzz
@given(
    mutated_bytes(
        b"path,label,score,best,label_2,score_2,lineage,set,error\n"
        b'a.jpg,cat,0.9,,dog,"0,1",,cat|dog,\nb.jpg,unknown,0.2,dog,,,a > dog,,\nc.jpg,,,,,,,,x\n',
        b"path\tlabel\tscore\tlabelled_by\na.jpg\t'=cat\t1\tperson\n",
    ),
    mutated_json({"notes": [MADE_BY]}),
)
def test_results_as_csv(data: bytes, metadata: bytes) -> None:
    (Path(HERE.name) / "r.csv-metadata.json").write_bytes(metadata)
    check_results("r.csv", data)


@fuzz
@given(st.data())
def test_results_as_parquet(data: st.DataObject) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist([RESULTS[0], {"path": "e.jpg", "error": "cut off"}])
    for name in ("path", "label", "score", "top", "model"):
        if data.draw(st.integers(0, 4)) == 0:
            column = data.draw(
                st.sampled_from(
                    [
                        *([1, 2], [None, 1.5], [b"\xff", b"a"], [float("nan"), float("inf")]),
                        *([True, False], [["a"], []], [{"a": 1}, None], ["\0", ""], [2**63 - 1, 0]),
                        [arrow.scalar(2**60, arrow.timestamp("ns")).value] * 2,
                    ]
                )
            )
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, arrow.array(column))
    file = io.BytesIO()
    parquet.write_table(table, file)
    found = file.getvalue()
    if data.draw(st.booleans()):
        found = data.draw(mutated_bytes(found))
    check_results("r.parquet", found)


# -- calibrations, classifiers, models ----------------------------------------------------------

IDENTITY = Identity(
    "mini", "0" * 64, "fp32", "photo", ("a {}",), (("cat", "0" * 8), ("dog", "1" * 8))
)
SINGLE = Calibration(
    IDENTITY,
    images=12,
    temperature=1.5,
    note="",
    metrics={"nll": {"before": 1.0, "after": 0.5}, "ece": {"before": 0.1, "after": 0.05}},
    thresholds=((0.9, 3, 0), (0.5, 8, 1), (0.1, 12, 3)),
    set_scores=((4, 0.9, 1.0), (8, 0.5, 1.2), (12, 0.1, 2.0)),
    versions={"clipcls": "0"},
    made_from=("0" * 12, "1" * 12),
)
SEVERAL = MultiLabelCalibration(
    IDENTITY,
    images=12,
    slope=1.0,
    offsets=(0.0, -1.0),
    thresholds=(0.5, 0.4),
    positives=(4, 7),
    note="",
    metrics={"nll": {"before": 1.0, "after": 0.5}},
    versions={"clipcls": "0"},
)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@fuzz
@given(mutated_json(as_json(SINGLE.to_dict()), as_json(SEVERAL.to_dict())))
def test_calibrations(data: bytes) -> None:
    again = Path(HERE.name) / "again.json"
    found = refused(read_calibration, "c.json", data)
    if found is None:
        return
    found.save(again)
    assert read_calibration(again) == found
    assert read_calibration(again).digest == found.digest
    found.promises()
    if isinstance(found, MultiLabelCalibration):
        found.in_order([name for name, _ in found.identity.labels])
        return
    found.for_coverage(0.5)
    for use in (found.for_error, found.set_threshold):
        with contextlib.suppress(CalibrationError):
            use(0.3)


LEARNT = Learnt(
    model="mini",
    weights="0" * 64,
    precision="fp32",
    prompts="photo",
    templates=("a {}",),
    labels=(("cat", 3, True), ("dog", 0, False)),
    method={"name": "probe", "c": 1.0},
    cross_validation={"images": 3, "accuracy": 0.9, "accuracy_of_words": 0.8},
    outshouted=0,
    versions={"clipcls": "0"},
    paths=(("animal", "cat"), ("animal", "dog")),
    levels=("kind", "name"),
)
TENSORS: dict[str, np.ndarray] = {
    "coef": np.eye(2, 4, dtype=np.float32),
    "intercept": np.zeros(2),
    "learnt_from": np.zeros((3, 8), np.uint8),
    "given": np.zeros(3, np.int32),
}


def with_metadata(text: bytes) -> bytes:
    from safetensors.numpy import save

    return save(TENSORS, {"clipcls": text.decode(errors="replace")})


@fuzz
@given(
    st.one_of(
        mutated_json(
            as_json(
                json.loads(
                    json.loads(
                        (whole := classifier_bytes(LEARNT, TENSORS))[
                            8 : 8 + int.from_bytes(whole[:8], "little")
                        ]
                    )["__metadata__"]["clipcls"]
                )
            )
        ).map(with_metadata),
        mutated_bytes(whole),
    )
)
def test_classifiers(data: bytes) -> None:
    found = refused(read_classifier, "c.safetensors", data)
    if found is not None:
        learnt, tensors = found
        assert learnt.summary()
        again = Path(HERE.name) / "again.safetensors"
        again.write_bytes(classifier_bytes(learnt, tensors))
        assert read_classifier(again)[0] == learnt


CONFIG = json.loads((MINI / "open_clip_config.json").read_text())


@fuzz
@given(mutated_json(CONFIG))
def test_model_configurations(data: bytes) -> None:
    folder = Path(HERE.name) / "model"
    folder.mkdir(exist_ok=True)
    (folder / "m.safetensors").touch()
    found = refused(
        lambda path: resolve_model(f"local-dir:{path.parent}"), "model/open_clip_config.json", data
    )
    if found is not None:
        assert found.key()
        assert found.context_length > 0


# -- settings, journals ---------------------------------------------------------------------------

TOML = b"""\
model = "mini"
workers = 2
[classify]
top = 3
min-score = 0.5
label = ["cat", "dog"]
cache = "x.db"
"""


TOML_VALUES = [
    *("inf", "-inf", "nan", "1e400", "9" * 30, "9" * 5_000, "0", "-1", "1.5", "true", "1979-05-27"),
    *('""', '" "', '"\\u0000"', '"x\\ny"', '"../x"', '"/"', '"inf"', '"1_0"', '"{}"', "[]", "[[]]"),
    *(
        "{}",
        "{a = 1}",
        "[1, 'a']",
        "['\\ud800']",
        "[" * 5_000,
        "[" * 60 + "]" * 60,
        "0x" + "f" * 999,
    ),
]


def toml(names: list[str], values: list[int]) -> bytes:
    lines = (f"{name} = {TOML_VALUES[value]}" for name, value in zip(names, values, strict=True))
    return "\n".join(["[classify]", *lines]).encode()


CLASSIFY: Any = cli.get_command(click.Context(cli), "classify")
assert CLASSIFY is not None


@fuzz
@given(
    st.one_of(
        mutated_bytes(TOML, b"classify" + b".top" * 5_000 + b" = 1\n"),
        st.integers(1, 3).flatmap(
            lambda n: st.builds(
                toml,
                st.lists(
                    st.sampled_from(sorted(list_options(CLASSIFY))),
                    min_size=n,
                    max_size=n,
                    unique=True,
                ),
                st.lists(st.integers(0, len(TOML_VALUES) - 1), min_size=n, max_size=n),
            )
        ),
    ),
    st.booleans(),
)
def test_settings(data: bytes, is_own: bool) -> None:
    def read(path: Path) -> dict[str, Any]:
        return resolve([File(path, is_own=is_own)], cli, ("classify",), CLASSIFY)

    refused(read, "clipcls.toml", data)


JOURNAL = [
    {"clipcls sort": 1, "mode": "move"},
    {"folder": "b_w", "label": "b/w"},
    {"n": 1, "from": "/x/a.jpg", "to": "b_w/a.jpg", "part": "p", "size": 1, "mtime_ns": 1},
    {"done": 1},
    {"finished": True},
]


@fuzz
@given(st.tuples(*map(mutated_json, JOURNAL)), st.integers(0, 31))
def test_journals(lines: tuple[bytes, ...], kept: int) -> None:
    valid = [json.dumps(line).encode() for line in JOURNAL]
    data = b"\n".join(
        old if kept >> n & 1 else new for n, (old, new) in enumerate(zip(valid, lines, strict=True))
    )
    name = "clipcls-sort-1.jsonl"
    found = refused(Journal.read, name, data + b"\n")
    if found is not None:
        for entry in found.entries.values():
            os.fsencode(entry.source), os.fsencode(entry.target), os.fsencode(entry.part)
    read_folder_labels(Path(HERE.name))


# -- the reader of JSON ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[1e999]", "1e999 is too large"),
        ("9" * 5_000, "too large"),
        ('"\\ud800"', "half a surrogate pair"),
        ('{\n"a": }', ":2: is not JSON"),
    ],
)
def test_json_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_json(text, "x.json")
    assert reason in str(refusal.value)
    assert str(refusal.value).startswith("x.json:")


def test_json_that_is_allowed() -> None:
    assert parse_json("[" * 50 + "]" * 50, "x")
    assert parse_json(json.dumps("[" * 100), "x") == "[" * 100
    assert parse_json('"\\ud83d\\udc31"', "x") == "\U0001f431"
    assert parse_json('"\\udcff"', "x", has_paths=True) == os.fsdecode(b"\xff")
