"""Towers as OpenVINO graphs: stored on disk and run without torch.

On a CPU OpenVINO computes the same vectors faster than torch (`clipcls bench` shows by how much),
and a process that finds a tower's graph on disk need not import torch, which takes seconds.
`towers` exports the graphs.

A graph is stored as OpenVINO compiled it, in a file named `TOWER-CPU-VERSIONS-CHECKSUM.blob`. The
versions are those of open_clip and OpenVINO, so a graph is never stale. The checksum is the file's:
OpenVINO can crash on a damaged file, or compute other vectors.

Machines with other CPUs may share the folder: their graphs stay. After an update a new graph
replaces that of the old version, unless a process still has it open.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import platform
import re
import shutil
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcls.errors import OutputError, os_reason
from clipcls.files.atomic import lock_descriptor, write_bytes
from clipcls.files.folders import cache_folder

logger = logging.getLogger(__name__)

# How long a tower's graph is kept without use.
_DAYS_KEPT = 7


@dataclass(frozen=True, slots=True)
class GraphKey:
    """Names a tower's graph.

    Attributes:
        space: names everything that decides the tower's vectors besides code, precision included.
        version: the version of the code that was exported.
        precision: "fp32" or "bf16".
    """

    space: str
    version: str
    precision: str

    def tower(self) -> str:
        """Names the tower's graphs for all CPUs and versions."""
        return _hash(self.space)

    def machine(self) -> str:
        """Begins the names of its graphs for this CPU, of all versions."""
        return f"{self.tower()}-{_hash(_cpu())}-"

    def stem(self) -> str:
        """Begins the name of its graph for this CPU and these versions."""
        return f"{self.machine()}{_hash(self.version, version())}-"


class Graph:
    """A compiled tower: its input (n, ...) -> float32 (n, dim), not normalised.

    Attributes:
        takes_any_length: whether a text tower's input may have less than the context length.
    """

    def __init__(self, compiled: Any, blob: NDArray[np.uint8] | None = None) -> None:
        self._request = compiled.create_infer_request()
        self._blob = blob  # whose weights OpenVINO reads in place
        self.takes_any_length = bool(compiled.input(0).partial_shape[1].is_dynamic)

    def __call__(self, inputs: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Runs the tower; not to be called from several threads at once."""
        vectors = self._request.infer([np.asarray(inputs)])[0]
        return np.array(vectors, np.float32)


@functools.cache
def import_openvino() -> Any:
    """OpenVINO without its converter, which would report each import over the network.

    The converter takes longer to import than all the rest and is needed for exports only.
    """
    with _hidden("openvino.tools.ovc"):
        import openvino
    module: Any = openvino
    if not hasattr(module, "convert_model"):
        module.convert_model = _convert_model
    return module


def import_operations() -> Any:
    """The functions that make a graph's nodes."""
    with _hidden("openvino.tools.ovc"):
        from openvino import opset13
    return opset13


def store_as_float16(model: Any) -> None:
    """Makes an openvino.Model take half the space in a file; it still computes in float32."""
    from openvino._offline_transformations import compress_model_transformation

    compress_model_transformation(model)


def is_supported() -> bool:
    """Whether OpenVINO is installed, without importing it; a mere folder of its name is not."""
    try:
        version()
    except importlib.metadata.PackageNotFoundError:
        return False
    return "openvino" in sys.modules or importlib.util.find_spec("openvino") is not None


def version() -> str:
    """OpenVINO's version, without importing it."""
    return importlib.metadata.version("openvino")


@functools.cache
def has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices itself (AVX512-BF16 or AMX)."""
    if flags := _cpu_flags():  # without importing OpenVINO: 0.1 s
        return not flags.isdisjoint(("avx512_bf16", "amx_bf16"))
    return is_supported() and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def build() -> str:
    """Names OpenVINO's version and the CPU that it compiles for, without importing it."""
    return f"{version()} {_cpu()}"


def _cpu() -> str:
    # Virtual machines hide the CPU's name: one name has several sets of instructions.
    sets = sorted(flag for flag in _cpu_flags() if flag.startswith(("amx", "avx", "fma", "sse")))
    return " ".join((platform.machine(), cpu_name(), *sets))


def cpu_name() -> str:
    """The name of the CPU, as far as the system knows it."""
    return _read_cpuinfo("model name") or platform.processor() or platform.machine()


def default_folder() -> Path:
    """The folder of stored graphs, in the user's cache folder."""
    return cache_folder() / "graphs"


def can_store() -> bool:
    """Whether graphs can be stored; if not, each process would have to export its own."""
    with contextlib.suppress(OSError):
        default_folder().mkdir(parents=True, exist_ok=True)
    return default_folder().is_dir() and os.access(default_folder(), os.W_OK)


def stored_sizes() -> list[int]:
    """The size of each stored graph in bytes."""
    return [file.stat().st_size for file in default_folder().glob("*.blob")]


def clear() -> None:
    """Deletes all graphs; each is exported again when it is needed.

    Raises:
        OSError: one cannot be deleted.
    """
    if default_folder().exists():
        shutil.rmtree(default_folder())


def compile_graph(model: Any, precision: str) -> Any:
    """An openvino.Model, compiled to compute in "fp32" or "bf16"."""
    return _core().compile_model(model, "CPU", _settings(precision))


def load(key: GraphKey) -> Graph | None:
    """A stored graph; None if it has to be exported, because it is missing or damaged."""
    if not os.access(".", os.X_OK):
        return None  # in a folder that cannot be searched OpenVINO would abort the process
    for file in default_folder().glob(f"{key.stem()}*.blob"):
        try:
            with file.open("rb") as opened:
                with contextlib.suppress(BlockingIOError):  # it is being deleted
                    lock_descriptor(opened.fileno(), shared=True)  # as long as the map is open
                data = np.memmap(opened, np.uint8, "c")
            if file.stem.rpartition("-")[2] != _checksum(data):
                raise ValueError("wrong checksum")
            tensor = import_openvino().Tensor(data, shared_memory=True)
            graph = Graph(_core().import_model(tensor, "CPU", _settings(key.precision)), data)
            _note_use(file, key)
            return graph
        except Exception as error:  # whatever OpenVINO's C++ raises
            logger.warning("the exported model %s is damaged, and made again", file)
            logger.debug("%s: %r", file, error)
            with contextlib.suppress(OSError):
                file.unlink()
    return None


def store(key: GraphKey, compiled: Any) -> None:
    """Stores a compiled graph for `load`; if that fails, it is logged."""
    stream = io.BytesIO()
    compiled.export_model(stream)
    blob = stream.getvalue()
    checksum = _checksum(np.frombuffer(blob, np.uint8))
    place = default_folder() / f"{key.stem()}{checksum}.blob"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, blob)
        _delete_unused(key)
    except (OSError, OutputError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error
        logger.warning("%s: cannot keep the exported model (%s)", place.parent, reason)


def _note_use(file: Path, key: GraphKey) -> None:
    """Marks a graph as used today."""
    with contextlib.suppress(OSError):  # of a folder that can only be read
        if _days_unused(file) > 1:
            os.utime(file)
            _delete_unused(key)


def _delete_unused(key: GraphKey) -> None:
    """Deletes a tower's graphs of other versions or without use, and what killed processes left."""
    for file in default_folder().glob(f"*{key.tower()}*"):
        is_old = file.name.startswith(key.machine()) and not file.name.startswith(key.stem())
        with contextlib.suppress(OSError):  # another process has deleted it, or is using it
            if (is_old and _is_free(file)) or _days_unused(file) > _DAYS_KEPT:
                file.unlink()


def _is_free(file: Path) -> bool:
    """Whether no process has a graph open; also False where the file system cannot tell."""
    try:
        with file.open("r+b") as opened:
            return lock_descriptor(opened.fileno()) or os.name == "nt"  # which deletes no open file
    except BlockingIOError:
        return False


def _days_unused(file: Path) -> float:
    return (time.time() - file.stat().st_mtime) / 86_400


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _cpu_flags() -> frozenset[str]:
    """The CPU features that Linux reports; empty on other systems."""
    return frozenset(_read_cpuinfo("flags").split())


@functools.cache
def _read_cpuinfo(field: str) -> str:
    """A field that Linux reports of the first CPU; empty on other systems."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        if found := re.search(rf"^{field}\s*:(.*)", text, re.MULTILINE):
            return found[1].strip()
    return ""


def _checksum(data: NDArray[np.uint8]) -> str:
    """The CRC-32 of the sums of each 4 KiB, three times as fast as that of all bytes."""
    rest = len(data) % 4096
    sums = data[: len(data) - rest].view(np.uint64).reshape(-1, 512).sum(axis=1)
    return f"{zlib.crc32(data[len(data) - rest :].tobytes(), zlib.crc32(sums.tobytes())):08x}"


def _settings(precision: str) -> dict[str, Any]:
    # OpenVINO itself overlooks containers' limits.
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")  # that torch keeps to, and that Ray sets
    return {
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, all cores on it
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": min(cores, int(limit)) if limit.isdecimal() else cores,
    }


@functools.cache
def _core() -> Any:
    return import_openvino().Core()


def _convert_model(*args: Any, **settings: Any) -> Any:
    """`openvino.convert_model`, imported without its telemetry."""
    with _hidden("openvino_telemetry"):
        from openvino.tools.ovc import convert_model
    return convert_model(*args, **settings)


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Makes a package that is not imported yet look as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
