"""Classify shards of a list of images on a Ray cluster; results are a folder of parquet files.

Each shard is a part of the list, named by its place in it and a hash of its images' names, so that
a later run finds what is finished. A shard is written by the worker that answered it, whole or not
at all; doing one twice is harmless. Retries, scheduling and transport are Ray Data's.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import os
import pickle
import platform
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from clipcls.classification.doubt import Doubt, count_each
from clipcls.classification.empty import answer_empty
from clipcls.classification.whole_videos import WholeVideos
from clipcls.cluster.transport import pack, unpack, with_provenance
from clipcls.data.boxes import Crop
from clipcls.data.inputs import Found, NamedImage, name_whole
from clipcls.data.sources import Source, find_source, needs_request
from clipcls.errors import ClipclsError, ImageError, InputError, ModelError, require_extra
from clipcls.files.hashing import mark_file
from clipcls.models.backend import Backend
from clipcls.output.parquet import ParquetWriter
from clipcls.output.place import Place
from clipcls.output.tally import Tally

logger = logging.getLogger(__name__)

_TRIES = 4  # of a shard whose worker dies: an image may crash it


@dataclass(frozen=True, slots=True)
class Part:
    """The images of one shard, compressed, their results' number and the name of their file."""

    name: str
    count: int
    images: bytes

    def load(self) -> list[Found]:
        """The images."""
        images: list[Found] = pickle.loads(zlib.decompress(self.images))
        return images


def split(images: Iterable[Found], size: int) -> Iterator[Part]:
    """Divide images into parts of `size`, in their order; `WholeVideos` stay whole."""
    is_whole = isinstance(images, WholeVideos)
    with ThreadPoolExecutor(16) as pool:  # servers of files answer slowly
        for number, chunk in enumerate(_divide(images, size, is_whole)):
            slices = (chunk[start : start + 64] for start in range(0, len(chunk), 64))
            text = "\0".join(pool.map(lambda images: "\0".join(map(_mark, images)), slices))
            digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
            data = zlib.compress(pickle.dumps(chunk, protocol=5), 1)
            count = len([*itertools.groupby(chunk, name_whole)]) if is_whole else len(chunk)
            yield Part(f"part-{number:05}-{digest}.parquet", count, data)


def _divide(images: Iterable[Found], size: int, is_whole: bool) -> Iterator[list[Found]]:
    chunk: list[Found] = []
    for image in images:
        if len(chunk) >= size and not (is_whole and name_whole(image) == name_whole(chunk[-1])):
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def _mark(image: Found) -> str:
    """A text that changes with the image, without a request to a server for it alone."""
    if isinstance(image, ImageError):
        return f"\1{image.path}\1{getattr(image, 'label', '')}\1{dict(image.kept or {})}"
    if isinstance(image, str):
        image = NamedImage(image, find_source(image))
    source = image.source
    whole = source.photo.source if isinstance(source, Crop) else source
    try:
        stamp = mark_file(os.stat(getattr(whole, "path", "")))
    except (OSError, ValueError):
        stamp = source.stamp() if isinstance(source, Source) and not needs_request(source) else b""
    part = [getattr(source, name, "") for name in ("column", "box", "margin")]
    return f"{image.name}\1{stamp.hex()}\1{part}\1{dict(image.kept or {})}"


@dataclass
class Report:
    """The outcome of one shard.

    Attributes:
        name: its file.
        tally: the number of results by outcome.
        errors: its images that could not be read.
        doubts: of each question.
        failure: why it was not done, or None.
    """

    name: str
    tally: Tally = field(default_factory=Tally)
    errors: list[ImageError] = field(default_factory=list)
    doubts: dict[str, Doubt] = field(default_factory=dict)
    failure: ClipclsError | None = None


@dataclass
class Job:
    """Everything a worker needs to answer a shard.

    Attributes:
        classifier: fitted.
        options: of its `classify`.
        place: where results go.
        n_labels: per question whose answers can be doubtful, the number of labels.
        keep_nearness: whether records keep `nearness`.
        per_file: whether a video has one answer.
        folder: that names of images are relative to.
        inputs: local files and folders that have to exist where a worker runs.
    """

    classifier: Any
    options: Mapping[str, Any]
    place: Place
    n_labels: Mapping[str, int] = field(default_factory=dict)
    keep_nearness: bool = False
    per_file: bool = False
    folder: str = field(default_factory=os.getcwd)
    inputs: Sequence[str] = ()

    def prepare(self) -> None:
        """Check the machine of a worker, and go to the folder of the images.

        Raises:
            InputError: images are missing on this machine.
        """
        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        for path in self.inputs:
            if not os.path.exists(path):
                raise InputError(
                    f"{path}: is missing on the machine {platform.node()}; mount it in the same "
                    "place on every machine, or name images by URLs"
                )
        for each in with_provenance(self.classifier):
            each.provenance_ = replace(each.provenance_, precision=each.encoder_.precision)

    def classify(self, part: Part) -> Report:
        """Answer a part and write its results."""
        report = Report(part.name, doubts={q: Doubt(n) for q, n in self.n_labels.items()})
        images: Any = WholeVideos(part.load()) if self.per_file else part.load()
        results = self.classifier.classify(images, **self.options)
        classifiers = getattr(self.classifier, "classifiers", {"": self.classifier})
        results = images.name_best(results, classifiers) if self.per_file else results
        data = io.BytesIO()
        stream = io.TextIOWrapper(data, encoding="utf-8")
        writer = ParquetWriter(stream, [name for name in classifiers if name])
        counted = count_each(report.doubts, results, keep_nearness=self.keep_nearness)
        for result in answer_empty(counted, classifiers):
            report.tally.count(result)
            if isinstance(result, ImageError):
                report.errors.append(result.without_frames())
            writer.write(result)
        writer.finish()
        self.place.write(part.name, data.getvalue())
        return report


class _Tries:
    """Counts how often each part was begun, in a process that outlives the workers."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> int:
        self._counts[name] += 1
        return self._counts[name]


class _Worker:
    """A process of the cluster that keeps the model."""

    def __init__(self, job: Any, tries: Any) -> None:
        import ray

        self._tries = tries
        self._failure: ClipclsError | None = None
        try:
            self._job: Job = unpack(ray.get(job[0]))
            self._job.prepare()
        except ClipclsError as error:
            self._failure = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        import ray

        part: Part = pickle.loads(batch["part"][0])
        if ray.get(self._tries.add.remote(part.name)) > _TRIES:
            return {"report": [b""]}
        report = Report(part.name, failure=self._failure)
        if not self._failure:
            try:
                report = self._job.classify(part)
            except ClipclsError as error:
                report.failure = error
            except MemoryError:
                report.failure = ModelError(f"{platform.node()}: a worker has not enough memory")
        return {"report": [pickle.dumps(report)]}


def run(
    job: Job, parts: Sequence[Part], backend: Backend, *, address: str, cpus: int, gpus: float
) -> Iterator[Report]:
    """Answer parts on a cluster; yields the report of each as it is done.

    Parts whose workers died several times have no report.

    Args:
        job: what to do.
        parts: at least one.
        backend: how workers run the model.
        address: of the cluster; "auto" is the one that this machine belongs to, or a new one of
            this machine alone.
        cpus, gpus: that each worker has for itself.

    Raises:
        InputError: Ray is missing, or the cluster does not answer.
        ClipclsError: the failure of a shard that others would share.
    """
    with require_extra("ray", "--ray"):
        import pyarrow as pa
        import ray
        import ray.data
    with _connect(address):
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # else one error ends the run
        workers = min(_count_slots(cpus, gpus), len(parts))
        remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        tries = remote(_Tries).remote()  # Ray Data itself tries without end
        packed = ray.put(pack(job, backend))  # kept until the end, for workers that restart
        rows = [pa.table({"part": [pickle.dumps(part)]}) for part in parts]
        with ray.data.DataContext.current(context):
            reports = ray.data.from_arrow(rows).map_batches(
                _Worker,
                fn_constructor_args=([packed], tries),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=cpus,
                num_gpus=gpus,
            )
            for row in reports.iter_rows():
                if row["report"]:
                    report: Report = pickle.loads(row["report"])
                    if report.failure:
                        raise report.failure
                    yield report


@contextlib.contextmanager
def _connect(address: str) -> Iterator[None]:
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that this starts
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        ray.init(
            None if address == "auto" else address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"--ray {address}: cannot connect ({reason}); start a cluster with `ray start --head`, "
            "or leave out the address to use this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _count_slots(cpus: int, gpus: float) -> int:
    """The number of workers that fit on the cluster now, at least 1."""
    import ray

    found = ray.cluster_resources()
    slots = int(found.get("CPU", 0) // cpus)
    if gpus:
        slots = min(slots, int(found.get("GPU", 0) // gpus))
    if not slots:
        logger.warning(
            "waiting for a machine with room for a worker (%d CPUs, %g GPUs); the cluster has %g "
            "CPUs and %g GPUs",
            *(cpus, gpus, found.get("CPU", 0), found.get("GPU", 0)),
        )
    return max(slots, 1)


def count_finished(place: Place, names: Iterable[str]) -> Tally:
    """Count the results in shards that earlier runs finished.

    Raises:
        InputError: a shard is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    def count(name: str) -> Tally:
        try:
            with place.open(name) as file:
                errors = pyarrow.parquet.read_table(file, columns=["error"])["error"]
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{place.url}/{name}: is not a whole shard; remove it, and the same command "
                "computes it again"
            ) from error
        return Tally(errors.null_count, skipped=len(errors) - errors.null_count)

    tally = Tally()
    with ThreadPoolExecutor(16) as pool:
        for each in pool.map(count, names):
            tally.add(each)
    return tally
