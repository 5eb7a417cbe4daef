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
    "MultiLabelEvaluation",
    "MultiLabelPrediction",
    "Prediction",
    "ZeroShotClassifier",
    "calibrate",
    "calibrate_multilabel",
    "compare",
    "compare_multilabel",
    "evaluate",
    "evaluate_multilabel",
    "suggest",
    "to_dataframe",
]

if TYPE_CHECKING:
    from clipcls.calibration import Calibration
    from clipcls.calibration_fit import calibrate
    from clipcls.classifier import ZeroShotClassifier
    from clipcls.comparison import compare, compare_multilabel
    from clipcls.errors import ClipclsError, ImageError
    from clipcls.evaluation import Evaluation, evaluate
    from clipcls.fewshot import FewShotClassifier
    from clipcls.multicalibration import MultiLabelCalibration, calibrate_multilabel
    from clipcls.multievaluation import MultiLabelEvaluation, evaluate_multilabel
    from clipcls.multilabel import MultiLabelClassifier
    from clipcls.predictions import Candidate, MultiLabelPrediction, Prediction
    from clipcls.probe import LinearProbe
    from clipcls.suggestion import suggest
    from clipcls.tables import to_dataframe
    from clipcls.transformer import ClipEmbedder

_HOMES = {
    "Calibration": "calibration",
    "Candidate": "predictions",
    "ClipEmbedder": "transformer",
    "ClipclsError": "errors",
    "Evaluation": "evaluation",
    "FewShotClassifier": "fewshot",
    "ImageError": "errors",
    "LinearProbe": "probe",
    "MultiLabelCalibration": "multicalibration",
    "MultiLabelClassifier": "multilabel",
    "MultiLabelEvaluation": "multievaluation",
    "MultiLabelPrediction": "predictions",
    "Prediction": "predictions",
    "ZeroShotClassifier": "classifier",
    "calibrate": "calibration_fit",
    "calibrate_multilabel": "multicalibration",
    "compare": "comparison",
    "compare_multilabel": "comparison",
    "evaluate": "evaluation",
    "evaluate_multilabel": "multievaluation",
    "suggest": "suggestion",
    "to_dataframe": "tables",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
