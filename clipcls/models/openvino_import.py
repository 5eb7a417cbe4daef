"""Importing OpenVINO: soon, and without telling anybody."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["import_openvino"]

_importing = threading.Lock()
_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"


def import_openvino() -> Any:
    """OpenVINO, without its telemetry, which would report each import over the network.

    Its converter, whose import takes longer than that of all the rest and which only an export
    needs, is imported when it is called.
    """
    with _importing:
        is_new = "openvino" not in sys.modules
        with _without(_TELEMETRY), _without(_CONVERTER):
            import openvino
        module: Any = openvino
        if is_new:
            module.convert_model = _convert_model
    return module


def _convert_model(*args: Any, **settings: Any) -> Any:
    """`openvino.convert_model`."""
    with _importing, _without(_TELEMETRY):
        from openvino.tools.ovc import convert_model
    import_openvino().convert_model = convert_model
    return convert_model(*args, **settings)


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Makes a package that is not imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
