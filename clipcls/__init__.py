"""Zero-shot image classification with CLIP models.

>>> from clipcls import ZeroShotClassifier
>>> clf = ZeroShotClassifier(labels=["cat", "dog"], model="mini").fit()
>>> clf.classes_
array(['cat', 'dog'], dtype='<U3')

Names are loaded on first use, so that `import clipcls` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Abstain",
    "Answers",
    "Backend",
    "Calibration",
    "Candidate",
    "ClipEmbedder",
    "ClipclsError",
    "Evaluation",
    "FewShotClassifier",
    "ImageError",
    "LinearProbe",
    "MultiLabelCalibration",
    "MultiLabelClassifier",
    "MultiQuestionClassifier",
    "Prediction",
    "RayClassifier",
    "ZeroShotClassifier",
    "calibrate",
    "compare",
    "embed_images",
    "embed_texts",
    "evaluate",
    "open_encoder",
    "suggest",
    "to_dataframe",
]

if TYPE_CHECKING:
    from clipcls.calibration.multilabel import MultiLabelCalibration
    from clipcls.calibration.single_label import Calibration
    from clipcls.classification.decision import Abstain
    from clipcls.classification.multi_question import MultiQuestionClassifier
    from clipcls.classification.multilabel import MultiLabelClassifier
    from clipcls.classification.suggest import suggest
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.cluster.ray_classifier import RayClassifier
    from clipcls.embeddings.clip_embedder import ClipEmbedder
    from clipcls.embeddings.embed import embed_images, embed_texts
    from clipcls.errors import ClipclsError, ImageError
    from clipcls.evaluation.calibrate import calibrate
    from clipcls.evaluation.compare import compare
    from clipcls.evaluation.evaluate import Evaluation, evaluate
    from clipcls.few_shot.classifier import FewShotClassifier
    from clipcls.few_shot.linear_probe import LinearProbe
    from clipcls.models.backend import Backend
    from clipcls.models.encoder import open_encoder
    from clipcls.output.dataframe import to_dataframe
    from clipcls.predictions import Candidate, Prediction
    from clipcls.questions import Answers

_HOMES = {
    "Abstain": "classification.decision",
    "Answers": "questions",
    "Backend": "models.backend",
    "Calibration": "calibration.single_label",
    "Candidate": "predictions",
    "ClipEmbedder": "embeddings.clip_embedder",
    "ClipclsError": "errors",
    "Evaluation": "evaluation.evaluate",
    "FewShotClassifier": "few_shot.classifier",
    "ImageError": "errors",
    "LinearProbe": "few_shot.linear_probe",
    "MultiLabelCalibration": "calibration.multilabel",
    "MultiLabelClassifier": "classification.multilabel",
    "MultiQuestionClassifier": "classification.multi_question",
    "Prediction": "predictions",
    "RayClassifier": "cluster.ray_classifier",
    "ZeroShotClassifier": "classification.zero_shot",
    "calibrate": "evaluation.calibrate",
    "compare": "evaluation.compare",
    "embed_images": "embeddings.embed",
    "embed_texts": "embeddings.embed",
    "evaluate": "evaluation.evaluate",
    "open_encoder": "models.encoder",
    "suggest": "classification.suggest",
    "to_dataframe": "output.dataframe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
