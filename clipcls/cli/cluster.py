"""The options and the work of a command that runs on a Ray cluster."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli.console import watching
from clipcls.cli.groups import Settings, option
from clipcls.cli.param_types import COUNT, NumberRange
from clipcls.errors import OutputError, format_count, require_extra

if TYPE_CHECKING:
    from clipcls.classification.doubt import Doubt
    from clipcls.cli.run import Run
    from clipcls.data.inputs import Found
    from clipcls.models.backend import Backend
    from clipcls.output.place import Place


@dataclass(frozen=True)
class ClusterSettings(Settings):
    """Whether to run on a cluster, and its workers."""

    section = "Cluster"

    ray: str | None = option(
        is_flag=False,
        flag_value="auto",
        optional=r"auto|local|(ray://)?[\w.-]+:\d+",
        metavar="[ADDRESS]",
        rare=True,
        help="Run on the Ray cluster at HOST:PORT, by default on the one that this machine belongs "
        "to or on this machine alone. Workers write parquet files into the folder or URL of -o; "
        "the same command resumes. Embeddings are not cached.",
    )
    cpus_per_worker: int = option(
        type=COUNT, default=1, rare=True, help="CPU cores that each worker has for itself."
    )
    gpus_per_worker: float = option(
        type=NumberRange(0), default=0.0, metavar="N", rare=True, help="Likewise; may be a share."
    )
    shard_size: int = option(type=COUNT, default=1000, rare=True, help="Images per result file.")

    @property
    def is_used(self) -> bool:
        """Whether the command runs on a cluster."""
        return self.ray is not None

    def choose_backend(self, backend: Backend, encoder: Any) -> Backend:
        """How workers run the model, which this machine has opened."""
        workers = backend.workers or self.cpus_per_worker
        if self.gpus_per_worker:
            return replace(backend, workers=workers)
        is_alike = getattr(encoder, "device", "cpu") == "cpu"  # this machine and the workers
        precision = encoder.precision if is_alike else backend.precision
        return replace(backend, workers=workers, device="cpu", precision=precision)


def find_place(file: object, form: str | None) -> str:
    """The folder or URL for results, by `-o`.

    Raises:
        click.UsageError: it is missing, or is a file.
    """
    if file is None:
        raise click.UsageError("--ray writes many files: name a folder or URL with -o")
    if form not in (None, "parquet"):
        raise click.UsageError(f"--ray writes parquet, not {form}; `clipcls merge` converts it")
    place = str(file)
    if os.path.isfile(place) or ("://" not in place and os.path.splitext(place)[1]):
        raise click.UsageError(f"{place}: --ray writes many files: name a folder, as in results/")
    return place


def classify_on_cluster(
    run: Run,
    images: Iterable[Found],
    classifier: Any,
    options: Mapping[str, Any],
    *,
    backend: Backend,
    identity: str,
    doubts: Mapping[str, Doubt],
    keep_nearness: bool,
) -> int:
    """Answer images on a cluster, as far as no earlier run has; returns the exit status.

    Args:
        run: counts the results.
        images: the images.
        classifier: fitted.
        options: of its `classify`.
        backend: how the model runs.
        identity: of labels and options; results of another run in the same folder are refused.
        doubts: of each question.
        keep_nearness: whether records keep `nearness`.
    """
    with require_extra("ray", "--ray"):
        import ray.data  # noqa: F401
    from clipcls.classification.whole_videos import WholeVideos
    from clipcls.cluster import job
    from clipcls.output.place import Place

    cluster = run.cluster
    assert cluster.ray is not None
    place = Place(find_place(run.output.file, run.output.form))
    identity = f"{identity} {cluster.shard_size}"
    known = _list_shards(place, identity)
    parts = list(job.split(images, cluster.shard_size))
    manifest = {"run": identity, "shards": len(parts), "shard_size": cluster.shard_size}
    place.write_manifest({**manifest, "complete": False})
    wanted = {part.name for part in parts}
    if done := known & wanted:
        run.report.add(job.count_finished(place, done))
        run.console.remark(f"{len(done):,} of {len(parts):,} shards were finished before")
    waiting = [part for part in parts if part.name not in done]
    work = job.Job(
        classifier,
        options,
        place,
        {name: doubt.n_labels for name, doubt in doubts.items()},
        keep_nearness,
        isinstance(images, WholeVideos),
        inputs=[os.fspath(name) for name in run.inputs if os.path.exists(name)],
    )
    with watching(run.console, sum(part.count for part in waiting)) as watch:
        reports = job.run(
            work,
            waiting,
            cluster.choose_backend(backend, classifier.encoder_),
            address=cluster.ray,
            cpus=cluster.cpus_per_worker,
            gpus=cluster.gpus_per_worker,
        )
        for report in reports if waiting else ():
            run.report.add(report.tally)
            for name, doubt in report.doubts.items():
                doubts[name].add(doubt)
            for each in [*report.errors, *[None] * report.tally.classified]:
                watch(each)
            done.add(report.name)
    return max(_finish(run, place, wanted, done, manifest), run.say_outcome(doubts))


def _list_shards(place: Place, identity: str) -> set[str]:
    """The shards that earlier runs of the same command finished."""
    from clipcls.output.place import SHARD_NAME

    names, manifest = place.names(), place.read_manifest()
    if manifest is None:
        if names:
            raise OutputError(f"{place.url}: is not empty, and not of --ray; name another folder")
        return set()
    if manifest.get("run") != identity:
        raise OutputError(
            f"{place.url}: holds results of another model, other labels or options; name another "
            "folder"
        )
    return {name for name in names if SHARD_NAME.fullmatch(name)}


def _finish(
    run: Run, place: Place, wanted: set[str], done: set[str], manifest: Mapping[str, Any]
) -> int:
    """Check that all shards can be seen here, and complete the folder; returns a status."""
    found = _list_shards(place, manifest["run"])
    if hidden := done - found:
        raise OutputError(
            f"{place.url}/{min(hidden)}: was written by a worker and is missing here; name a URL, "
            "or a folder that all machines share"
        )
    if lost := wanted - done:
        run.console.say(
            f"{format_count(len(lost), 'shard')} of {len(wanted):,} missing, as {min(lost)}: the "
            "workers died of it, perhaps of too little memory; the same command tries again"
        )
        return 1
    for name in found - wanted:  # of a list of images that has changed since
        place.remove(name)
    place.write_manifest({**manifest, "complete": True})
    count, merge = format_count(len(wanted), "file"), shlex.join(["clipcls", "merge", place.url])
    run.console.remark(f"wrote {count} into {place.url}; next: {merge} -o results.csv")
    return 0
