"""`--keep`: columns of tables of images that results repeat."""

from __future__ import annotations

import datetime
import decimal
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipcls import ZeroShotClassifier, to_dataframe
from clipcls.cluster.job import split
from clipcls.data.kept import Keep
from clipcls.data.paths import find_images
from clipcls.output.parquet import ParquetWriter
from clipcls.output.reader import read_results
from helpers.cli import Run
from helpers.encoders import ColourEncoder

LABELS = ("-l", "red", "-l", "green", "-l", "blue")
DAY = datetime.date(2024, 5, 1)
FORMS = ["csv", "tsv", "json", "jsonl", "parquet"]


@pytest.fixture(autouse=True)
def photos(paint: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    for name in ("red", "green", "blue"):
        paint(f"{name}.png", name)


def write(name: str = "products.parquet") -> str:
    """Three products, of which one has no image."""
    table = pa.table(
        {
            "image": ["red.png", "gone.png", "blue.png"],
            "id": pa.array([7, 8, 9], pa.int32()),
            "price": pa.array([decimal.Decimal("12.50"), None, decimal.Decimal("3.99")]),
            "day": [DAY, DAY, DAY],
            "tags": [["a", "b"], [], None],
            "weight": pa.array([1.5, float("nan"), 2.0], pa.float32()),
            "note": pa.nulls(3),
        }
    )
    if name.endswith(".parquet"):
        pq.write_table(table, name)
    elif name.endswith(".csv"):
        table.select(["image", "id", "price"]).to_pandas().to_csv(name, index=False)
    else:
        rows = table.select(["image", "id", "tags"]).to_pylist()
        Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def rows(file: str, column: str) -> list[Any]:
    """A column of a file of results, missing values as None."""
    if file.endswith(".parquet"):
        return list(pq.read_table(file).column(column).to_pylist())
    if file.endswith("json"):
        return [record[column] for record in json.loads(Path(file).read_text())]
    if file.endswith("jsonl"):
        return [json.loads(line)[column] for line in Path(file).read_text().splitlines()]
    cells = pd.read_csv(file, sep="\t" if file.endswith("tsv") else ",", dtype=str)[column]
    return [None if cell != cell else cell for cell in cells]


@pytest.mark.parametrize("command", ["classify", "tag"])
def test_parquet_keeps_the_types_and_the_rows_of_errors(run: Run, command: str) -> None:
    keep = "id,price,day,tags,weight,note"
    status, _, _ = run(command, *LABELS, "--keep", keep, write(), "-o", "r.parquet")
    assert status == 1
    made, given = pq.read_table("r.parquet"), pq.read_table("products.parquet")
    assert made.column("path").to_pylist() == ["red.png", "gone.png", "blue.png"]
    for name in ("id", "price", "day", "tags"):
        assert made.column(name).combine_chunks() == given.column(name).combine_chunks()
    assert made.schema.field("weight").type == pa.float32()
    assert made.column("weight").to_pylist() == [1.5, None, 2.0]
    assert made.column("note").null_count == 3


def test_json_has_numbers_and_csv_has_texts(run: Run) -> None:
    for file in ("r.jsonl", "r.csv"):
        run("classify", *LABELS, "--keep", "id,price,day,tags,weight", write(), "-o", file)
    assert rows("r.jsonl", "id") == [7, 8, 9]
    assert rows("r.jsonl", "price") == [12.5, None, 3.99]
    assert rows("r.jsonl", "tags") == [["a", "b"], [], None]
    assert rows("r.jsonl", "weight") == [1.5, None, 2.0]
    assert rows("r.jsonl", "day") == ["2024-05-01"] * 3
    assert rows("r.csv", "price") == ["12.50", None, "3.99"]
    assert rows("r.csv", "tags") == ['["a", "b"]', "[]", None]
    header = Path("r.csv").read_text().splitlines()[0]
    assert header == "path,label,score,best,similarity,id,price,day,tags,weight,error"


@pytest.mark.parametrize("table", ["products.csv", "products.jsonl"])
@pytest.mark.parametrize("form", FORMS)
def test_tables_of_every_kind_go_into_results_of_every_kind(
    run: Run, table: str, form: str
) -> None:
    run("classify", *LABELS, "--keep", "ID", write(table), "-o", f"r.{form}")
    is_number = table.endswith("jsonl") and "json" in form + "json" * (form == "parquet")
    assert rows(f"r.{form}", "ID") == ([7, 8, 9] if is_number else ["7", "8", "9"])


def test_a_jsonl_may_lack_the_field_in_its_first_lines_and_mix_types(run: Run) -> None:
    lines = [{"path": "red.png"}, {"path": "green.png", "id": 5}, {"path": "blue.png", "id": "x"}]
    Path("t.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for form in ("jsonl", "parquet"):
        assert run("classify", *LABELS, "--keep", "id", "t.jsonl", "-o", f"r.{form}")[0] == 0
    assert rows("r.jsonl", "id") == [None, 5, "x"]
    assert rows("r.parquet", "id") == [None, "5", "x"]


def test_images_outside_the_table_have_empty_cells(run: Run) -> None:
    for form in FORMS:
        run("classify", *LABELS, "--keep", "id", "green.png", write(), "-o", f"r.{form}")
        found = rows(f"r.{form}", "id")
        assert [cell and int(cell) for cell in found] == [None, 7, 8, 9]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_may_lack_a_column_that_another_has(run: Run, kind: str) -> None:
    write("a.parquet")
    pd.DataFrame({"path": ["green.png"], "shop": ["x"]}).to_csv("b.csv", index=False)
    Path("b.jsonl").write_text('{"path": "green.png", "shop": "x"}')
    pq.write_table(pa.table({"path": ["green.png"], "shop": ["x"]}), "b.parquet")
    for names in ((f"b.{kind}", "a.parquet"), (f"b.{kind[:2]}*", "a.parquet"), ("{0..1}.parquet",)):
        Path("0.parquet").write_bytes(Path("a.parquet").read_bytes())
        Path("1.parquet").write_bytes(Path("b.parquet").read_bytes())
        for form in FORMS:
            options = (*LABELS, "--keep", "shop,id", "-o", f"r.{form}")
            assert run("classify", *options, *names)[0] == 1  # gone.png
            made = zip(rows(f"r.{form}", "path"), rows(f"r.{form}", "shop"), strict=True)
            none = dict.fromkeys(["red.png", "gone.png", "blue.png"])
            assert dict(made) == {"green.png": "x", **none}
            assert [int(cell) for cell in rows(f"r.{form}", "id") if cell] == [7, 8, 9]


def test_texts_of_csv_and_parquet_have_one_type(run: Run) -> None:
    Path("a.csv").write_text("path,shop\ngreen.png,x\n")
    pq.write_table(
        pa.table({"path": ["red.png"], "shop": pa.array(["y"], pa.large_string())}), "b.parquet"
    )
    for names in (("a.csv", "b.parquet"), ("b.parquet", "a.csv")):
        assert run("classify", *LABELS, "--keep", "shop", *names, "-o", "r.parquet")[0] == 0
        assert sorted(rows("r.parquet", "shop")) == ["x", "y"]


def test_columns_that_no_table_has_are_refused_in_one_line(run: Run) -> None:
    Path("b.csv").write_text("path,shop\ngreen.png,x\n")
    tables = ("red.png", write(), "b.csv")
    status, out, error = run("classify", *LABELS, "--keep", "id,shop,prize,size", *tables)
    assert (status, out, len(error.splitlines())) == (2, "", 1), error
    assert all(f"'{name}'" in error for name in ("prize", "size", "price", "shop"))


def test_several_questions_share_the_cells(run: Run) -> None:
    for question in ("kind", "hue"):
        Path(f"{question}.txt").write_text("red\ngreen\nblue\n")
    options = ("--labels", "kind=kind.txt", "--labels", "hue=hue.txt")
    for form in ("csv", "jsonl", "parquet"):
        run("classify", *options, "--keep", "id", write(), "-o", f"r.{form}")
        assert [int(cell) for cell in rows(f"r.{form}", "id")] == [7, 8, 9]
    record = json.loads(Path("r.jsonl").read_text().splitlines()[0])
    assert "id" not in record["questions"]["kind"]
    for name in ("kind", "kind_note"):
        status, _, error = run("classify", *options, "--keep", name, write())
        assert (status, "question" in error) == (2, True)


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_merge_keeps_them_from_and_to_every_format(run: Run, source: str, target: str) -> None:
    keep = ("--keep", "id,price,note")
    for number in (1, 2):
        shard = ("--shard", f"{number}/2")
        run("classify", *LABELS, *keep, *shard, write(), "-o", f"{number}.{source}")
    assert run("merge", f"1.{source}", f"2.{source}", "-o", f"all.{target}")[0] == 0
    assert sorted(map(int, rows(f"all.{target}", "id"))) == [7, 8, 9]
    prices = rows(f"all.{target}", "price")
    assert sorted(float(price) for price in prices if price) == [3.99, 12.5]
    assert rows(f"all.{target}", "note") == [None] * 3
    if target in ("csv", "tsv"):
        header = Path(f"all.{target}").read_text().splitlines()[0]
        assert header.replace("\t", ",").endswith("similarity,id,price,note,error")


def test_merge_refuses_a_column_of_several_types_only_in_parquet(run: Run) -> None:
    for name, cell in (("1", 5), ("2", "x")):
        answer = {"path": f"image{name}.jpg", "label": "red", "id": cell}
        Path(f"{name}.jsonl").write_text(json.dumps(answer))
    assert run("merge", "1.jsonl", "2.jsonl", "-o", "all.parquet")[0] == 0
    assert rows("all.parquet", "id") == ["5", "x"]
    numbers = [{"path": f"{n}.jpg", "label": "red", "id": n} for n in range(5000)]
    Path("1.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in numbers))
    status, _, error = run("merge", "1.jsonl", "2.jsonl", "-o", "all.parquet")
    assert (status, "jsonl" in error) == (3, True)
    assert run("merge", "1.jsonl", "2.jsonl", "-o", "all.jsonl")[0] == 0


def test_python_has_them_too(run: Run) -> None:
    run("classify", *LABELS, "--keep", "id,price", write(), "-o", "r.jsonl")
    found = read_results("r.jsonl")
    assert [dict(each.kept or {}) for each in found][1:] == [
        {"id": 8, "price": None},
        {"id": 9, "price": 3.99},
    ]
    assert to_dataframe(found)["id"].tolist() == [7, 8, 9]


def test_crops_and_whole_videos_have_the_cells_of_their_row(run: Run) -> None:
    from helpers.videos import film

    film("clip.mp4", ["red", "blue", "blue"])
    Path("t.csv").write_text("path,id\nred.png,7\ngreen.png,8\nclip.mp4,9\n")
    run("classify", *LABELS, "--keep", "id", "t.csv", "--every", "500ms", "-o", "frames.jsonl")
    assert rows("frames.jsonl", "id") == ["7", "8", *["9"] * 6]
    run("classify", *LABELS, "--keep", "id", "--per-file", "t.csv", "-o", "files.jsonl")
    assert rows("files.jsonl", "path")[2] == "clip.mp4"
    assert rows("files.jsonl", "id") == ["7", "8", "9"]
    Path("boxes.csv").write_text("path,x,y,w,h\nred.png,0,0,1,1\nred.png,0,0,0.5,0.5\n")
    Path("photos.csv").write_text("path,id\nred.png,7\ngreen.png,8\n")
    boxes = ("--boxes", "boxes.csv")
    run("classify", *LABELS, "--keep", "id", "photos.csv", *boxes, "-o", "crops.jsonl")
    assert rows("crops.jsonl", "id") == ["7", "7", "8"]


def test_bytes_in_a_table_have_the_cells_of_their_row(run: Run) -> None:
    data = Path("red.png").read_bytes()
    pq.write_table(pa.table({"image": [data, b"", data], "id": [1, 2, 3]}), "t.parquet")
    run("classify", *LABELS, "--keep", "id", "t.parquet", "-o", "r.jsonl")
    assert rows("r.jsonl", "id") == [1, 2, 3]
    status, _, error = run("classify", *LABELS, "--keep", "image", "t.parquet")
    assert (status, "bytes" in error) == (2, True)


def test_workers_of_a_cluster_get_them(encoder: ColourEncoder) -> None:
    """What `--ray` does on each machine, without Ray."""
    images = find_images([write()], keep=Keep(["id"], is_typed=True))
    classifier = ZeroShotClassifier(["red", "blue"], model=encoder, cache=False).fit()
    found = []
    for part in split(images, 2):
        data = io.BytesIO()
        writer = ParquetWriter(io.TextIOWrapper(data), [])
        for result in classifier.classify(part.load()):
            writer.write(result)
        writer.finish()
        table = pq.read_table(io.BytesIO(data.getvalue()))
        assert table.schema.field("id").type == pa.int32()
        found += table.column("id").to_pylist()
    assert found == [7, 8, 9]


def test_a_block_of_stored_answers_has_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPCLS_NO_CACHE")
    count = 300
    pq.write_table(pa.table({"image": ["red.png"] * count, "id": [*range(count)]}), "t.parquet")
    for _ in range(2):  # at the second time all are known
        assert run("classify", *LABELS, "--keep", "id", "t.parquet", "-o", "r.parquet")[0] == 0
        assert rows("r.parquet", "id") == [*range(count)]


@pytest.mark.parametrize("name", ["path", "Label", "score", "model", "error", "label_2", "margin"])
def test_a_column_of_results_is_refused(run: Run, name: str) -> None:
    Path("t.csv").write_text(f"image,{name}\nred.png,x\n")
    status, _, error = run("classify", *LABELS, "--keep", name, "t.csv")
    assert (status, len(error.splitlines()), "rename" in error) == (2, 1, True)


def test_bad_choices_are_refused_in_one_line(run: Run) -> None:
    write()
    status, _, error = run("classify", *LABELS, "--keep", "id,prize", "products.parquet")
    assert status == 2
    assert "'prize'" in error
    assert "'price'" in error
    assert run("classify", *LABELS, "--keep", "id,ID", "products.parquet")[0] == 2
    write("products.csv")
    both = ("products.parquet", "products.csv")
    status, _, error = run("classify", *LABELS, "--keep", "id", *both, "-o", "r.parquet")
    assert (status, "int32" in error) == (1, True)
    assert run("classify", *LABELS, "--keep", "id", *both, "-o", "r.jsonl")[0] == 1
    assert rows("r.jsonl", "id") == [7, 8, 9, "7", "8", "9"]
    run("embed", "red.png", "-o", "vectors.parquet")
    status, _, error = run("classify", *LABELS, "--keep", "id", "vectors.parquet")
    assert (status, "--keep" in error) == (2, True)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_later_commands_read_results_with_further_columns(run: Run, form: str) -> None:
    run("classify", *LABELS, "--keep", "id,tags", write(), "-o", f"r.{form}")
    assert run("sort", f"r.{form}", "--into", "sorted")[0] in (0, 1)
    assert Path("sorted/red/red.png").exists()
    assert run("report", f"r.{form}", "-o", "page.html")[0] in (0, 1)
    _, _, error = run("classify", *LABELS, "--keep", "id", f"r.{form}", "-o", "again.jsonl")
    assert list(map(int, rows("again.jsonl", "id"))) == [7, 8, 9], error


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_merge_keeps_each_row_that_shares_an_image(run: Run, form: str) -> None:
    Path("t.csv").write_text("image,id\nred.png,1\nred.png,2\nblue.png,3\n")
    run("classify", *LABELS, "--keep", "id", "t.csv", "-o", f"r.{form}")
    assert run("merge", f"r.{form}", f"r.{form}", "-o", "all.jsonl")[0] == 0
    assert rows("all.jsonl", "id") == ["1", "2", "3"]
    run("tag", *LABELS, "--min-score", "0", "--keep", "id", "t.csv", "-o", f"tags.{form}")
    assert run("merge", f"tags.{form}", "-o", "all.jsonl")[0] == 0
    assert rows("all.jsonl", "id") == ["1", "2", "3"]


def test_a_column_that_occurs_twice_is_refused_and_a_negative_number_stays_one(run: Run) -> None:
    for second, error in (("id", "has 2 columns called 'id'"), ("x", "")):
        Path("t.csv").write_text(f"path,id,{second}\nred.png,-73.98,2\n")
        err = run("classify", *LABELS, "t.csv", "--keep", "id", "-o", "r.csv")[2]
        assert error in err
    assert pd.read_csv("r.csv")["id"].tolist() == [-73.98]
