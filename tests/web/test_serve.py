"""`clipcls serve`: records as from `classify`, limits, shed load, and nothing on the disk."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.exceptions import HTTPException

from clipcls import (
    Abstain,
    FewShotClassifier,
    MultiLabelClassifier,
    MultiQuestionClassifier,
    ZeroShotClassifier,
)
from clipcls.cli import cli
from clipcls.embeddings.embed import embed_images, embed_texts
from clipcls.errors import install_command
from clipcls.web.admission import Queue
from clipcls.web.serve.fetch import Fetcher
from clipcls.web.serve.schemas import Answer, LabelsAnswer, Limits
from helpers.encoders import ColourEncoder
from helpers.loops import run_async
from helpers.pictures import every_file, picture, png, saved
from helpers.servers import BLUE, GREEN, HERE, LABELS, RED, Server, SlowEncoder, check, plain


@pytest.fixture
def server(encoder: ColourEncoder) -> Iterator[Server]:
    with Server(encoder) as made:
        yield made


# -- answers ------------------------------------------------------------------------------------


def test_records_are_those_of_classify(server: Server, paint: Callable[..., str]) -> None:
    paths = [paint("a.png", "red"), paint("b.png", "blue"), paint("c.png", "yellow")]
    Path(paths[1]).write_text("text")
    expected = [item.to_dict() for item in server.classifier.classify(paths, top=2)]
    images = [(path, Path(path).read_bytes()) for path in paths]
    answer = server.classify(*images, top=2)
    assert answer == {"results": expected, "warnings": []}
    assert [sorted(record) for record in expected][1] == ["error", "path"]


def test_labels_of_a_request_and_what_they_cost(server: Server) -> None:
    server.encoder.texts.clear()
    answer = server.classify(("a", GREEN), labels=["red", "green"], top=5)
    assert [c["label"] for c in answer["results"][0]["top"]] == ["green", "red"]
    assert server.encoder.texts == ["red", "green"]
    server.classify(("a", GREEN), labels=["red", "green"])
    server.classify(("a", GREEN), labels="# colours\nblue\r\n\nred")
    assert server.encoder.texts == ["red", "green", "blue"]  # each once
    answer = server.classify(("a", GREEN), labels=["a green thing"], prompts="my {}")
    assert server.encoder.texts[3:] == ["my a green thing"]
    assert "is the only label" in " ".join(answer["warnings"])
    again = server.classify(("a", GREEN), labels=["a green thing"], prompts="my {}")
    assert again == answer  # the warning too


def test_warnings_go_to_who_asked_and_to_no_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.encoder.describe_cut = lambda texts: [f"{text}: is cut" for text in texts]  # type: ignore
    answer = server.classify(("a", GREEN), labels=["red", "red"], prompts="my {}")
    assert [warning.partition(":")[2] for warning in answer["warnings"]] == [
        " the label 'red' appears twice; one is dropped",
        " 'red' is the only label; where one label per image is given, every image gets it",
        " is cut",
    ]
    assert server.classify(("a", GREEN), prompts="your {}")["warnings"][0] == "your red: is cut"
    assert not [record for record in caplog.records if record.name.startswith("clipcls")]


def test_many_labels_are_embedded_between_batches(encoder: ColourEncoder) -> None:
    calls: list[int] = []
    embed = encoder.encode_texts
    encoder.encode_texts = lambda texts: calls.append(len(texts)) or embed(texts)  # type: ignore
    with Server(encoder) as server:
        calls.clear()
        server.classify(("a", RED), labels=[f"red {n}" for n in range(100)])
    assert sum(calls) == 100
    assert max(calls) <= 32


def test_labels_of_endless_levels_are_refused_before_they_cost_anything(server: Server) -> None:
    deep = " > ".join(map(str, range(20_000)))  # hours, if it were taken
    assert "200 characters" in server.classify(("a", RED), labels=[deep], status=422)["detail"]
    deep = " > ".join(map(str, range(16)))
    server.classify(("a", RED), labels=[deep, "blue"])


def test_what_is_remembered_of_labels_has_a_bound(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.web.serve.service._CLASSES_KEPT", 3_000)
    monkeypatch.setattr("clipcls.web.serve.service._TEXTS_KEPT", 7)
    for n in range(20):
        answer = server.classify(("a", RED), labels=[f"red {n}", f"blue {n}"])
        assert answer["results"][0]["label"] == f"red {n}"
    assert len(server.service._classifiers) == 3  # of 1,000 each
    assert len(server.service._texts) == 7


def test_settings_of_a_request(server: Server) -> None:
    grey = ("grey", plain("grey"))
    assert server.classify(grey, min_score="0.9")["results"][0]["label"] == "unknown"
    assert server.classify(grey, min_margin="0.5")["results"][0]["label"] == "unknown"
    near, far = (
        server.classify(("a", RED), labels=["red", "blue"], min_similarity=least)["results"][0]
        for least in ("-100", "100")
    )
    assert (near["label"], far["label"]) == ("red", "unknown")
    assert near["nearness"] == far["nearness"]
    own = server.classify(("a", RED), prompts="photo")["results"][0]
    assert (own["label"], own["prompts"]) == ("red", "photo")
    tree = server.classify(("a", RED), labels=["warm > red", "cold > blue"])["results"][0]
    assert (tree["label"], tree["lineage"]) == ("red", ["warm", "red"])


def test_a_learnt_classifier(encoder: ColourEncoder, paint: Callable[..., str]) -> None:
    colours = {"red": "blue", "blue": "red"}  # what words do not say
    data = [
        (paint(f"{label}{n}.png", colour, 8 + n), label)
        for label, colour in colours.items()
        for n in range(4)
    ]
    learnt = FewShotClassifier(list(colours), encoder, cache=False).fit(data)
    with Server(encoder, classifier=learnt) as server:
        (record,) = server.classify(("a", RED))["results"]
        assert (record["label"], record["classifier"]) == ("blue", learnt.digest_)
        (record,) = server.classify(("a", RED), labels="red\nblue")["results"]
        assert (record["label"], "classifier" in record) == ("red", False)
        for options in ({"prompts": "photo"}, {"min_similarity": "2"}):
            answer = server.classify(("a", RED), **options, status=422)
            assert "learnt from images" in answer["detail"]


def questions_of(
    encoder: ColourEncoder, paint: Callable[..., str]
) -> dict[str, ZeroShotClassifier | FewShotClassifier]:
    """One in words with a level, one in words, and one that was learnt."""
    data = [(paint(f"{c}{n}.png", c, 8 + n), c) for c in ("red", "blue") for n in range(4)]
    tree = ["warm > red", "cold > blue", "cold > green"]
    options: Any = {"model": encoder, "prompts": ["{}"], "cache": False}
    return {
        "shade": ZeroShotClassifier(tree, level=1, **options).fit(),
        "colour": ZeroShotClassifier(LABELS, **options).fit(),
        "learnt": FewShotClassifier(["blue", "red"], encoder, cache=False).fit(data),
    }


def test_several_questions_are_answered_as_by_classify(
    encoder: ColourEncoder, paint: Callable[..., str]
) -> None:
    questions = questions_of(encoder, paint)
    paths = [paint("a.png", "red"), paint("b.png", "blue"), paint("c.png", "yellow")]
    Path(paths[1]).write_text("text")
    together = MultiQuestionClassifier(questions).fit()
    expected = [item.to_dict() for item in together.classify(paths, top=2)]
    encoder.images = 0
    with Server(encoder, questions=questions) as server:
        images = [(path, Path(path).read_bytes()) for path in paths]
        answer = server.classify(*images, top=2)
        assert answer == {"results": expected, "warnings": []}
        assert expected[0]["questions"]["learnt"]["labelled_by"] == "person"
        kinds = [type(record).__name__ for record in Answer.model_validate(answer).results]
        assert kinds == ["QuestionsRecord", "ErrorRecord", "QuestionsRecord"]
        assert encoder.images == 2  # for all questions
        assert set(expected[0]["questions"]) == set(questions)
        described = server.ask("GET", "/labels").json()
        LabelsAnswer.model_validate(described)
        assert described["questions"] == {
            "shade": ["warm", "cold"],
            "colour": LABELS,
            "learnt": ["blue", "red"],
        }
        assert described["model"] == "colours"
        assert not {"labels", "classifier"} & set(described)
        grey = ("grey", plain("grey"))
        (unsure,) = server.classify(grey, min_score="0.999")["results"]
        labels = {name: answer["label"] for name, answer in unsure["questions"].items()}
        assert "unknown" in labels.values()
        answer = server.classify(grey, min_similarity="2", status=422)
        assert answer["detail"] == (
            "min_similarity needs labels; those of 'learnt' were learnt from images"
        )
        vectors = check(server.ask("POST", "/embed", json={"texts": ["red"]}))
        assert (len(vectors["texts"]), vectors["dim"]) == (1, 3)
        images_figure = 'clipcls_images_total{outcome="classified"}'
        assert images_figure in server.ask("GET", "/metrics").text


def test_a_request_has_its_own_labels_or_templates_for_all_questions(
    encoder: ColourEncoder, paint: Callable[..., str]
) -> None:
    with Server(encoder, questions=questions_of(encoder, paint)) as server:
        (record,) = server.classify(("a", RED), labels=["red", "blue"])["results"]
        assert (record["label"], "questions" in record) == ("red", False)
        (record,) = server.classify(("a", RED), prompts="my {}", top=9)["results"]
        answers = record["questions"]
        assert [(a["label"], a["prompts"]) for a in answers.values()][:2] == [
            ("warm", "my {}"),
            ("red", "my {}"),
        ]
        assert (answers["learnt"]["label"], len(answers["colour"]["top"])) == ("red", 3)
        assert answers["learnt"]["prompts"] != "my {}"


def test_a_tagged_question_has_all_labels_that_fit(
    encoder: ColourEncoder, paint: Callable[..., str]
) -> None:
    questions: dict[str, Any] = {
        "tags": MultiLabelClassifier(ZeroShotClassifier(LABELS, encoder, cache=False)).fit(),
        "colour": questions_of(encoder, paint)["colour"],
    }
    path = paint("mixed.png", (200, 0, 200))
    with Server(encoder, questions=questions) as server:
        for least in (0, 1):
            together = MultiQuestionClassifier(questions).fit()
            asked: dict[str, Any] = {"min_score": least or None, "abstain": Abstain(least)}
            expected = [item.to_dict() for item in together.classify([path], **asked)]
            answer = server.classify((path, Path(path).read_bytes()), min_score=str(least))
            assert answer["results"] == expected
            Answer.model_validate(answer)
        assert answer["results"][0]["questions"]["tags"]["labels"] == []
        assert server.classify((path, RED), labels="red\nblue")["results"][0]["label"] == "red"
        refused = server.classify((path, RED), prompts="my {}", status=422)
        assert "'tags' keeps its own" in refused["detail"]
        assert server.ask("GET", "/labels").json()["questions"]["tags"] == LABELS
        figures = server.ask("GET", "/metrics").text
        assert 'clipcls_images_total{outcome="unknown"} 1.0' in figures


def test_an_image_without_a_name(server: Server) -> None:
    large = base64_of(saved(Image.new("RGB", (700, 700), "red"), "BMP"))  # 2 MB
    boundary, body = form([("", "images", RED), (None, "images", large.encode())])
    answer = server.ask("POST", "/classify", headers=boundary, content=body)
    records = check(answer)["results"]
    assert [(r["path"], r["label"]) for r in records] == [
        ("images[0]", "red"),
        ("images[1]", "red"),
    ]


def test_names_come_back_as_they_were(server: Server) -> None:
    names = [
        "../../etc/passwd",
        "a b;c.png",
        "\u00fc\u4e2d.png",
        "<img src=x onerror=alert(1)>.png",
    ]
    answer = server.classify(*((name, RED) for name in names))
    assert [r["path"] for r in answer["results"]] == names


def test_a_name_that_is_not_utf8_comes_back_as_a_path_would(server: Server) -> None:
    headers, body = form([("NAME", "images", RED)])
    answer = server.ask(
        "POST", "/classify", headers=headers, content=body.replace(b"NAME", b"caf\xe9 \xc3\xa9.png")
    )
    (record,) = check(answer)["results"]
    assert (record["path"], record["label"]) == (os.fsdecode(b"caf\xe9 \xc3\xa9.png"), "red")


@pytest.mark.parametrize("field", ["labels", "prompts", "top", "images", "texts"])
@pytest.mark.parametrize("charset", ["", "; charset=iso-8859-1", "; charset=punycode"])
def test_fields_that_are_not_utf8_are_refused(server: Server, field: str, charset: str) -> None:
    headers, body = form([("a", "images", RED), (None, field, "caf\u00e9".encode("latin-1"))])
    headers["content-type"] += charset
    path = "/embed" if field == "texts" else "/classify"
    answer = server.ask("POST", path, headers=headers, content=body)
    assert answer.status_code == 400
    assert f"{field!r} is not UTF-8" in check(answer)["detail"]


@pytest.mark.parametrize("charset", ["", "; charset=iso-8859-1", "; charset=punycode"])
def test_fields_are_utf8_whatever_the_request_says(server: Server, charset: str) -> None:
    name = "gr\u00fcn \u7eff"
    headers, body = form([("a", "images", RED), (None, "labels", f"{name}\nred".encode())])
    headers["content-type"] += charset
    answer = check(server.ask("POST", "/classify", headers=headers, content=body))
    assert answer["results"][0]["label"] == "red"
    headers, body = form([(f"{name}.png", "images", RED), (None, "labels", name.encode())])
    headers["content-type"] += charset
    (record,) = check(server.ask("POST", "/classify", headers=headers, content=body))["results"]
    assert (record["path"], record["label"]) == (f"{name}.png", name)


def test_other_paths(server: Server) -> None:
    assert server.ask("GET", "/healthz").json() == {"status": "ok"}
    labels = server.ask("GET", "/labels").json()
    assert labels["labels"] == LABELS
    assert labels["model"] == "colours"
    assert labels["limits"]["images"] == 32
    assert labels["urls"] is False
    for path in ("/docs", "/redoc", "/nothing"):
        answer = server.ask("GET", path)
        assert (answer.status_code, check(answer)["detail"]) == (404, "Not Found")
    wrong = server.ask("GET", "/classify")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    check(wrong)


def test_the_licence_of_the_weights_is_named() -> None:
    class Restricted(ColourEncoder):
        licence = "CC-BY-NC-4.0"

    with Server(Restricted()) as server:
        assert server.ask("GET", "/labels").json()["licence"] == "CC-BY-NC-4.0"
        (record,) = server.classify(("a", RED))["results"]
        assert record["licence"] == "CC-BY-NC-4.0"


def test_figures(server: Server) -> None:
    server.classify(("a", RED), ("b", b"nothing"), ("c", plain("grey")), min_score="0.9")
    server.ask("GET", "/secret-path")
    text = server.ask("GET", "/metrics").text
    for line in (
        'clipcls_images_total{outcome="classified"} 1.0',
        'clipcls_images_total{outcome="error"} 1.0',
        'clipcls_images_total{outcome="unknown"} 1.0',
        'clipcls_requests_total{path="/classify",status="200"} 1.0',
        'clipcls_requests_total{path="other",status="404"} 1.0',
        "clipcls_batch_images_sum 2.0",
        "clipcls_queue_images 0.0",
        "clipcls_held_bytes 0.0",
    ):
        assert line in text.splitlines()
    assert "secret" not in text


# -- requests that are refused ------------------------------------------------------------------


def form(
    parts: Sequence[tuple[str | None, str, bytes]], end: bytes = b"--\r\n"
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a form of (file name, name, content)."""
    body = b""
    for filename, name, content in parts:
        file = f'; filename="{filename}"' if filename is not None else ""
        body += f'--xx\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return {"content-type": "multipart/form-data; boundary=xx"}, body + b"--xx" + end


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"top": "0"}, 422, "top: "),
        ({"top": "many"}, 422, "top: "),
        ({"top": "1000000000000000000000"}, 422, "top: "),
        ({"min_score": "1.5"}, 422, "min_score: "),
        ({"min_score": "nan"}, 422, "min_score: "),
        ({"surprise": "1"}, 422, "surprise: "),
        ({"labels": "# nothing"}, 422, "labels: "),
        ({"labels": "a\x07b"}, 422, "control character"),
        ({"labels": "x" * 201}, 422, "200 characters"),
        ({"labels": [f"x{n}" for n in range(1001)]}, 422, "1,001 labels"),
        ({"labels": ["cat > "], "prompts": "no place"}, 422, "no ready template set 'no place'"),
        ({"prompts": "/etc/passwd"}, 422, "no ready template set"),
        ({"prompts": "pyproject.toml"}, 422, "no ready template set"),
        ({"prompts": "{} and {}"}, 422, "2 times"),
        ({"prompts": "a {} " + "x" * 200}, 422, "characters"),
        ({"prompts": "imagenet", "labels": [f"x{n}" for n in range(200)]}, 422, "texts; the most"),
        ({"top": ["1", "2"]}, 422, "twice"),
    ],
)
def test_fields_that_cannot_be_used(
    server: Server, fields: dict[str, Any], status: int, says: str
) -> None:
    server.encoder.texts.clear()
    assert says in server.classify(("a", RED), status=status, **fields)["detail"]
    assert server.encoder.texts == []


def test_bodies_that_are_no_form(server: Server) -> None:
    def refused(headers: dict[str, str], body: bytes) -> int:
        answer = server.ask("POST", "/classify", headers=headers, content=body)
        check(answer)
        return answer.status_code

    headers, body = form([("a", "images", RED)])
    assert refused({}, b"") == 415
    assert refused({"content-type": "image/png"}, RED) == 415
    assert refused({"content-type": "application/json"}, b"{}") == 422
    assert refused({"content-type": "multipart/form-data"}, body) == 400
    assert refused({"content-type": "multipart/form-data; boundary=" + 300 * "x"}, body) == 400
    assert refused({"content-type": "multipart/form-data; boundary=yy"}, body) == 400
    assert refused(headers, b"") == 400
    assert refused(headers, body[:-4]) == 400  # its end is missing
    assert refused(headers, body[: len(body) // 2]) == 400
    assert refused(headers, body.replace(b'name="images"', b"")) == 400
    many = b"\r\n".join(b"X-%d: 1" % n for n in range(50))
    assert refused(headers, body.replace(b"Content-D", many + b"\r\nContent-D")) == 400
    assert refused(*form([])) == 422  # nothing in it
    assert refused(*form([(None, "top", b"1")])) == 422  # no image
    assert refused(*form([("a", "images", RED), ("b", "files", RED)])) == 422
    fields = [(None, "labels", b"x")] * 1100
    assert refused(*form([("a", "images", RED), *fields])) == 413
    assert refused(*form([("a", "images", RED), (None, "labels", b"x\n" * 600_000)])) == 413
    assert refused(*form([("a", "images", RED), *[(None, "labels", b"x\n" * 300_000)] * 2])) == 413
    assert server.service.queue.images == server.service.queue.held == 0


def test_a_form_is_the_same_however_it_is_cut(server: Server) -> None:
    headers, body = form([("a", "images", RED), (None, "top", b"2"), ("b", "images", b"\r\n--x")])
    whole = check(server.ask("POST", "/classify", headers=headers, content=body))
    assert [record["path"] for record in whole["results"]] == ["a", "b"]
    for step in (1, 2, 7, 64):

        async def chunks(step: int = step) -> Any:
            for at in range(0, len(body), step):
                yield body[at : at + step]

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                return await client.post("/classify", headers=headers, content=chunks())

        assert check(run_async(send())) == whole


def test_limits_of_a_request(encoder: ColourEncoder) -> None:
    limits = Limits(bytes=20_000, images=2, pixels=100)
    with Server(encoder, limits=limits) as server:
        images = [("a", RED), ("b", RED), ("c", RED)]
        assert "Too many files" in server.classify(*images, status=413)["detail"]
        texts = {"images": [base64_of(RED)] * 3}
        assert "more than 2 images" in post(server, texts, status=413)["detail"]
        large = server.classify(("a", bytes(30_000)), status=413)
        assert large["detail"] == "the body is larger than 20,000 bytes"
        answer = server.classify(("a", plain(size=11)), ("b", RED))
        assert "too many pixels (11 x 11" in answer["results"][0]["error"]
        assert answer["results"][1]["label"] == "red"
        assert encoder.images == 1


def test_too_large_a_body_is_refused_while_it_comes(encoder: ColourEncoder) -> None:
    """Without a length, and without an end."""
    with Server(encoder, limits=Limits(bytes=300_000)) as server, server.listening() as address:
        with socket.create_connection(address, timeout=20) as connection:
            head = "POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            headers, body = form([("a", "images", b"")])
            head += f"Content-Type: {headers['content-type']}\r\n\r\n"
            connection.sendall(head.encode())
            start = body[: body.index(b"\r\n\r\n") + 4]
            connection.sendall(b"%x\r\n%s\r\n" % (len(start), start))
            for _ in range(6):
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert server.service.queue.held == 0


def test_a_body_that_does_not_come(encoder: ColourEncoder) -> None:
    with Server(encoder, limits=Limits(seconds=0.2)) as server, server.listening() as address:
        with socket.create_connection(address, timeout=20) as connection:
            headers, body = form([("a", "images", RED)])
            head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: {headers['content-type']}\r\n\r\n"
            connection.sendall(head.encode() + body[:-10])
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert server.service.queue.images == 0


# -- uploads stay in memory ---------------------------------------------------------------------

_written: list[str] | None = None


def _audit(event: str, given: tuple[Any, ...]) -> None:
    if _written is not None and event == "open":
        path, mode, flags = given
        if (flags or 0) & (os.O_WRONLY | os.O_RDWR) or (mode or "r").strip("rbt"):
            _written.append(str(path))


def test_uploads_are_never_written_to_the_disk(encoder: ColourEncoder) -> None:
    global _written
    sys.addaudithook(_audit)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    large = saved(Image.fromarray(noise), "PNG")  # 6.75 MB; Starlette spools from 1 MB on
    assert len(large) > 4 << 20
    with Server(encoder) as server, server.listening() as (host, port):
        _written = []
        try:
            with open(os.devnull, "w"):
                assert _written.pop() == os.devnull  # the hook sees what is written
            files = [
                ("images", ("a", large)),
                ("images", ("b", large)),
                ("images", ("c", bytes(9))),
            ]
            answer = httpx.post(f"http://{host}:{port}/classify", files=files, timeout=60)
            assert [sorted(r)[0] for r in check(answer)["results"]] == ["label", "label", "error"]
            assert _written == []
        finally:
            _written = None


# -- load ---------------------------------------------------------------------------------------


def test_more_than_the_queue_holds_is_shed_and_the_rest_is_answered() -> None:
    encoder = SlowEncoder()
    with Server(encoder, limits=Limits(queue=4, images=4)) as server:

        async def load() -> list[httpx.Response]:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:

                def post(*images: bytes) -> asyncio.Task[httpx.Response]:
                    files = [("images", ("x", image)) for image in images]
                    return asyncio.create_task(client.post("/classify", files=files))

                queue = server.service.queue

                async def accepted(count: int) -> None:
                    while queue.images < count or not encoder.began.is_set():
                        await asyncio.sleep(0.001)

                first = post(RED, BLUE)
                await accepted(2)
                early = [await post(RED, RED, RED)]  # one too many
                second = post(GREEN)
                await accepted(3)
                third = post(BLUE)
                await accepted(4)
                early += [await post(RED), await post(RED)]
                assert (await client.get("/healthz")).status_code == 200  # nothing is blocked
                gauge = (await client.get("/metrics")).text
                assert "clipcls_queue_images 4.0" in gauge.splitlines()
                encoder.may_go.set()
                return [*early, *await asyncio.gather(first, second, third)]

        answers = run_async(load())
        assert [answer.status_code for answer in answers] == [503] * 3 + [200] * 3
        for answer in answers[:3]:
            check(answer)
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert [r["label"] for a in answers[3:] for r in a.json()["results"]] == [
            *("red", "blue", "green", "blue")
        ]
        assert server.service.queue.images == server.service.queue.held == 0


def test_bytes_held_have_a_limit_over_all_requests() -> None:
    encoder = SlowEncoder()
    with Server(encoder, limits=Limits(held=40_000)) as server:

        async def load() -> None:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                large = {"images": ("x", RED + bytes(30_000))}
                first = asyncio.create_task(client.post("/classify", files=large))
                while not encoder.began.is_set():
                    await asyncio.sleep(0.001)
                headers, body = form([("x", "images", RED + bytes(30_000))])

                async def stream() -> Any:  # its length is not told
                    for at in range(0, len(body), 1000):
                        yield body[at : at + 1000]

                second = await client.post("/classify", headers=headers, content=stream())
                third = await client.post("/classify", files=large)
                assert (second.status_code, third.status_code) == (503, 503)
                encoder.may_go.set()
                assert (await first).status_code == 200

        run_async(load())
        assert server.service.queue.held == 0


def started(body: bytes, *, length: int | None = None) -> bytes:
    """The head of a request, and what its client sends at once."""
    length = len(body) if length is None else length
    return (
        f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=xx\r\n\r\n"
    ).encode() + body


def test_slow_uploads_hold_no_places(encoder: ColourEncoder) -> None:
    with Server(encoder, limits=Limits(queue=2, images=2)) as server:
        _, body = form([("a", "images", RED)])
        with server.listening() as address, contextlib.ExitStack() as slow:
            for _ in range(20):
                connection = slow.enter_context(socket.create_connection(address, timeout=20))
                connection.sendall(started(body[:-8], length=len(body)))
            until(lambda: server.service.queue.held == 20 * (len(body) - 8))
            url = "http://{}:{}/classify".format(*address)
            answer = httpx.post(url, files={"images": RED}, timeout=20)
            assert check(answer)["results"][0]["label"] == "red"
            connection.sendall(body[-8:])  # and the slow are answered all the same
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_stalled_upload_makes_way_for_others(
    encoder: ColourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipcls.web.admission._GRACE", 0.1)
    # Room for three uploads that stall, and not for a fourth.
    with Server(encoder, limits=Limits(held=60_000)) as server, server.listening() as address:
        _, body = form([("a", "images", RED + bytes(20_000))])
        with contextlib.ExitStack() as slow:
            sizes = [10_000, 20_000, 10_000]  # the second holds most
            stalled = [
                slow.enter_context(socket.create_connection(address, timeout=20)) for _ in sizes
            ]
            for connection, size in zip(stalled, sizes, strict=True):
                connection.sendall(started(body[:size], length=len(body)))
            until(lambda: server.service.queue.held == sum(sizes))
            time.sleep(0.2)
            url = "http://{}:{}/classify".format(*address)
            answer = httpx.post(url, files={"images": RED + bytes(20_000)}, timeout=20)
            assert check(answer)["results"][0]["label"] == "red"
            refused = stalled[1].recv(4096)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: " in refused
            assert server.service.queue.held == 20_000
            stalled[0].sendall(body[10_000:])
            assert stalled[0].recv(4096).startswith(b"HTTP/1.1 200 ")
        until(lambda: server.service.queue.held == 0)


def test_a_body_that_ends_early_leaves_no_memory(server: Server) -> None:
    _, body = form([("a", "images", bytes(8 << 20))])
    with server.listening() as address, contextlib.ExitStack() as stack:
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(4):
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall(started(body[:-9], length=len(body)))
                until(lambda: server.service.queue.held == len(body) - 9)
            until(lambda: server.service.queue.held == 0)
        until(lambda: tracemalloc.get_traced_memory()[0] < 4 << 20)


def test_refusals_start_no_threads(server: Server) -> None:
    server.classify(("a", RED))

    async def load() -> None:
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            before = set(threading.enumerate())
            answers = await asyncio.gather(*(client.post("/classify") for _ in range(20)))
            assert {answer.status_code for answer in answers} == {415}
            assert set(threading.enumerate()) <= before

    run_async(load())


def test_requests_share_batches() -> None:
    encoder = SlowEncoder()
    with Server(encoder) as server:

        async def load() -> None:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:

                def post() -> asyncio.Task[httpx.Response]:
                    return asyncio.create_task(client.post("/classify", files={"images": RED}))

                first = post()
                while not encoder.began.is_set():
                    await asyncio.sleep(0.001)
                others = [post() for _ in range(4)]
                while len(server.service._batcher._waiting) < 4:
                    await asyncio.sleep(0.001)
                encoder.may_go.set()
                await asyncio.gather(first, *others)

        run_async(load())
        text = server.ask("GET", "/metrics").text
        assert "clipcls_batch_images_count 2.0" in text
        assert "clipcls_batch_images_sum 5.0" in text


def test_an_answer_that_takes_too_long() -> None:
    encoder = SlowEncoder()
    with Server(encoder, limits=Limits(seconds=0.2)) as server:
        answer = server.classify(("a", RED), status=504)
        assert answer["detail"] == "the answer took too long"
        assert server.service.queue.images == 0
        encoder.may_go.set()
    assert encoder.images == 1  # what had begun is finished


def test_who_has_gone_is_not_worked_for() -> None:
    encoder = SlowEncoder()
    with Server(encoder) as server, server.listening() as address:
        headers, body = form([("a", "images", RED)])
        head = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Content-Type: {headers['content-type']}\r\n\r\n".encode() + body
        with socket.create_connection(address) as stays:
            stays.sendall(request)
            assert encoder.began.wait(20)
            with socket.create_connection(address) as goes:
                goes.sendall(request)
                until(lambda: len(server.service._batcher._waiting) == 1)
            # Its place is free a moment before its image is taken back.
            ((_, future),) = server.service._batcher._waiting
            until(lambda: server.service.queue.images == 1 and future.cancelled())
            encoder.may_go.set()
            stays.settimeout(20)
            assert stays.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert encoder.images == 1


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_retry_after_follows_the_rate() -> None:
    queue = Queue(100, 1000)
    for _ in range(100):
        queue.learn(10, 2.0)
    with queue.ticket() as ticket:
        ticket.admit(100)
        with pytest.raises(HTTPException) as caught:
            ticket.admit(1)
    assert caught.value.headers
    assert 19 <= int(caught.value.headers["retry-after"]) <= 21
    assert queue.images == 0


def test_an_encoder_that_fails_fails_its_request_alone(
    encoder: ColourEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with Server(encoder) as server:
        encode = encoder.encode_images
        encoder.encode_images = lambda pixels: 1 / 0  # type: ignore
        answer = server.classify(("a", RED), status=500)
        assert "ZeroDivisionError" not in answer["detail"]
        assert "ZeroDivisionError" in caplog.text
        encoder.encode_images = encode  # type: ignore
        assert server.classify(("a", RED))["results"][0]["label"] == "red"
        encoder.encode_images = lambda pixels: np.full((len(pixels), 3), np.nan, np.float32)  # type: ignore
        assert "no finite vector" in server.classify(("a", RED))["results"][0]["error"]


PROGRAM = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from helpers.servers import Server, SlowEncoder
from clipcls.web.connections import run

encoder = SlowEncoder()

def release():
    encoder.began.wait(30)
    print("began", flush=True)
    time.sleep(0.5)
    encoder.may_go.set()

threading.Thread(target=release, daemon=True).start()
with Server(encoder) as server:
    status = run(server.app, ready=lambda url: print(url, flush=True), grace=20)
print("closed", flush=True)
sys.exit(status)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_what_is_accepted_is_finished_before_it_stops() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        answers: list[httpx.Response] = []

        def post() -> None:
            answers.append(httpx.post(f"{url}/classify", files={"images": RED}, timeout=30))

        thread = threading.Thread(target=post)
        thread.start()
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGTERM)
        thread.join()
        out, err = process.communicate(timeout=30)
    assert answers[0].json()["results"][0]["label"] == "red"
    assert (process.returncode, out, err) == (0, "closed\n", "")


# -- hostile files ------------------------------------------------------------------------------


def hostile() -> dict[str, bytes]:
    bomb = png(6000, 6000, 8, 2, bytes(6000 * (1 + 3 * 6000)))  # 108 MB of zeros in 105 kB
    jpeg = saved(picture(), "JPEG")
    return {
        "empty": b"",
        "one byte": b"\xff",
        "text.jpg": b"no image at all",
        "page.png": b"<html><script>alert(1)</script></html>",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": RED[:40],
        "header.png": png(60_000, 60_000, 8, 2, b""),
        "header.bmp": b"BM" + bytes(16) + (60_000).to_bytes(4, "little") * 2 + bytes(40),
        "bomb.png": bomb,
        "x.pdf": b"%PDF-1.7\n",
        "x.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "x.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "x.wmf": b"\xd7\xcd\xc6\x9a" + bytes(40),
        "x.zip": b"PK\x03\x04" + bytes(40),
        "zeros": bytes(100_000),
        "x.gif": b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        "x.ico": b"\0\0\1\0\1\0" + bytes(8) + (10**6).to_bytes(4, "little") + b"\x16\0\0\0",
    }


def test_hostile_files(encoder: ColourEncoder) -> None:
    with Server(encoder, limits=Limits(pixels=30_000_000)) as server:
        files = hostile()
        answer = server.classify(("good", RED), *files.items(), ("good", BLUE))
        first, *bad, last = answer["results"]
        assert (first["label"], last["label"]) == ("red", "blue")
        assert [record["path"] for record in bad] == list(files)
        for record in bad:
            assert set(record) == {"path", "error"}, record
            assert "\n" not in record["error"]
        reasons = {record["path"]: record["error"] for record in bad}
        assert reasons["empty"] == "is empty"
        assert reasons["cut.jpg"] == "truncated"
        assert "too many pixels" in reasons["bomb.png"]
        assert "too many pixels" in reasons["header.png"]
        assert encoder.images == 2


def test_every_kind_of_image(server: Server) -> None:
    files = {name: data for name, data in every_file().items() if name != "TGA"}
    names = list(files)
    for start in range(0, len(names), 30):
        chunk = [(name, files[name]) for name in names[start : start + 30]]
        for record in server.classify(*chunk)["results"]:
            assert "error" not in record, record


def test_nothing_of_pillow_is_changed(server: Server) -> None:
    from PIL import ImageFile

    known = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, dict(Image.OPEN))
    server.classify(*hostile().items())
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, dict(Image.OPEN)) == known


# -- who may ask --------------------------------------------------------------------------------


def test_other_web_sites_are_refused(server: Server) -> None:
    files = {"images": RED}
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example"},
    ):
        answer = server.ask("POST", "/classify", files=files, headers=headers)
        assert answer.status_code in (403, 421)
        check(answer)
    assert server.encoder.images == 0
    own = {"origin": HERE, "sec-fetch-site": "same-origin"}
    assert server.ask("POST", "/classify", files=files, headers=own).status_code == 200
    assert "access-control-allow-origin" not in server.ask("OPTIONS", "/classify").headers


def test_the_token(encoder: ColourEncoder) -> None:
    with Server(encoder, token="a-very-long-token") as server:
        for method, path in (
            ("POST", "/classify"),
            ("POST", "/embed"),
            ("GET", "/labels"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("GET", "/nothing"),
        ):
            answer = server.ask(method, path)
            assert answer.status_code == 401, path
            check(answer)
        for path in ("/", "/serve.js", "/serve.css", "/healthz"):
            assert server.ask("GET", path).status_code == 200
        bearer = {"authorization": "Bearer a-very-long-token"}
        answer = server.ask("POST", "/classify", files={"images": RED}, headers=bearer)
        assert check(answer)["results"][0]["label"] == "red"


# -- vectors --------------------------------------------------------------------------------------


def embed(server: Server, status: int = 200, **options: Any) -> dict[str, Any]:
    answer = server.ask("POST", "/embed", **options)
    assert answer.status_code == status, answer.text
    return check(answer)


def test_vectors_are_those_of_the_library(server: Server, paint: Callable[..., str]) -> None:
    paths = [paint("a.png", "red"), paint("b.png", (250, 160, 9)), paint("c.png", (0, 99, 99))]
    texts = ["a red thing", "blue # green", "a red thing", "nothing"]
    images = [item.vector for item in embed_images(server.encoder, paths)]  # type: ignore
    expected = np.vstack([images, embed_texts(server.encoder, texts)])
    encoded = [base64_of(Path(path).read_bytes()) for path in paths]
    server.encoder.texts.clear()
    answer = embed(server, json={"images": encoded, "texts": texts})
    rows = [record["vector"] for record in answer["images"] + answer["texts"]]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-6)
    assert [record["path"] for record in answer["images"]] == [f"images[{n}]" for n in range(3)]
    assert [record["text"] for record in answer["texts"]] == texts
    own = server.classifier.provenance_
    made_by = {"model": own.model, "weights": own.weights, "precision": "fp32", "dim": 3}
    assert {name: answer[name] for name in made_by} == made_by
    assert server.encoder.texts == ["a red thing", "blue # green", "nothing"]  # each once
    packed = embed(server, json={"images": encoded, "texts": texts, "encoding_format": "base64"})
    exact = [
        np.frombuffer(base64.b64decode(record["vector"]), "<f4")
        for record in packed["images"] + packed["texts"]
    ]
    np.testing.assert_array_equal(exact, expected)
    files = [("images", (path, Path(path).read_bytes())) for path in paths]
    form = embed(server, files=files, data={"texts": ["\n".join(texts[:2]), *texts[2:]]})
    assert form["texts"] == answer["texts"]
    assert [record["path"] for record in form["images"]] == paths
    assert [r["vector"] for r in form["images"]] == [r["vector"] for r in answer["images"]]


def test_an_image_without_a_vector_says_why_and_the_rest_has_one(server: Server) -> None:
    server.encoder.describe_cut = lambda texts: [f"{text}: is cut" for text in texts]  # type: ignore
    answer = embed(server, json={"images": [base64_of(b"text"), base64_of(RED)], "texts": ["red"]})
    bad, good = answer["images"]
    assert bad == {"path": "images[0]", "error": bad["error"]}
    assert good["vector"] == answer["texts"][0]["vector"] == [1.0, 0.0, 0.0]
    assert answer["warnings"] == ["red: is cut"]
    none = embed(server, json={"images": [base64_of(b"text")]})
    assert (none["dim"], none["texts"], none["warnings"]) == (3, [], [])
    figures = server.ask("GET", "/metrics").text.splitlines()
    assert 'clipcls_images_total{outcome="embedded"} 1.0' in figures
    assert 'clipcls_images_total{outcome="error"} 2.0' in figures
    assert 'clipcls_requests_total{path="/embed",status="200"} 2.0' in figures


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "images, texts: both are missing"),
        ({"images": [], "texts": []}, 422, "images, texts: both are missing"),
        ({"texts": "red"}, 422, "texts: "),
        ({"texts": [""]}, 422, "texts.0: "),
        ({"texts": ["x" * 1001]}, 422, "texts.0: "),
        ({"texts": ["red"], "labels": ["red"]}, 422, "labels: "),
        ({"texts": ["red"], "encoding_format": "hex"}, 422, "encoding_format: "),
        ({"texts": ["red"] * 1001}, 413, "more than 1,000 texts"),
        ({"images": [""] * 33}, 413, "more than 32 images"),
    ],
)
def test_what_cannot_be_embedded(
    server: Server, body: dict[str, Any], status: int, says: str
) -> None:
    server.encoder.texts.clear()
    assert says in embed(server, status, json=body)["detail"]
    assert server.encoder.texts == []


def test_texts_alone_take_a_place_and_run_between_batches() -> None:
    calls: list[int] = []
    encoder = SlowEncoder()
    encode = encoder.encode_texts
    with Server(encoder, limits=Limits(queue=1, images=1)) as server:
        encoder.encode_texts = lambda texts: calls.append(len(texts)) or encode(texts)  # type: ignore

        async def ask() -> list[int]:
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                texts = {"texts": [f"red {n}" for n in range(100)]}
                image = asyncio.create_task(
                    client.post("/embed", json={"images": [base64_of(RED)]})
                )
                while not encoder.began.is_set():
                    await asyncio.sleep(0.01)
                refused = await client.post("/embed", json=texts)
                encoder.may_go.set()
                first = await image
                later = await client.post("/embed", json=texts)
                return [refused.status_code, first.status_code, later.status_code]

        assert run_async(ask()) == [503, 200, 200]
    assert sum(calls) == 100
    assert max(calls) <= 32


# -- base64 ---------------------------------------------------------------------------------------


def post(server: Server, body: Any, status: int = 200) -> dict[str, Any]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"content-type": "application/json"}
    answer = server.ask("POST", "/classify", content=text, headers=kind)
    assert answer.status_code == status, answer.text
    return check(answer)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


NOISE = saved(Image.effect_noise((300, 300), 90), "PNG")  # beyond what counts as text


def test_images_as_base64(server: Server) -> None:
    forms = [
        base64_of(RED),
        f"data:image/png;base64,{base64_of(GREEN)}",
        f"DATA:application/octet-stream;charset=x;BASE64,{base64_of(BLUE)}",
        base64.encodebytes(NOISE).decode(),
        f"data:;base64,{base64_of(NOISE)}",
    ]
    answer = post(server, {"images": forms, "labels": LABELS, "top": 2})
    records = answer["results"]
    assert [record["path"] for record in records] == [f"images[{n}]" for n in range(5)]
    assert [record["label"] for record in records[:3]] == LABELS
    assert {len(record["top"]) for record in records} == {2}
    by_form = server.classify(("n.png", NOISE), labels=LABELS, top=2)["results"][0]
    assert records[3] == records[4] | {"path": "images[3]"} == by_form | {"path": "images[3]"}
    broken = [base64_of(RED) + "\n", base64.encodebytes(GREEN).decode().replace("\n", "\r\n")]
    assert [r["label"] for r in post(server, {"images": broken})["results"]] == LABELS[:2]
    marked = "\ufeff".encode() + json.dumps({"images": broken}).encode()
    assert len(post(server, marked)["results"]) == 2
    slashes = json.dumps({"images": forms}).replace("/", "\\/").encode()  # as PHP writes them
    assert [r.get("label") for r in post(server, slashes)["results"]][:3] == LABELS
    indented = json.dumps({"labels": ["caf\u00e9 \\/ \\"], "images": forms}, indent=2).encode()
    assert {r["label"] for r in post(server, indented)["results"]} == {"caf\u00e9 \\/ \\"}


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("cat.jpg", "not base64"),
        ("/etc/passwd", "not base64"),
        ("file:///etc/passwd", "not base64"),
        ("caf\u00e9", "not base64"),
        (base64_of(RED)[:-1], "not base64"),
        (base64.urlsafe_b64encode(b"\xff\xfe" * 9).decode(), "not base64"),
        ("AAAA" + base64_of(NOISE)[:-2] + "=A", "not base64"),
        ("data:image/svg+xml;utf8,<svg/>", "a data URL of an image needs ;base64"),
        ("data:image/png;base64,", "is empty"),
        ("", "is empty"),
        (base64_of(b"text"), "not an image"),
        (base64_of(NOISE[:2000]), "truncated"),
    ],
)
def test_base64_that_is_no_image_is_named_and_the_rest_classified(
    server: Server, written: str, error: str
) -> None:
    good, bad, last = post(server, {"images": [base64_of(RED), written, base64_of(BLUE)]})[
        "results"
    ]
    assert (good["label"], last["label"]) == ("red", "blue")
    assert bad["path"] == "images[1]"
    assert bad["error"].startswith(error)


def test_base64_has_the_limits_of_a_form(encoder: ColourEncoder) -> None:
    limits = Limits(images=2, bytes=3 << 20, pixels=5_000, queue=4, held=8 << 20)
    with Server(encoder, limits=limits) as server:
        red = base64_of(RED)
        assert "more than 2 images" in post(server, {"images": [red] * 3}, 413)["detail"]
        large = {"images": [base64_of(bytes(3 << 20))]}
        assert "larger than" in post(server, large, 413)["detail"]
        (record,) = post(server, {"images": [base64_of(plain(size=100))]})["results"]
        assert record["error"].startswith("too many pixels")
        for text in (
            b'{"images": [' + b"[]," * 500_000 + b"[]]}",
            b'{"images": [' + b'"",' * 500_000 + b'""]}',
        ):
            assert "values" in post(server, text, 413)["detail"]
        text = b'{"labels": ["' + b'\\"' * 600_000 + b'"], "images": ["AAAA"]}'
        assert "200 characters" in post(server, text, 422)["detail"]
        assert "not JSON" in post(server, b'"' * (2 << 20), 400)["detail"]
        hidden = {"images": [red], "labels": ["A" * 5000]}
        assert "labels.0: " in post(server, hidden, 422)["detail"]
        url = {"images": [red, "https://example.org/cat.jpg"]}
        assert "images[1]: images by URL are off" in post(server, url, 403)["detail"]
        for text in (b'{"images": ["' + b"A" * 9000, b'{"images": "\xff"}', b""):
            assert "the body is not JSON" in post(server, text, 400)["detail"]
        for body, said in [
            ([red], "not a JSON object"),
            ({"images": [red], "labels": [{"name": "cat"}]}, "labels.0.label: Field required"),
            ({"images": [red], "labels": [1]}, "labels.0: Input should be a valid string"),
        ]:
            assert said in post(server, body, 422)["detail"]
        answer = server.ask("POST", "/classify", content=b"{}")
        assert "Content-Type: application/json" in answer.json()["detail"]
        assert server.service.queue.images == server.service.queue.held == 0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b'{"images": ["x"], "top": ' + b"1" * (4 << 20) + b"}", 400),
        (b'{"images": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", 400),
        (b'{"images": ["x"], "labels": [' + b"7," * 90_000 + b"7]}", 422),
        (b"{" + b"".join(b'"k%d":1,' % n for n in range(90_000)) + b'"images": ["x"]}', 422),
    ],
    ids=["digits", "depth", "items", "keys"],
)
def test_json_that_is_large_without_images_is_refused_at_once(
    server: Server, text: bytes, status: int
) -> None:
    assert len(post(server, text, status)["detail"]) < 200


def test_json_takes_no_more_memory_than_its_body_and_its_images(encoder: ColourEncoder) -> None:
    body = json.dumps({"images": [base64_of(bytes(12 << 20))] * 2}).encode()
    with Server(encoder) as server:
        post(server, {"images": [base64_of(RED)]})
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        results = post(server, body)["results"]
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    assert [record["error"].partition(":")[0] for record in results] == ["not an image"] * 2
    # The body, its texts, their bytes, and what decoding takes, of both at once if threads meet.
    assert peak < 3.7 * len(body)


def test_a_form_takes_urls_too(server: Server) -> None:
    def ask(text: str) -> httpx.Response:
        boundary, body = form([(None, "images", text.encode())])
        return server.ask("POST", "/classify", headers=boundary, content=body)

    answer = ask("https://example.com/cat.jpg")
    assert answer.status_code == 403
    assert "--allow-url" in check(answer)["detail"]
    answer = ask(f"data:image/png;base64,{base64_of(GREEN)}")
    assert check(answer)["results"][0]["label"] == "green"


# -- URLs ---------------------------------------------------------------------------------------


class Photos(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = {"/red.png": RED, "/text": b"text"}.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def photos() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Photos) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{site.server_address[1]}"
        site.shutdown()
        thread.join()


def test_images_by_url(encoder: ColourEncoder, photos: str) -> None:
    near = Fetcher([photos], max_bytes=10_000, seconds=10, is_public=lambda address: True)
    with Server(encoder, fetcher=near) as server:
        urls = [f"http://{photos}/{name}" for name in ("red.png", "text", "missing")]
        urls.append("http://169.254.169.254/latest/meta-data")
        labels = ["blue", {"label": "warm", "synonyms": ["red"], "prompts": ["so {}"]}]
        answer = check(server.ask("POST", "/classify", json={"images": urls, "labels": labels}))
        assert [record["path"] for record in answer["results"]] == urls
        assert answer["results"][0]["label"] == "warm"
        assert [record.get("error") for record in answer["results"][1:]] == [
            "not an image",
            "its host answers 404",
            "its host is not allowed (--allow-url)",
        ]
        for body, status in (
            ({}, 422),
            ({"images": []}, 422),
            ({"images": "x"}, 422),
            ({"images": ["x"], "labels": [{"name": "x"}]}, 422),
            ({"images": ["\ud800"]}, 400),
            ({"images": ["x"], "labels": ["\ud800"]}, 400),
            ({"images": ["x"], "top": True, "labels": [7]}, 422),
            ({"images": ["x"] * 33}, 413),
            ([], 422),
        ):
            kind = {"content-type": "application/json"}
            text = json.dumps(body).encode()  # halves of surrogate pairs as \\u escapes
            refused = server.ask("POST", "/classify", content=text, headers=kind)
            assert refused.status_code == status, body
            check(refused)
        for text in (b"", b"{", b"[" * 100_000, b"\xff", b'{"images": NaN}'):
            refused = server.ask("POST", "/classify", content=text, headers=kind)
            assert refused.status_code in (400, 422)
        large = b"," * (1 << 20)
        assert server.ask("POST", "/classify", content=large, headers=kind).status_code == 413
        assert server.service.queue.images == server.service.queue.held == 0


def test_slow_hosts_of_images_hold_no_places(encoder: ColourEncoder) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        near = Fetcher([host], max_bytes=10_000, seconds=20, is_public=lambda address: True)
        limits = Limits(queue=2, images=2)
        with Server(encoder, limits=limits, fetcher=near) as server:

            async def load() -> None:
                transport = httpx.ASGITransport(server.app)
                async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                    urls = {"images": [f"http://{host}/{n}.png" for n in range(2)]}
                    slow = [
                        asyncio.create_task(client.post("/classify", json=urls)) for _ in range(3)
                    ]
                    await asyncio.sleep(0.05)
                    answer = await client.post("/classify", files={"images": RED})
                    assert check(answer)["results"][0]["label"] == "red"
                    assert not any(task.done() for task in slow)
                    for task in slow:
                        task.cancel()
                    await asyncio.wait(slow)

            run_async(load())
            assert server.service.queue.images == server.service.queue.held == 0


def test_urls_never_lead_to_this_machine(encoder: ColourEncoder, photos: str) -> None:
    with Server(encoder, fetcher=Fetcher([photos], max_bytes=10_000, seconds=10)) as server:
        answer = server.ask("POST", "/classify", json={"images": [f"http://{photos}/red.png"]})
        assert check(answer)["results"][0]["error"] == "its host is not on the public internet"


# -- the description ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_description_is_kept(encoder: ColourEncoder, mode: str) -> None:
    """Whatever fits /openapi.json, and whatever does not, has an answer that is described there."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

    fetcher = Fetcher(["example.org"], max_bytes=10_000, seconds=1)
    few = settings(
        max_examples=20,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with Server(encoder, fetcher=fetcher, hosts=["testserver"]) as server:
        # 413 says better than 422 that there are too many.
        refusals = [400, 401, 403, 405, 413, 415, 422]
        checks = {"negative_data_rejection": {"expected-statuses": refusals}}
        config = schemathesis.Config.from_dict({"checks": checks})
        schema = schemathesis.openapi.from_asgi("/openapi.json", server.app, config=config)
        # What is a label, blank ones for instance, is more than a schema can say.
        left_out = [positive_data_acceptance]
        found: set[tuple[str, int]] = set()
        for operation in (result.ok() for result in schema.get_all_operations()):
            if mode == "negative" and operation.method != "post":
                continue  # nothing can be wrong with a request without parameters
            cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

            @few
            @given(case=cases)
            def ask(case: Any) -> None:
                # In a form everything is text: the number 7 is the label "7".
                is_form = case.media_type == "multipart/form-data"
                unfit = [*left_out, *([negative_data_rejection] if is_form else ())]
                answer = case.call_and_validate(excluded_checks=unfit)
                found.add((case.path, answer.status_code))

            ask()
    for path in ("/classify", "/embed"):
        assert (path, 200 if mode == "positive" else 422) in found


# -- the command --------------------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipcls", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_help_imports_no_server() -> None:
    program = (
        "import sys; from clipcls.cli import cli\n"
        "try: cli(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('uvicorn', 'starlette', 'pydantic', 'prometheus_client', "
        "'asyncio', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--allow-origin", "*"), "would allow every web site"),
        (("--allow-origin", "null"), "would allow every web site"),
        (("--allow-origin", "app.example"), "is not an origin; write scheme, host"),
        (("--allow-origin", "https://app.example/page"), "is not an origin"),
        (("--allow-host", "https://app.example"), "leave out scheme, port and path"),
        (("--allow-host", "app.example:8000"), "leave out scheme, port and path"),
        (("--trust-proxy", "proxy.example"), "is not an IP address or network"),
        (("--trust-proxy", "10.0.0.1/8"), "is not an IP address or network"),
    ],
)
def test_hosts_and_origins_are_checked(arguments: tuple[str, str], says: str) -> None:
    done = CliRunner().invoke(cli, ["serve", "-l", "cat", *arguments])
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())


def test_it_does_not_listen_to_others_without_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        done = run("-l", "cat", "-l", "dog", "--host", host)
        assert done.returncode == 2
        assert "--token-file" in done.stderr
    (tmp_path / "token").write_text("short\n")
    done = run("-l", "cat", "--token-file", str(tmp_path / "token"))
    assert (done.returncode, "16 characters" in done.stderr) == (2, True)
    assert "short" not in done.stderr
    done = run("-l", "cat", CLIPCLS_TOKEN="has a space in its middle")
    assert (done.returncode, "CLIPCLS_TOKEN" in done.stderr) == (2, True)
    done = run("-l", "cat", "--token-file", str(tmp_path / "none"))
    assert (done.returncode, "none" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "module", ["starlette", "pydantic", "uvicorn", "h11", "prometheus_client", "python_multipart"]
)
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ImportError('no', name={module!r})")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run("-l", "cat", "-l", "dog", PYTHONPATH=path)
    assert done.returncode == 2
    cure = install_command("serve")
    assert done.stderr == f"clipcls: error: serve needs {module}: {cure}\n"


@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_the_command(tmp_path: Path) -> None:
    """The real one, with the bundled model, at this machine's own name."""
    try:
        name = socket.gethostname()
        socket.getaddrinfo(name, 0)
    except OSError:
        name = "localhost"
    photo = Path(__file__).parents[2] / "examples/photos/chelsea.jpg"
    token = "t" * 32
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "clipcls", "serve", "-m", "mini", "-l", "cat", "-l", "dog"),
            *("--host", name, "--port", "0", "--no-cache"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CLIPCLS_TOKEN": token},
    ) as process:
        assert process.stderr
        line = process.stderr.readline()
        while "answers at" not in line:
            assert line, "it ended"
            line = process.stderr.readline()
        assert token not in line
        url = line.split(" at ")[1].split()[0]
        headers = {"authorization": f"Bearer {token}"}
        files = {"images": ("chelsea.jpg", photo.read_bytes())}
        answer = httpx.post(f"{url}/classify", files=files, headers=headers, timeout=60)
        (record,) = check(answer)["results"]
        assert (record["path"], record["label"], record["model"]) == ("chelsea.jpg", "cat", "mini")
        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = httpx.post(
            f"{url}/classify", content=b"nonsense", headers=headers | kind, timeout=60
        )
        assert answer.status_code == 400
        port = url.rpartition(":")[2]
        settings = ("--host", name, "--insecure", "--no-cache", "--port", port)
        taken = run("-m", "mini", "-l", "cat", "-l", "dog", *settings)
        assert taken.returncode == 2
        assert f"cannot listen on {name}:{port}" in taken.stderr
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    assert json.loads(json.dumps(record)) == record
