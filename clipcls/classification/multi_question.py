"""Several questions per image, each answered by a classifier of its own on the same vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from clipcls.classification.decision import Abstain
from clipcls.classification.image_classifier import ImageClassifier
from clipcls.classification.in_blocks import Watch, answer_in_blocks, answer_together, watch_each
from clipcls.classification.multilabel import MultiLabelClassifier, find_base
from clipcls.data.inputs import OnError, apply_on_error
from clipcls.errors import ClipclsError, ImageError, ModelError, not_fitted
from clipcls.predictions import Prediction
from clipcls.questions import Answers, check_names

if TYPE_CHECKING:
    from clipcls.data.inputs import Images
    from clipcls.embeddings.embedded import Embedded

QuestionClassifier: TypeAlias = ImageClassifier | MultiLabelClassifier
Answerer: TypeAlias = "Callable[[list[Embedded]], Iterable[Prediction]]"


class MultiQuestionClassifier:
    """Answers several questions about each image, which is read and embedded once.

    Args:
        classifiers: for each question, by its name, a classifier for one label per image or a
            `MultiLabelClassifier`. All have the same model; the first one's cache is used.

    Attributes:
        encoder_: the `Encoder` of all.

    Raises:
        LabelsError: a name cannot be a column of a table, or two share one.

    >>> from clipcls import ZeroShotClassifier
    >>> kind = ZeroShotClassifier(["cat", "dog"], model="mini", cache=False)
    >>> place = ZeroShotClassifier(["indoors", "outdoors"], model="mini", cache=False)
    >>> clf = MultiQuestionClassifier({"kind": kind, "place": place}).fit()
    >>> (found,) = clf.classify("examples/photos/chelsea.jpg")
    >>> {name: answer.label for name, answer in found.questions.items()}
    {'kind': 'cat', 'place': 'indoors'}
    """

    def __init__(self, classifiers: Mapping[str, QuestionClassifier]) -> None:
        if not classifiers:
            raise ValueError("give a classifier for each question")
        names = check_names(classifiers)
        self.classifiers = dict(zip(names, classifiers.values(), strict=True))

    def fit(self, X: object = None, y: object = None) -> MultiQuestionClassifier:
        """Fits the classifiers that are not fitted; ignores `X` and `y`.

        A model that several name is opened once.

        Raises:
            ModelError: they have different models.
            ClipclsError: one cannot be fitted.
        """
        first = find_base(next(iter(self.classifiers.values())))
        for name, classifier in self.classifiers.items():
            base = find_base(classifier)
            model = base.model
            if base is not first and (model, base.checkpoint) == (first.model, first.checkpoint):
                base.model = first.encoder_
            try:
                if not classifier.__sklearn_is_fitted__():
                    classifier.fit()
            finally:
                base.model = model
            if base.encoder_.image_space != first.encoder_.image_space:
                raise ModelError(
                    f"the question {name!r} has the model {base.encoder_.name}, others have "
                    f"{first.encoder_.name}: use one model, since images are embedded once"
                )
        self.encoder_ = first.encoder_
        return self

    def classify(
        self,
        images: Images,
        *,
        top: int = 1,
        max_labels: int | None = None,
        min_score: float | None = None,
        abstain: Abstain | None = None,
        refine: bool = False,
        heatmaps: str | os.PathLike[str] | None = None,
        watch: Watch | None = None,
        on_error: OnError = "yield",
        **options: Any,
    ) -> Iterator[Answers | ImageError]:
        """Answers all questions about images one by one, in their order, with bounded memory.

        Args:
            images, refine, watch, on_error: as for `ZeroShotClassifier.classify`.
            top, abstain: as there, for the questions with one label per image.
            heatmaps: draw the heat map of each answer with one label into a folder of this folder
                that has the question's name.
            max_labels, min_score: `top` and `min_score` of `MultiLabelClassifier.classify`, for the
                questions with several labels per image.
            options: other arguments of `ZeroShotClassifier.decision`.

        Yields:
            the `Answers` per image, or the `ImageError` that says why there are none.

        Raises:
            ClipclsError: as for `ZeroShotClassifier.classify`; the message names the question.
        """
        if not hasattr(self, "encoder_"):
            raise not_fitted(self)
        answerers = make_answerers(
            self.classifiers,
            top=top,
            max_labels=max_labels,
            min_score=min_score,
            abstain=abstain,
            refine=refine,
            **options,
        )
        answer = partial(answer_questions, answerers)
        embedded = find_base(next(iter(self.classifiers.values()))).embed(images)
        results = (
            answer_together(watch_each(embedded, watch), answer)
            if refine
            else answer_in_blocks(embedded, answer)
        )
        if heatmaps is not None:
            from clipcls.classification.occlusion import Heatmaps

            ranked = {n: c for n, c in self.classifiers.items() if isinstance(c, ImageClassifier)}
            results = Heatmaps(ranked, heatmaps).draw_each(results)
        return apply_on_error(results, on_error)


def make_answerers(
    classifiers: Mapping[str, QuestionClassifier],
    *,
    max_labels: int | None = None,
    min_score: float | None = None,
    **options: Any,
) -> dict[str, Answerer]:
    """The function that answers each question about embedded images.

    Arguments and errors are those of `MultiQuestionClassifier.classify`.
    """
    answerers: dict[str, Answerer] = {}
    for name, classifier in classifiers.items():
        if isinstance(classifier, MultiLabelClassifier):
            answerers[name] = classifier.answerer(top=max_labels, min_score=min_score)
            continue
        try:
            answerers[name] = classifier.decision(**options).answer
        except ClipclsError as error:
            raise type(error)(f"the question {name!r}: {error}") from error
    return answerers


def answer_questions(
    answerers: Mapping[str, Answerer], block: Sequence[Embedded]
) -> Iterator[Answers]:
    """The answers to all questions about some images, none of them an error."""
    paths = [image.path for image in block]
    columns = [list(each([*block])) for each in answerers.values()]  # which may let go of vectors
    for path, *row in zip(paths, *columns, strict=True):
        yield Answers(path, dict(zip(answerers, row, strict=True)))
