"""A real Ray cluster of two nodes with one core each, and the bundled model."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import clipcls
from clipcls.cluster import job
from clipcls.models.backend import Backend
from clipcls.output.place import Place
from helpers.cli import Run

ray = pytest.importorskip("ray", reason="needs ray")
pytestmark = pytest.mark.timeout(600)

LABELS = ("-m", "mini", "-l", "cat", "-l", "coffee", "-l", "rocket")
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(**node)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPCLS_NO_CACHE", "1")
    monkeypatch.setenv("CLIPCLS_MODEL", "mini")


def copy_photos(number: int) -> None:
    Path("photos").mkdir()
    sources = sorted(PHOTOS.glob("*.jpg"))
    for each in range(number):
        os.link(shutil.copy(sources[each % len(sources)], "source.jpg"), f"photos/{each:04}.jpg")
        Path("source.jpg").unlink()


def start(cluster: Any, size: int) -> subprocess.Popen[bytes]:
    words = ("photos", "--ray", cluster.address, "--shard-size", str(size), "-o", "results")
    return subprocess.Popen(
        [sys.executable, "-m", "clipcls", "classify", *LABELS, *words], stderr=subprocess.PIPE
    )


def wait_for(shards: int) -> list[Path]:
    end = time.monotonic() + 240
    while len(found := sorted(Path("results").glob("part-*"))) < shards:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def read(path: str) -> pd.DataFrame:
    return pd.read_parquet(path).sort_values("path").reset_index(drop=True)


def check_against_local(run: Run, *more: str) -> None:
    run("classify", *LABELS, "photos", *more, "-o", "local.parquet")
    local, found = read("local.parquet"), read("results")
    assert found["path"].tolist() == local["path"].tolist()
    for name in ("label", "error", "frames", "model", "weights", "precision"):
        assert found[name].astype(str).tolist() == local[name].astype(str).tolist()
    assert (found["score"] - local["score"]).abs().max() <= 1e-6


def check_warnings(recwarn: pytest.WarningsRecorder) -> None:
    of_ray = ray.util.annotations.RayDeprecationWarning
    assert [w.message for w in recwarn if issubclass(w.category, of_ray)] == []


def test_two_nodes_answer_as_one_process(
    cluster: Any, run_real: Run, recwarn: pytest.WarningsRecorder
) -> None:
    copy_photos(12)
    for number in range(12, 20):  # a shard of broken images, and one of both
        Path(f"photos/{number:04}.jpg").write_text("no image")
    with tarfile.open("more.tar.gz", "w:gz") as tar:
        tar.add("photos/0003.jpg")
        tar.add("photos/0013.jpg")
    words = ("photos", "more.tar.gz", "--ray", cluster.address, "--shard-size", "6")
    status, _, err = run_real("classify", *LABELS, *words, "-o", "results/")
    assert status == 1, err
    assert "13 classified, 9 could not be read" in err
    check_against_local(run_real, "more.tar.gz")
    check_warnings(recwarn)


def test_videos_are_answered_whole(cluster: Any, run_real: Run) -> None:
    pytest.importorskip("av", reason="needs PyAV")
    from helpers.videos import film

    copy_photos(3)
    clips = [film(f"{n}.mp4", ["red", "green", "blue", "yellow"][n:] * 3) for n in range(3)]
    words = (*clips, "--per-file", "--every", "500ms")
    status, _, err = run_real(
        *("classify", *LABELS, "photos", *words),
        *("--ray", cluster.address, "--shard-size", "4", "-o", "results/"),
    )
    assert status == 0, err
    assert "6 classified" in err
    assert len(list(Path("results").glob("part-*"))) == 3
    check_against_local(run_real, *words)


@pytest.mark.slow
def test_a_pipeline_of_ray_data(cluster: Any, recwarn: pytest.WarningsRecorder) -> None:
    ray.init(cluster.address, log_to_driver=False)
    try:
        recwarn.clear()
        classifier = clipcls.ZeroShotClassifier(["cat", "rocket"], model="mini", cache=False).fit()
        images = ray.data.read_images(str(PHOTOS), mode="RGB", include_paths=True)
        rows = images.map_batches(
            clipcls.RayClassifier,
            fn_constructor_kwargs={"classifier": classifier},
            compute=ray.data.ActorPoolStrategy(size=1),
            batch_size=8,
        ).take_all()
        paths = [row["path"] for row in rows]
        assert [row["label"] for row in rows] == classifier.predict(paths).tolist()
        assert len(rows) == len(list(PHOTOS.glob("*.jpg")))
        assert "image" not in rows[0]
        check_warnings(recwarn)
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
def test_a_killed_worker_loses_nothing(cluster: Any, run_real: Run) -> None:
    copy_photos(240)
    process = start(cluster, 10)
    wait_for(2)
    raylets = {n.all_processes["raylet"][0].process.pid for n in cluster.list_all_nodes()}
    workers = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if b"MapWorker" in (folder / "cmdline").read_bytes()
        and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) in raylets
    ]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert all(line.startswith("clipcls: ") for line in err.decode().splitlines()), err.decode()
    assert len(list(Path("results").glob("part-*"))) == 24
    check_against_local(run_real)


class Killer:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


@pytest.mark.slow
def test_images_that_kill_workers_do_not_cost_others(cluster: Any) -> None:
    copy_photos(8)
    classifier = clipcls.ZeroShotClassifier(["cat", "rocket"], model="mini", cache=False).fit()
    bad = job.Part("part-99999-00000000.parquet", 1, zlib.compress(pickle.dumps([Killer()])))
    good = list(job.split(sorted(map(str, Path("photos").iterdir())), 2))
    work = job.Job(classifier, {"top": 1}, Place("results"))
    where = {"address": cluster.address, "cpus": 1, "gpus": 0}
    reports = list(job.run(work, [bad, *good], Backend(workers=1), **where))
    assert sorted(report.name for report in reports) == [part.name for part in good]
    assert sum(report.tally.classified for report in reports) == 8


@pytest.mark.slow
def test_a_killed_driver_is_resumed(cluster: Any, run_real: Run) -> None:
    copy_photos(240)
    process = start(cluster, 10)
    before = {path: path.stat().st_mtime_ns for path in wait_for(3)}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert '"complete": false' in Path("results/_manifest.json").read_text()
    process = start(cluster, 10)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    assert b"of 24 shards were finished before" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check_against_local(run_real)
