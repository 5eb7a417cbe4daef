"""Answer images in which a detector found nothing, without looking at them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from clipcls.errors import EmptyError
from clipcls.predictions import Candidate, Prediction, Result
from clipcls.questions import Answers

if TYPE_CHECKING:
    from clipcls.classification.image_classifier import ImageClassifier
    from clipcls.classification.multilabel import MultiLabelClassifier


def answer_empty(
    results: Iterable[Result | Answers],
    classifiers: Mapping[str, ImageClassifier | MultiLabelClassifier],
) -> Iterator[Result | Answers]:
    """The results, with an answer in place of each `EmptyError`.

    Args:
        results: of images and crops.
        classifiers: of each question, by its name; "" if there is one question without a name.
    """
    for result in results:
        if not isinstance(result, EmptyError):
            yield result
            continue
        from clipcls.classification.multilabel import MultiLabelClassifier

        answers = {}
        for question, classifier in classifiers.items():
            only = Candidate(result.label, math.nan, math.nan)
            labels = (only,) if isinstance(classifier, MultiLabelClassifier) else None
            answers[question] = Prediction(
                result.path,
                result.label,
                (only,),
                classifier.provenance_,
                labels=labels,
                kept=result.kept,
            )
        yield answers[""] if "" in answers else Answers(result.path, answers, result.kept)
