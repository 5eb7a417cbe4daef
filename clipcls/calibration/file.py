"""Reads a calibration's file and checks that it fits a classifier."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from clipcls.calibration.base import BaseCalibration, Identity
from clipcls.calibration.multilabel import MultiLabelCalibration
from clipcls.calibration.single_label import Calibration
from clipcls.errors import CalibrationError, raising
from clipcls.files.jsonfiles import build, read_json

CalibrationT = TypeVar("CalibrationT", bound=BaseCalibration)

_KINDS: dict[str, Any] = {kind.form: kind for kind in (Calibration, MultiLabelCalibration)}


@raising(CalibrationError)
def read_calibration(path: str | os.PathLike[str]) -> Calibration | MultiLabelCalibration:
    """Reads a calibration's file, of the kind that its `format` names.

    Raises:
        CalibrationError: it cannot be read, is not a calibration, or is damaged.
    """
    name = os.fspath(path)
    data = read_json(name)
    kind = _KINDS.get(str(data.get("format"))) if isinstance(data, dict) else None
    if kind is None:
        raise CalibrationError(
            f"{name}: is not a calibration of this version of clipcls; make one by "
            "`clipcls calibrate`"
        )
    made_from = data.get("made_from")
    hashes = sorted(filter(None, made_from.split(","))) if isinstance(made_from, str) else None
    try:
        found: Calibration | MultiLabelCalibration = build(
            kind, {**data, "identity": data, "made_from": hashes}
        )
        damage = found.find_damage()
    except ValueError as error:
        damage = str(error)
    if damage:
        raise CalibrationError(f"{name}: is a damaged calibration ({damage}); make it anew")
    return found


def load_calibration(
    given: BaseCalibration | str | os.PathLike[str] | None,
    kind: type[CalibrationT],
    identity: Identity,
) -> CalibrationT | None:
    """The calibration that a classifier is given, read if it is a file; None if it is given none.

    Raises:
        CalibrationError: it cannot be read, is of another kind, or is for another classifier.
    """
    if given is None:
        return None
    source, found = "the calibration", given
    if isinstance(given, str | os.PathLike):
        source, found = os.fspath(given), read_calibration(given)
    if not isinstance(found, kind):
        purpose = found.purpose if isinstance(found, BaseCalibration) else "something else"
        raise CalibrationError(f"{source}: is for {purpose}")
    found.check(identity, source)
    return found
