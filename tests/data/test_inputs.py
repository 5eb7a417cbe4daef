"""What Python's methods take as images: one or many, of every kind, by one rule."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipcls import (
    ClipEmbedder,
    FewShotClassifier,
    ImageError,
    MultiLabelClassifier,
    ZeroShotClassifier,
)
from clipcls.data.inputs import open_input
from clipcls.embeddings.cache import EmbeddingCache
from clipcls.embeddings.embed import embed_images
from clipcls.embeddings.embedded import Embedded
from clipcls.predictions import Prediction
from helpers.encoders import ColourEncoder
from helpers.predictions import all_of

Paint = Callable[..., str]
LABELS = ["red", "green", "blue"]


@pytest.fixture
def classifier(encoder: ColourEncoder) -> ZeroShotClassifier:
    return ZeroShotClassifier(LABELS, encoder, cache=False).fit()


@pytest.fixture
def green(paint: Paint) -> str:
    return paint("green.png", "green")


def array(colour: tuple[int, ...], *shape: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (*shape, len(colour)))


def in_memory(path: str) -> io.BytesIO:
    file = io.BytesIO()
    Image.open(path).save(file, "PNG")
    return file  # at its end


KINDS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "numpy str": np.str_,
    "Path": Path,
    "PIL": Image.open,
    "RGB array": lambda path: array((0, 255, 0), 9, 7),
    "RGBA array": lambda path: array((0, 255, 0, 255), 9, 7),
    "array with strides": lambda path: array((255, 0, 0), 9, 7)[::-2, ::2, [1, 0, 2]],
    "bytes": lambda path: Path(path).read_bytes(),
    "bytearray": lambda path: bytearray(Path(path).read_bytes()),
    "memoryview": lambda path: memoryview(Path(path).read_bytes()),
    "file": lambda path: open(path, "rb"),  # noqa: SIM115
    "BytesIO at its end": in_memory,
    "unbuffered file": lambda path: open(path, "rb", buffering=0),  # noqa: SIM115
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_takes_one_image_of_every_kind(
    kind: str, classifier: ZeroShotClassifier, green: str
) -> None:
    make = KINDS[kind]
    several = MultiLabelClassifier(classifier).fit()
    learnt = FewShotClassifier(model=classifier.encoder_, cache=False)
    learnt.fit(np.repeat(np.eye(3, dtype=np.float32), 2, axis=0), np.repeat(LABELS, 2))
    for one in (classifier, learnt):
        assert one.predict(make(green)).tolist() == ["green"]
        assert one.predict_proba(make(green)).argmax(axis=1).tolist() == [1]
        assert one.decision_function(make(green)).shape == (1, 3)
        assert [result.label for result in all_of(Prediction, one.classify(make(green)))] == [
            "green"
        ]
    assert [
        result.top[0].label for result in all_of(Prediction, several.classify(make(green)))
    ] == ["green"]
    assert several.predict_proba(make(green)).argmax(axis=1).tolist() == [1]
    assert several.predict(make(green)).shape == (1, 3)
    (embedded,) = all_of(Embedded, classifier.embed(make(green)))
    np.testing.assert_array_equal(embedded.vector, [0, 1, 0])
    embedder = ClipEmbedder(classifier.encoder_, cache=False)
    np.testing.assert_array_equal(embedder.fit_transform(make(green)), [[0, 1, 0]])


@pytest.mark.parametrize(
    "many",
    [
        list,
        tuple,
        iter,
        lambda paths: (Image.open(path) for path in paths),
        lambda paths: np.array(paths),
        lambda paths: np.array([Path(path) for path in paths], object),
        pd.Series,
        lambda paths: np.stack([array((0, 255, 0), 8, 8), array((255, 0, 0), 8, 8)]),
        lambda paths: [array((0, 255, 0), 8, 8), Image.open(paths[1])],
        lambda paths: [Path(paths[0]), io.BytesIO(Path(paths[1]).read_bytes())],
    ],
)
def test_many_come_in_any_iterable(
    many: Callable[[list[str]], Any], classifier: ZeroShotClassifier, paint: Paint
) -> None:
    paths = [paint("a.png", "green"), paint("b.png", "red")]
    assert classifier.predict(many(paths)).tolist() == ["green", "red"]
    assert [result.label for result in all_of(Prediction, classifier.classify(many(paths)))] == [
        "green",
        "red",
    ]


def test_grey_arrays_and_transparent_ones(classifier: ZeroShotClassifier) -> None:
    for grey in (np.full((5, 4), 128, np.uint8), np.full((5, 4, 1), 128, np.uint8)):
        np.testing.assert_allclose(classifier.vectors(grey), np.full((1, 3), 3**-0.5), rtol=1e-6)
    clear = array((255, 0, 0, 0), 4, 4)  # over white
    np.testing.assert_allclose(classifier.vectors(clear), np.full((1, 3), 3**-0.5), rtol=1e-6)


ROWS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "or a list of them, not NoneType"),
        (7, "not int"),
        ({"a.png": "cat"}, "mapping or table"),
        ({"a.png"}, "no order"),
        (pd.DataFrame({"path": ["a.png"]}), r"X\['path'\]"),
        (np.array([["a.png"]]), "not <U5"),
        (np.zeros((8, 8, 3), np.float32), r"not float32; if its values are 0 to 1, give \(255"),
        (np.zeros((2, 8, 8, 3)), "not float64"),
        (np.zeros((8, 8, 3), np.uint16), "not uint16"),
        (np.zeros((8, 8), bool), "not bool"),
        (np.zeros((3, 8, 8), np.uint8), r"channels come first: give np.moveaxis\(array, -3, -1\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), "channels come first"),
        (np.zeros((9, 8, 8), np.uint8), r"not \(9, 8, 8\)"),
        (np.zeros(99, np.uint8), r"not \(99,\)"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), r"N x H x W x 3, not \(1, 2, 8, 8, 3\)"),
        (io.StringIO("text"), "'rb'"),
        ([7], r"images\[0\]: an image is a path, .*, not int"),
        ([["a.png"]], "not list"),
        ([ROWS[0]], r"images\[0\]: .*uint8"),
        ([np.zeros((2, 8, 8, 3), np.uint8)], "not a single image"),
    ],
)
def test_what_is_no_image_or_could_be_two_things_is_refused_with_the_cure(
    given: Any, said: str, classifier: ZeroShotClassifier
) -> None:
    asks: list[Callable[[Any], Any]] = [
        classifier.predict,
        lambda X: list(classifier.classify(X)),
        ClipEmbedder(classifier.encoder_, cache=False).fit().transform,
        MultiLabelClassifier(classifier).fit().predict,
    ]
    for ask in asks:
        with pytest.raises(TypeError, match=said):
            ask(given)


def test_vectors_are_taken_and_mistakes_are_told_at_once(
    classifier: ZeroShotClassifier,
) -> None:
    assert classifier.predict(ROWS).tolist() == LABELS
    assert [item.to_dict()["label"] for item in classifier.classify(ROWS)] == LABELS
    with pytest.raises(ValueError, match="vectors are"):
        classifier.classify(ROWS[:, :2])  # and not only when the first answer is asked for
    with pytest.raises(ValueError, match="not finite"):
        classifier.embed(np.nan * ROWS)
    with pytest.raises(TypeError, match=r"one vector; give .* \(n, dim\)"):
        classifier.classify(ROWS[0])
    with pytest.raises(ValueError, match="on_error is 'ignore'; choose from raise, skip, yield"):
        classifier.classify([], on_error="ignore")  # type: ignore[arg-type]


def test_names(classifier: ZeroShotClassifier, green: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(green, "in/zip.png")
    with zipfile.ZipFile(tmp_path / "photos.zip") as archive:
        images: list[Any] = [
            *(Path(green), Image.open(green), Image.new("RGB", (4, 4), "green")),
            *(open(green, "rb"), archive.open("in/zip.png"), in_memory(green)),  # noqa: SIM115
            *(array((0, 255, 0), 4, 4), b"text", io.BytesIO(), np.zeros((0, 4, 3), np.uint8)),
        ]
        found = list(classifier.classify(images))
    names = [
        green,
        green,
        "images[2]",
        green,
        "in/zip.png",
        *(f"images[{n}]" for n in range(5, 10)),
    ]
    assert [item.path for item in found] == names
    reasons = [item.reason for item in found if isinstance(item, ImageError)]
    assert reasons == ["not an image", "is empty", "has no pixels"]


def test_on_error_means_the_same_everywhere(
    classifier: ZeroShotClassifier, green: str, caplog: pytest.LogCaptureFixture
) -> None:
    images: list[Any] = [green, b"text", Image.new("RGB", (4, 4), "red")]
    several = MultiLabelClassifier(classifier).fit()
    embedder = ClipEmbedder(classifier.encoder_, cache=False).fit()
    iterators: list[Callable[..., Iterator[Any]]] = [
        classifier.classify,
        classifier.embed,
        several.classify,
        lambda images, **settings: classifier.classify(images, refine=True, **settings),
    ]
    arrays: list[Callable[..., np.ndarray]] = [
        classifier.predict_proba,
        classifier.decision_function,
        several.predict_proba,
        embedder.transform,
    ]
    for iterate in iterators:
        yielded = list(iterate(images))
        assert [isinstance(item, ImageError) for item in yielded] == [False, True, False]
        assert [item.path for item in iterate(images, on_error="skip")] == [green, "images[2]"]
        results = iterate(images, on_error="raise")
        with pytest.raises(ImageError, match=r"^images\[1\]: not an image$"):
            list(results)
    for ask in arrays:
        kept = ask(images, on_error="yield")
        assert np.isnan(kept).all(axis=1).tolist() == [False, True, False]
        np.testing.assert_allclose(ask(images, on_error="skip"), kept[[0, 2]], rtol=1e-6)
        with pytest.raises(ImageError, match=r"^images\[1\]"):
            ask(images)
    assert classifier.predict(images, on_error="yield").tolist() == ["green", "", "red"]
    assert classifier.predict(images, on_error="skip").tolist() == ["green", "red"]
    assert not several.predict(images, on_error="yield")[1].any()
    assert classifier.predict([b"text"], on_error="yield").tolist() == [""]
    assert classifier.predict([b"text"], on_error="skip").shape == (0,)
    with pytest.raises(ValueError, match="no images that can be read"):
        embedder.transform([b"text"], on_error="skip")
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(record.getMessage() == "images[1]: left out (not an image)" for record in warned)


def test_results_before_a_bad_image_come_before_its_error(
    classifier: ZeroShotClassifier, green: str
) -> None:
    results = classifier.classify([green, b"text"], on_error="raise")
    (first,) = all_of(Prediction, [next(results)])
    assert first.label == "green"
    with pytest.raises(ImageError):
        next(results)


def test_a_generator_may_close_or_reuse_what_it_yielded(
    classifier: ZeroShotClassifier, paint: Paint
) -> None:
    paths = [paint(f"{n}.png", colour) for n, colour in enumerate(LABELS * 5)]

    def opened() -> Iterator[Any]:
        for path in paths:
            with Image.open(path) as image:
                yield image

    def read() -> Iterator[Any]:
        for path in paths:
            with open(path, "rb") as file:
                yield file

    def frames() -> Iterator[Any]:
        buffer = np.empty((64, 64, 3), np.uint8)
        for path in paths:
            buffer[:] = np.asarray(Image.open(path).resize((64, 64)))
            yield buffer

    for images in (opened(), read(), frames()):
        assert classifier.predict(images).tolist() == LABELS * 5


def test_a_file_object_that_fails_is_one_bad_image(
    classifier: ZeroShotClassifier, green: str, tmp_path: Path
) -> None:
    class Broken:
        name = "s3://bucket/key.jpg"

        def read(self, size: int = -1) -> bytes:
            raise RuntimeError("connection reset")

    closed = open(green, "rb")  # noqa: SIM115
    closed.close()
    images: list[Any] = [Broken(), closed, green]
    broken, shut, good = classifier.classify(images)
    assert str(broken) == "s3://bucket/key.jpg: cannot be read (connection reset)"
    assert isinstance(shut, ImageError)
    assert "closed file" in shut.reason
    assert isinstance(good, Prediction)
    assert good.label == "green"


def test_bytes_are_known_again_by_their_content(
    encoder: ColourEncoder, green: str, tmp_path: Path
) -> None:
    data = Path(green).read_bytes()
    with EmbeddingCache(tmp_path / "s.db") as cache:
        (first,) = all_of(Embedded, embed_images(encoder, data, cache))
        (again,) = all_of(Embedded, embed_images(encoder, io.BytesIO(data), cache))
        (file,) = all_of(Embedded, embed_images(encoder, green, cache))
    assert (first.stored, again.stored, file.stored) == (False, True, True)
    assert encoder.images == 1


def test_a_classifier_learns_from_images_in_memory(encoder: ColourEncoder) -> None:
    images = np.stack([array((255, 0, 0), 8, 8), array((0, 255, 0), 8, 8)] * 2)
    learnt = FewShotClassifier(model=encoder, cache=False).fit(images, ["warm", "cool"] * 2)
    assert learnt.predict(images[0]).tolist() == ["warm"]


def test_one_image_of_every_kind_opens_alike(green: str) -> None:
    for make in KINDS.values():
        assert open_input(make(green)).getpixel((0, 0)) == (0, 255, 0)
    with pytest.raises(TypeError, match="give one image"):
        open_input([green])  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"^images\[0\]: not an image"):
        open_input(b"text")
