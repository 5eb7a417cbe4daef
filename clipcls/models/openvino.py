"""A model's tower as an OpenVINO graph: exported once, checked, kept on disk, run without torch.

On a CPU OpenVINO computes the same vectors sooner than torch (how much depends on the model and
the CPU: `clipcls bench` tells), and a process that finds the graph on disk need not import torch,
which alone takes seconds. What a graph takes is its tower's affair (`towers`).

A graph is kept in a folder of its own, made in one step, as OpenVINO's IR (weights in float32)
beside OpenVINO's own cache of what it compiled. The folder's name says what decides the vectors, so
a graph is never stale. Its files are compared with their checksums before OpenVINO, which a damaged
one can crash or give other vectors, reads them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipcls.files.atomic import temporary_path
from clipcls.files.folders import cache_folder
from clipcls.models.openvino_import import import_openvino

__all__ = [
    "Exportable",
    "Graph",
    "GraphError",
    "NoMemoryError",
    "can_be_kept",
    "clear",
    "default_folder",
    "export",
    "has_bf16",
    "is_supported",
    "kept",
    "least_cosine",
    "load",
]

logger = logging.getLogger(__name__)

# Least cosine similarity to torch's float32 vectors that a graph (or, in fp16, a GPU) must reach on
# the probe batch. Photos lose more than its noise: up to nine times as much (1 - cosine) in models
# that magnify rounding. fp16 has the bits to leave that room and still have photos at 0.999.
LEAST_COSINE = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.9999}
_IR = "tower.xml"
_PROBE = "probe.npy"
_CHECKSUMS = "checksums.json"
_REFUSED = "refused.txt"
_ABANDONED_SECONDS = 86_400
_UNFINISHED_SECONDS = 60


class GraphError(Exception):
    """A tower has no graph; torch runs it. Never shown to a caller as an error."""


class NoMemoryError(GraphError):
    """It may have one the next time."""


class Exportable(Protocol):
    """A tower that can be exported."""

    @property
    def probe(self) -> Sequence[NDArray[Any]]:
        """Inputs on which the graph must give the tower's vectors."""

    def convert(self, openvino: Any) -> Any:
        """The tower as an openvino.Model of one input: (n, ...) -> vectors (n, dim)."""

    def by_torch(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """What torch makes of an input: float32 (n, dim)."""


class Graph:
    """A compiled tower: its input (n, ...) -> float32 (n, dim), not normalised."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Runs the tower; not to be called from several threads at once."""
        vectors: NDArray[np.float32] = np.array(self._request.infer([inputs])[0], np.float32)
        return vectors


def default_folder() -> Path:
    """Where graphs are kept: in the user's cache directory."""
    return cache_folder() / "graphs"


def kept() -> list[int]:
    """The size of each graph that is kept, in bytes."""
    found = default_folder().glob(f"*/{_IR}")
    return [sum(file.stat().st_size for file in graph.parent.iterdir()) for graph in found]


def clear() -> None:
    """Deletes all graphs; each is made again when it is needed.

    Raises:
        OSError: one cannot be deleted.
    """
    if default_folder().exists():
        shutil.rmtree(default_folder())


def can_be_kept() -> bool:
    """Whether graphs can be written; where not, each process would have to export its own."""
    try:
        default_folder().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(default_folder(), os.W_OK)


def is_supported() -> bool:
    """Whether OpenVINO is installed; no import. A mere folder of its name can be imported too."""
    try:
        importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return False
    return "openvino" in sys.modules or importlib.util.find_spec("openvino") is not None


@functools.cache
def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself (AVX512-BF16 or AMX)."""
    if sys.platform == "linux":  # without importing OpenVINO: 0.1 s
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text()
            return "avx512_bf16" in flags or "amx_bf16" in flags
    if not is_supported():
        return False
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load(key: str, precision: str, probe: Callable[[], NDArray[Any]]) -> Graph | None:
    """A graph that was exported before, compiled; torch is not imported.

    Args:
        key: names all that decides the tower's vectors.
        precision: "fp32" or "bf16".
        probe: gives the first input of the tower's probe; asked when the graph is compiled.

    Returns:
        the graph, or None where it has to be exported (again, if its files are damaged).

    Raises:
        GraphError: it was exported before and found wrong.
    """
    place = _place(key)
    with contextlib.suppress(OSError):
        raise GraphError((place / _REFUSED).read_text(encoding="utf-8", errors="replace"))
    if not (place / _CHECKSUMS).exists():
        shutil.rmtree(place, ignore_errors=True)  # not whole: what is exported can take its place
        return None
    try:
        _check(place)
        expected = np.load(place / _PROBE)
        graph = Graph(_compile(place / _IR, precision))
        _note_compiled(place)
    except Exception as error:  # whatever OpenVINO's C++ raises at a damaged file
        _discard(place, repr(error))
        return None
    inputs = probe()
    try:
        # A file of weights that was cut off or zeroed can be loaded, and gives wrong vectors.
        if least_cosine(graph(inputs[:1]), expected) >= LEAST_COSINE[precision]:
            return graph
        _discard(place, "does not give the vector it gave")
    except Exception as error:
        _discard(place, repr(error))
    return None


def _discard(place: Path, why: str) -> None:
    """Makes room for another export."""
    logger.warning("the exported model %s is damaged, and made again", place)
    logger.debug("%s: %s", place, why)
    shutil.rmtree(place, ignore_errors=True)


def _check(place: Path) -> None:
    """Compares the files that OpenVINO will read with their checksums.

    Raises:
        ValueError: one is damaged.
        OSError: one cannot be read.
    """
    checksums = _checksums(place)
    compiled = {file.name for file in place.glob("*.blob")}
    for name in compiled - checksums.keys():  # by a process that was killed, or is not done yet
        with contextlib.suppress(OSError):
            if time.time() - (place / name).stat().st_mtime > _UNFINISHED_SECONDS:
                (place / name).unlink()
    compiled &= checksums.keys()
    # Of several hundred megabytes only those that will be read: OpenVINO's cache, or the IR.
    names = {_PROBE, *compiled} if compiled else checksums
    for name in names:
        if _checksum(place / name) != checksums[name]:
            raise ValueError(f"{name} is damaged")


def _checksums(place: Path) -> dict[str, int]:
    found = json.loads((place / _CHECKSUMS).read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not found.keys() >= {_IR, _PROBE}:
        raise ValueError(f"{_CHECKSUMS} is damaged")
    return found


def _note_compiled(place: Path) -> None:
    """Adds what OpenVINO has compiled to the checksums, if the IR it was made from is whole."""
    checksums = _checksums(place)
    new = [file for file in place.glob("*.blob") if file.name not in checksums]
    if not new:
        return
    for name, checksum in checksums.items():
        if not name.endswith(".blob") and _checksum(place / name) != checksum:
            raise ValueError(f"{name} is damaged")
    with contextlib.suppress(OSError):  # such as a full disk: compiled again the next time
        _write_checksums(place, checksums | {file.name: _checksum(file) for file in new})


def _write_checksums(place: Path, checksums: dict[str, int]) -> None:
    with temporary_path(place / _CHECKSUMS) as part:
        part.write_text(json.dumps(checksums), encoding="utf-8")
        part.replace(place / _CHECKSUMS)


def _checksum(path: Path) -> int:
    """The CRC-32 of the sums of each 4 KiB, three times as fast as that of all bytes."""
    checksum = 0
    piece = bytearray(1 << 20)
    words = np.frombuffer(piece, np.uint64).reshape(-1, 512)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            sums = words[: size // 4096].sum(axis=1)
            rest = memoryview(piece)[size - size % 4096 : size]
            checksum = zlib.crc32(rest, zlib.crc32(sums.tobytes(), checksum))
    return checksum


def export(key: str, precision: str, tower: Exportable) -> Graph:
    """Turns a tower into a graph, checks it against torch, and keeps it where that can be.

    Args:
        key: as for `load`.
        precision: what the graph computes in, "fp32" or "bf16".
        tower: what is exported, float32 on the CPU.

    Raises:
        GraphError: OpenVINO cannot take the tower, or computes something else.
    """
    place = _place(key)
    try:
        graph = tower.convert(import_openvino())
        compiled = Graph(_compile(graph, precision))
        vectors = [compiled(inputs) for inputs in tower.probe]
    except MemoryError as error:  # there may be more the next time
        raise NoMemoryError("there is not enough memory to export it") from error
    except Exception as error:  # OpenVINO raises what it likes
        reason = f"OpenVINO cannot run this model ({_first_line(error)})"
        raise _refused(place, reason) from error
    cosines = [
        least_cosine(found, tower.by_torch(inputs))
        for found, inputs in zip(vectors, tower.probe, strict=True)
    ]
    cosine = float(np.min(cosines))  # nan if one is
    if not cosine >= LEAST_COSINE[precision]:
        raise _refused(place, f"OpenVINO's vectors differ from torch's (cosine {cosine:.6f})")
    try:
        _keep(graph, vectors[0][:1], place)
        kept = Graph(_compile(place / _IR, precision))
        _note_compiled(place)
        return kept
    except OSError as error:
        logger.warning("%s: cannot keep the exported model (%s)", place, error.strerror or error)
    except (RuntimeError, ValueError) as error:  # deleted or damaged in the meantime
        logger.debug("%s: %r", place, error)
    return compiled


def _place(key: str) -> Path:
    return default_folder() / f"{key[:32]}-openvino-{importlib.metadata.version('openvino')}"


def _compile(graph: Any, precision: str) -> Any:
    """Compiles a graph or an IR file, the latter through OpenVINO's cache beside it."""
    openvino = import_openvino()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, all cores on it
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": _cores(),
    }
    # OpenVINO's cache looks into the current folder, and aborts the process where it may not.
    if isinstance(graph, Path) and os.access(os.curdir, os.X_OK):
        settings["CACHE_DIR"] = str(graph.parent)
    return openvino.Core().compile_model(graph, "CPU", settings)


def _cores() -> int:
    """Cores this process may use; OpenVINO itself overlooks containers' limits."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def least_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The least cosine similarity of rows, float32 (n, dim) each; nan where one is all zeros."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore"):  # a vector of zeros has no direction: nan, which is refused
        return float(((ours * theirs).sum(axis=1) / norms).min())


def _keep(graph: Any, vector: NDArray[np.float32], place: Path) -> None:
    """Writes the IR under a name of its own and renames the folder: whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".part", dir=place.parent))
    try:
        import_openvino().save_model(graph, made / _IR, compress_to_fp16=False)
        np.save(made / _PROBE, vector)
        _write_checksums(made, {file.name: _checksum(file) for file in made.iterdir()})
        for file in made.iterdir():  # whole on the disk before it is in its place
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        with contextlib.suppress(OSError):  # another process was first, with the same graph
            made.rename(place)
    except RuntimeError as error:  # how OpenVINO reports a full disk
        raise OSError(_first_line(error)) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not (place / _IR).is_file():
        raise OSError("it was not written")
    for old in place.parent.glob(f"{place.name.partition('-')[0]}-*"):  # of another OpenVINO
        if old != place and not old.name.endswith(".part"):
            shutil.rmtree(old, ignore_errors=True)
    for left in place.parent.glob("*.part"):  # by an export that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _refused(place: Path, reason: str) -> GraphError:
    """Notes why this tower has no graph, so that it is not tried at every start."""
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        (place / _REFUSED).write_text(reason, encoding="utf-8")
    return GraphError(f"{reason}; `clipcls cache clear` has it tried again")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
