"""The real command on the shipped photos with the bundled model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from clipcls import ZeroShotClassifier
from clipcls.errors import install_command
from clipcls.models import openvino
from clipcls.models.backend import Backend
from clipcls.output.reader import read_results
from clipcls.predictions import Prediction
from helpers.predictions import all_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = ROOT / "README.md"
PHOTOS = EXAMPLES / "photos"
CHELSEA = str(PHOTOS / "chelsea.jpg")


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache_home")


@pytest.fixture
def clipcls(run_real, cache_home: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `clipcls` in this process with a cache of its own, no hub and no terminal."""

    def run(
        *arguments: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            for name, value in {"XDG_CACHE_HOME": str(cache_home), **(env or {})}.items():
                patch.setenv(name, value)
            if cwd is not None:
                patch.chdir(cwd)
            return subprocess.CompletedProcess(arguments, *run_real(*arguments))

    return run


@pytest.fixture
def clipcls_process(cache_home: Path):
    """The same in a process of its own."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "clipcls", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "XDG_CACHE_HOME": str(cache_home), **(env or {})},
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_shipped_photos_get_their_labels(clipcls) -> None:
    done = clipcls(
        "classify", "--labels", "examples/labels.txt", "-f", "jsonl", "examples/photos", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    truth = {row["path"]: row["label"] for row in csv.DictReader((EXAMPLES / "truth.csv").open())}
    found = {Path(r["path"]).name: r["label"] for r in records(done.stdout)}
    truth = {Path(path).name: label for path, label in truth.items()}
    assert found.keys() == truth.keys()
    wrong = {name: label for name, label in found.items() if truth[name] != label}
    assert len(wrong) <= len(truth) // 10, wrong
    # README shows what came out.
    shown = re.findall(r"^examples/photos/(\S+) +(\S.*?) +[01]\.\d\d$", README.read_text(), re.M)
    assert dict(shown).items() <= found.items()
    assert len(shown) > 4
    # Without a hub `auto` is mini, and says so in one line.
    assert {r["model"] for r in records(done.stdout)} == {"mini"}
    assert done.stderr.count("mini instead of base") == 1


def test_large_photos_decoded_at_a_smaller_scale_get_the_same_labels(tmp_path: Path) -> None:
    labels = str(EXAMPLES / "labels.txt")
    classifier = ZeroShotClassifier(
        labels, "mini", cache=False, backend=Backend(precision="fp32")
    ).fit()
    paths, images = [], []
    for number, file in enumerate(sorted(PHOTOS.glob("*.jpg"))[::4]):
        image = Image.open(file).convert("RGB")
        large = image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC)
        path = tmp_path / file.name
        large.save(path, quality=(70, 85, 95)[number % 3])
        paths.append(path)
        images.append(Image.open(path).convert("RGB"))  # an open image is taken whole
    scaled, whole = classifier.predict_proba(paths), classifier.predict_proba(images)
    assert (scaled.argmax(axis=1) == whole.argmax(axis=1)).all()
    assert 0 < abs(scaled - whole).max() < 0.05


def test_a_second_run_loads_no_model(clipcls_process, tmp_path: Path) -> None:
    arguments = ("classify", "-m", "mini", "-l", "cat", "-l", "dog", "-f", "jsonl", CHELSEA)
    first = clipcls_process(*arguments)
    # Proof that no encoder can have run: none of what runs one can be imported.
    for name in ("torch", "openvino"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('an encoder was called')")
    second = clipcls_process(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert first.returncode == second.returncode == 0, second.stderr
    assert first.stdout == second.stdout
    unseen = clipcls_process(
        "classify", "-m", "mini", "-l", "fox", CHELSEA, env={"PYTHONPATH": str(tmp_path)}
    )
    assert unseen.returncode == 2
    assert "encoder was called" in unseen.stderr
    assert "damaged" not in unseen.stderr
    mended = clipcls_process("classify", "-m", "mini", "-l", "fox", CHELSEA)
    assert (mended.returncode, "torch" in mended.stderr) == (0, False), "nothing was remembered"


def test_new_labels_on_known_photos_load_the_text_tower_only(clipcls, cache_home: Path) -> None:
    clipcls("classify", "-m", "mini", "-l", "cat", "-l", "dog", CHELSEA)
    script = (
        "import sys\n"
        "from clipcls import cli; from clipcls.models import loading\n"
        "load = loading.load\n"
        "def only_text(*args, tower=None, **kwargs):\n"
        "    assert tower == 'text', tower\n"
        "    return load(*args, tower=tower, **kwargs)\n"
        "loading.load = only_text\n"
        f"sys.argv = ['clipcls', 'classify', '-m', 'mini', '-l', 'lynx', {CHELSEA!r}]\n"
        "cli.main()"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(cache_home)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_paths_on_stdin_and_bad_files_among_them(clipcls, tmp_path: Path) -> None:
    shutil.copy(CHELSEA, tmp_path / "cat.jpg")
    (tmp_path / "cut.jpg").write_bytes(Path(CHELSEA).read_bytes()[:5000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    odd = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    shutil.copy(os.fsencode(CHELSEA), odd)
    names = [b"cat.jpg", b"cut.jpg", b"empty.jpg", b"text.jpg", b"gone.jpg", odd]
    done = clipcls(
        *("classify", "-m", "mini", "-l", "cat", "-l", "dog", "-f", "jsonl", "-0", "-"),
        stdin=b"\0".join(names),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    found = records(done.stdout)
    assert [os.fsencode(r["path"]) for r in found] == names
    assert [r.get("label") for r in found] == ["cat", None, None, None, None, "cat"]
    assert [r.get("error") for r in found[1:5]] == [
        "truncated, 78 % missing",
        "is empty",
        "not an image",
        "no such file",
    ]
    for name in ("cut.jpg", "empty.jpg", "text.jpg", "gone.jpg"):
        assert f"skipped {name}" in done.stderr


def test_images_that_people_have_and_what_is_left_out_of_a_folder(clipcls, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "#recycle").mkdir(parents=True)
    whole = Path(CHELSEA).read_bytes()
    (photos / "dl.jpg?w=300").write_bytes(whole[:-2])  # without its end marker
    (photos / "cut.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    (photos / "#recycle" / "old.jpg").write_bytes(whole)
    for name in ("clip.mov", "README", "dl.jpg.txt"):
        (photos / name).write_text("no image")
    done = clipcls(
        *("classify", "-m", "mini", "-l", "cat", "-l", "cow", "-f", "jsonl", "photos"),
        cwd=tmp_path,
    )
    assert done.returncode == 0
    found = {record["path"]: record["label"] for record in records(done.stdout)}
    assert found == {"photos/cut.jpg": "cat", "photos/dl.jpg?w=300": "cat"}
    assert "warning: photos/cut.jpg: truncated, " in done.stderr
    assert done.stderr.rstrip().endswith(
        "; 1 video (.mov), 1 other file (.txt), 1 file without a suffix, "
        "1 system folder (#recycle) left out; to read videos, name them or a pattern like *.mp4"
    )
    assert "2 classified" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("classify", CHELSEA), "--labels"),
        (("classify", "-l", "a", "--labels", "b", CHELSEA), "--labels and -l exclude"),
        (("classify", "--labels", "no-such-file", CHELSEA), "no-such-file"),
        (("classify", "-l", "a", "--prompts", "no-such-set", CHELSEA), "no-such-set"),
        (("classify", "-l", "a", "-m", "no-such-model", CHELSEA), "no-such-model"),
        (("classify", "-l", "a", "-m", "base", CHELSEA), "safetensors is not on this machine"),
        (("classify", "-l", "a", "-o", "results.xyz", CHELSEA), ".csv"),
        (("evaluate", str(PHOTOS)), "--labels"),
        (("evaluate", "-l", "a", "-m", "mini", "no-such-folder"), "no-such-folder"),
        (("evaluate", "-l", "a", "-m", "mini", str(PHOTOS)), "make one per class"),
        (("evaluate", "-l", "a", "-m", "mini", str(EXAMPLES / "truth.csv")), "'a'"),
        (("evaluate", "-l", "a", "--compare", "shoes=4", str(PHOTOS)), "write model=NAME"),
        (("classify", "-l", "a", "--coverage", "0.9", CHELSEA), "--coverage needs --calibration"),
        (("classify", "-l", "a", "--max-error", "0.1", CHELSEA), "--max-error needs --calibration"),
        (
            ("classify", "-l", "a", "--prediction-sets", "0.1", CHELSEA),
            "--prediction-sets needs --calibration",
        ),
        (("classify", "-l", "a", "-m", "mini", "--calibration", "none.json", CHELSEA), "none.json"),
        (("calibrate", "-l", "a", str(PHOTOS)), "--output"),
        (
            ("evaluate", "--multi-label", "-l", "a", "--level", "1", "t.csv"),
            "--level and --multi-label exclude",
        ),
        (
            ("calibrate", "--multi-label", "-l", "a", "--level", "1", "-o", "c", "t"),
            "--level and --multi-label exclude",
        ),
        (
            ("evaluate", "--multi-label", "-l", "a", "--compare", "classifier=b", "t.csv"),
            "is for one label",
        ),
        (("fit", str(PHOTOS)), "--output"),
        (("fit", "-m", "mini", "-o", "-", str(PHOTOS)), "name a file"),
        (("fit", "-m", "mini", "-o", "c", str(PHOTOS)), "make one per class"),
        (("fit", "-m", "mini", "-o", "c", "no-such-folder"), "no-such-folder"),
        (("classify", "--classifier", "c", "-l", "a", CHELSEA), "-l and --classifier exclude"),
        (
            ("classify", "--classifier", "c", "--min-similarity", "2", CHELSEA),
            "--classifier and --min-similarity exclude",
        ),
        (
            ("calibrate", "--classifier", "c", "--multi-label", "-o", "d", "t.csv"),
            "--classifier and --multi-label",
        ),
        (("classify", "--classifier", "no-such-file", CHELSEA), "no-such-file: cannot be read"),
        (("classify", "--classifier", CHELSEA, CHELSEA), "is no classifier"),
        (("evaluate", "--classifier", "c", "--compare", "model=b", "t.csv"), "need --labels"),
        (("classify", "-l", "a", "--refine", "--calibration", "c", CHELSEA), "would not hold"),
        (("classify", "--classifier", "c", "--refine", CHELSEA), "--classifier and --refine"),
        (("search",), "what to search for"),
        (("nonsense",), "nonsense"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_2(run_real, arguments, said: str) -> None:
    status, out, err = run_real(*arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("rror:") == 1


LABELLED = ("--labels", str(EXAMPLES / "labels.txt"), str(EXAMPLES / "truth.csv"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("classify", "-m", "mini", "-l", "cat", "-l", "dog", "-f", "csv", CHELSEA), "path,label"),
        (("suggest", "-m", "mini", CHELSEA), "# 1 label"),
        (("evaluate", "-m", "mini", *LABELLED, "-f", "json"), "{"),
    ],
)
def test_a_dash_as_output_is_standard_output(clipcls, tmp_path: Path, arguments, said: str) -> None:
    done = clipcls(*arguments, "-o", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(said)
    assert not list(tmp_path.iterdir())


def test_min_score_top_and_output_file(clipcls, tmp_path: Path) -> None:
    out = tmp_path / "results.csv"
    done = clipcls(
        *("classify", "-m", "mini", "-l", "cat", "-l", "dog", "--min-score", "1", "-k", "2"),
        *("-o", str(out), CHELSEA),
    )
    assert (done.returncode, done.stdout) == (0, "")
    (row,) = csv.DictReader(out.open())
    assert (row["label"], row["best"], row["label_2"]) == ("unknown", "cat", "dog")
    # What is the same in every row stands once.
    assert not {"model", "weights", "precision", "prompts"} & set(row)
    assert sorted(os.listdir(tmp_path)) == ["results.csv", "results.csv-metadata.json"]
    (answer,) = all_of(Prediction, read_results(out))
    assert answer.provenance is not None
    assert answer.provenance.model == "mini"


@pytest.fixture
def sorted_photos(tmp_path: Path) -> Path:
    """Seven of the shipped photos in a folder per class, one that is no photo, one no label."""
    folder = tmp_path / "sorted"
    classes = {"cat": ["chelsea"], "Polar_Bear": ["churchill"], "rocket": ["dscovr", "eileen"]}
    classes |= {"frying-pan": ["kitchen"], "panda": ["zoo"], "zebra": ["perth"]}
    for name, photos in classes.items():
        (folder / name).mkdir(parents=True)
        for photo in photos:
            shutil.copy(PHOTOS / f"{photo}.jpg", folder / name)
    (folder / "cat" / "text.jpg").write_text("no image")
    return folder


def test_evaluate_a_folder_and_a_csv(clipcls, sorted_photos: Path, tmp_path: Path) -> None:
    common = ("evaluate", "-m", "mini", "--labels", str(EXAMPLES / "labels.txt"))
    done = clipcls(*common, "-o", str(tmp_path / "f.json"), str(sorted_photos))
    assert (done.returncode, done.stdout) == (1, "")
    assert "text.jpg: not an image" in done.stderr
    assert "'zebra' is none of the labels" in done.stderr
    assert "labels without an image: dog" in done.stderr
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["images"] == 6
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    assert found["confused"] == [{"label": "rocket", "answer": "football", "images": 1}]
    assert found["no_labels"] == {"zebra": 1}
    assert [e["error"] for e in found["unreadable"]] == ["not an image"]
    assert found["model"] == "mini"

    page = tmp_path / "report.html"
    table = clipcls(*common, "--html", str(page), str(EXAMPLES / "truth.csv"))
    assert table.returncode == 0
    assert page.read_text().count("<img ") == 20

    done = clipcls(
        *(*common, "--compare", "prompts=none", "--compare", "model=mini", "-f", "json"),
        str(EXAMPLES / "truth.csv"),
    )
    assert done.returncode == 0, done.stderr
    _, same = json.loads(done.stdout)["compare"]
    accuracy = same["metrics"]["accuracy"]
    assert (accuracy["value"], same["better"], same["worse"], accuracy["p"]) == (0.9, 0, 0, 1)
    assert re.search(r"^accuracy +90\.0 % +68\.3 % to +98\.8 %$", table.stdout, re.M)


def test_calibrate_and_what_it_is_good_for(clipcls, tmp_path: Path) -> None:
    labels = ("-m", "mini", "--labels", str(EXAMPLES / "labels.txt"))
    file = tmp_path / "calibration.json"
    done = clipcls("calibrate", *labels, str(EXAMPLES / "truth.csv"), "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert "from 20 images; calibration error" in done.stderr
    promise = re.search(r"with these images --max-error can be (0\.\d+) or more", done.stderr)
    assert promise
    assert "--max-error 0.05 needs about 118 images like these" in done.stderr
    common = ("classify", *labels, "--calibration", str(file), "-f", "jsonl", str(PHOTOS))
    plain = records(clipcls(*common).stdout)
    temperature = json.loads(file.read_text())["temperature"]
    assert temperature != 1
    assert len({r["calibration"] for r in plain}) == 1

    half = clipcls(*common, "--coverage", "0.5")
    assert "the calibration was made from 20 of these images" in half.stderr
    assert 8 <= sum(r["label"] != "unknown" for r in records(half.stdout)) <= 12
    assert "of the calibration's images" in half.stderr
    truth = {r["path"]: r["label"] for r in csv.DictReader((EXAMPLES / "truth.csv").open())}
    assert re.search(r"\(at 0\.1 a set has \S+ labels on average\)", done.stderr)
    done = clipcls(*common, "--prediction-sets", "0.2")
    sets = records(done.stdout)
    assert re.search(r" of \d+ labels per set", done.stderr)
    hits = [truth[f"photos/{Path(r['path']).name}"] in r["set"] for r in sets]
    assert sum(hits) >= 16
    flat = clipcls(
        *(*common[:-3], "--prediction-sets", "0.2", "-f", "csv", "--columns", "+calibration"),
        str(PHOTOS),
    ).stdout
    row = next(csv.DictReader(flat.splitlines()))
    assert row["set"].split("|") == sets[0]["set"]
    assert row["calibration"] == sets[0]["calibration"]

    for wrong, said in (
        (("--max-error", "0.05"), "0.05 cannot be promised from 20 images"),
        (("--prediction-sets", "0.01"), "need 99 calibration images"),
        (("--prompts", "art"), "for the prompts 'a photo of a {}.', not for 'art'"),
        (("--coverage", "0.5", "--max-error", "0.5"), "exclude each other"),
    ):
        refused = clipcls(*common, *wrong)
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert said in refused.stderr
    other = clipcls("classify", "-m", "mini", "-l", "cat", "--calibration", str(file), CHELSEA)
    assert other.returncode == 2
    assert "made with the label " in other.stderr


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """Twelve of the shipped photos by what they show; the folders' names do not say it well."""
    folder = tmp_path / "kinds"
    photos = {
        "kind_a": ["chelsea", "churchill", "on-guard", "perth"],
        "kind_b": ["bavaria", "garden", "meadow", "summer-palace"],
        "kind_c": ["kitchen", "pikolo", "shed", "studio"],
    }
    for kind, names in photos.items():
        (folder / kind).mkdir(parents=True)
        for name in names:
            shutil.copy(PHOTOS / f"{name}.jpg", folder / kind)
    return folder


@pytest.mark.parametrize(
    "command", [("fit", "-o"), ("calibrate", "-o"), ("evaluate", "--html"), ("evaluate", "-o")]
)
def test_where_results_cannot_go_is_said_before_the_work(
    clipcls, tmp_path: Path, command: tuple[str, str]
) -> None:
    name, option = command
    common = (name, "-m", "mini", "--labels", str(EXAMPLES / "labels.txt"), str(PHOTOS), option)
    done = clipcls(*common, str(tmp_path / "none" / "x.json"))
    assert done.returncode == 2
    assert f"the folder {tmp_path / 'none'} is missing" in done.stderr
    done = clipcls(*common, str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "is a directory" in done.stderr


def test_fit_and_what_it_is_good_for(clipcls, kinds: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    done = clipcls("fit", "-m", "mini", str(kinds), "-o", str(file), "--check-labels")
    assert done.returncode == 0, done.stderr
    assert "learnt 3 labels from 12 images; accuracy on images held out" in done.stderr
    suspects = list(csv.DictReader(done.stdout.splitlines()))
    assert f"labels that are likely wrong: {len(suspects)}" in done.stderr

    common = ("classify", "--classifier", str(file))  # the model is the one in the file
    others = [str(PHOTOS / f"{name}.jpg") for name in ("zoo", "picos-de-europa", "workbench")]
    found = records(clipcls(*common, "-f", "jsonl", "-k", "2", *others).stdout)
    assert [r["label"] for r in found] == ["kind a", "kind b", "kind c"]
    assert {r["model"] for r in found} == {"mini"}
    assert len({r["classifier"] for r in found}) == 1
    assert [len(r["top"]) for r in found] == [2, 2, 2]
    flat = clipcls(*common, "-f", "csv", "--min-score", "1", "--min-margin", "0.5", *others)
    rows = list(csv.DictReader(flat.stdout.splitlines()))
    assert [r["label"] for r in rows] == ["unknown"] * 3
    assert [r["best"] for r in rows] == [r["label"] for r in found]

    again = clipcls("evaluate", *common[1:], "-f", "json", str(kinds))
    assert json.loads(again.stdout)["metrics"]["accuracy"]["value"] == 1
    assert "learnt from 12 of these 12 images" in again.stderr
    done = clipcls(*common, "--level", "2", CHELSEA)
    assert (done.returncode, "its levels are 1 only" in done.stderr) == (2, True)
    labels = tmp_path / "labels.txt"
    labels.write_text("kind a\nkind b\nkind c\n")
    beside = clipcls(
        *("evaluate", "-m", "mini", "--labels", str(labels), "-f", "json"),
        *("--compare", f"classifier={file}", str(kinds)),
    )
    (comparison,) = json.loads(beside.stdout)["compare"]
    accuracy = comparison["metrics"]["accuracy"]
    assert accuracy["value"] == 1 > accuracy["difference"]["value"] > 0

    calibration = tmp_path / "calibration.json"
    assert clipcls("calibrate", *common[1:], str(kinds), "-o", str(calibration)).returncode == 0
    assert clipcls(*common, "--calibration", str(calibration), CHELSEA).returncode == 0
    more = clipcls("fit", "-m", "mini", "--prompts", "imagenet-7", str(kinds), "-o", str(file))
    assert more.returncode == 0, more.stderr
    refused = clipcls(*common, "--calibration", str(calibration), CHELSEA)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "it is for the classifier" in refused.stderr

    (kinds / "kind_a" / "text.jpg").write_text("no image")
    assert clipcls("fit", "-m", "mini", str(kinds), "-o", str(file)).returncode == 1
    file.write_bytes(file.read_bytes()[:-9])
    cut = clipcls(*common, CHELSEA)
    assert (cut.returncode, cut.stdout) == (2, "")
    assert "cut off or damaged" in cut.stderr


def test_refined_answers(clipcls, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("chelsea", "on-guard", "garden"):
        with Image.open(PHOTOS / f"{name}.jpg") as image:
            for angle in range(14):
                image.rotate(angle - 7).resize((96, 96)).save(photos / f"{name}{angle:02}.png")
    (photos / "broken.jpg").write_bytes(b"nothing")
    refine = ("classify", "-m", "mini", "-l", "cat", "-l", "dog", "-l", "flower", "--refine")
    table = ("-k", "2", "-f", "csv", "--columns", "+refined", str(photos))
    done = clipcls(*refine, *table)
    assert done.returncode == 1
    assert done.stderr.count("broken.jpg") == 1
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["path"] for row in rows] == sorted(map(str, photos.iterdir()))
    labels = {"chelsea": "cat", "on-guard": "dog", "garden": "flower"}
    good = [row for row in rows if not row["error"]]
    assert all(row["refined"] == "True" and row["score_2"] for row in good)
    assert all(labels[Path(row["path"]).stem[:-2]] == row["label"] for row in good)
    # The second run is of the cache alone, and the same.
    assert clipcls(*refine, *table).stdout == done.stdout
    one = clipcls(*refine, "-f", "jsonl", CHELSEA)
    assert one.returncode == 0
    assert (records(one.stdout)[0]["label"], records(one.stdout)[0]["refined"]) == ("cat", True)


def test_answers_as_a_page_and_as_parquet(clipcls, tmp_path: Path) -> None:
    labels = ["--labels", "examples/labels.txt", "-m", "mini", "-k", "2"]
    for name in ("r.html", "r.parquet"):
        done = clipcls("classify", *labels, "-o", str(tmp_path / name), str(PHOTOS), cwd=ROOT)
        assert done.returncode == 0, done.stderr
    done = clipcls("report", str(tmp_path / "r.parquet"), "-o", str(tmp_path / "s.html"))
    assert done.stderr.startswith("clipcls: 20 images, ")
    pages = [(tmp_path / name).read_text() for name in ("r.html", "s.html")]
    assert pages[0] == pages[1].replace("r.parquet", "Results")
    done = clipcls("search", "cat", str(PHOTOS), "-m", "mini", "-o", str(tmp_path / "hits.html"))
    assert (done.returncode, "its suffix names no format" in done.stderr) == (2, True)
    assert ".html" not in done.stderr.split("use ")[1]
    done = clipcls("classify", *labels[:-2], str(PHOTOS), "-o", str(tmp_path / "r.pdf"), cwd=ROOT)
    assert (done.returncode, ".html, .parquet" in done.stderr) == (2, True)


def test_no_result_is_written_over_what_is_read(clipcls, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "truth.csv").write_text("path,label\na.jpg,cat\n")
    for name in ("a.jpg", "classifier.safetensors"):
        (tmp_path / name).write_bytes(b"data")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in [
        ["classify", "-l", "cat", "-l", "dog", "a.jpg", "-f", "csv", "-o", "./a.jpg"],
        ["classify", "--labels", "labels.txt", "a.jpg", "-o", "labels.txt"],
        ["evaluate", "--labels", "labels.txt", "truth.csv", "-o", "truth.csv"],
        ["evaluate", "--labels", "labels.txt", "truth.csv", "--html", "truth.csv"],
        ["fit", "--labels", "labels.txt", "truth.csv", "-o", "labels.txt"],
        [
            *("calibrate", "--classifier", "classifier.safetensors", "truth.csv"),
            *("-o", "classifier.safetensors"),
        ],
    ]:
        done = clipcls(*arguments, cwd=tmp_path)
        assert (done.returncode, "would be overwritten" in done.stderr) == (2, True), arguments
    same = ("-o", "new.html", "--html", "new.html")
    done = clipcls("evaluate", "--labels", "labels.txt", "truth.csv", *same, cwd=tmp_path)
    assert (done.returncode, "name the same file" in done.stderr) == (2, True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_pyarrow_is_told_before_the_work(clipcls_process, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = clipcls_process(
        *("classify", "-m", "local-dir:nowhere", "-l", "cat", "-l", "dog", CHELSEA),
        *("-o", str(tmp_path / "r.parquet")),
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )
    assert done.returncode == 2
    assert install_command("parquet") in done.stderr


def test_answers_are_filed_at_once(clipcls, tmp_path: Path) -> None:
    pytest.importorskip("lxml", reason="needs lxml")
    photos = shutil.copytree(PHOTOS, tmp_path / "photos")
    (photos / "bad.jpg").write_text("no image")
    shutil.copy(photos / "zoo.jpg", photos / "pasture-zoo.jpg")
    labels = ["classify", "--labels", str(EXAMPLES / "labels.txt"), "-m", "mini"]
    for wrong, message in [
        (["--move"], "--sort-into DIR"),
        (["--move", "--link", "--sort-into", "out"], "exclude each other"),
        (["--sort-into", "photos/zoo.jpg"], "is a file"),
        (
            ["--sort-into", "photos/out"],
            "photos/out: the pictures would lie among the images of photos",
        ),
    ]:
        done = clipcls(*labels, *wrong, "photos", cwd=tmp_path)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    before = sorted(os.listdir(photos))
    done = clipcls(*labels, "--sort-into", "out", "--link", "photos", cwd=tmp_path)
    assert "21 linked; 1 left alone that `classify` could not read" in done.stderr
    assert done.returncode == 1, "because of bad.jpg"
    assert (tmp_path / "out/panda/zoo.jpg").is_symlink()
    done = clipcls(*labels, "--sort-into", "out2", "--move", "--xmp", "photos", cwd=tmp_path)
    assert "21 written into sidecars" in done.stderr
    assert "21 moved" in done.stderr
    assert sorted(os.listdir(photos)) == ["bad.jpg"]
    assert sorted(os.listdir(tmp_path / "out2/panda")) == [
        "pasture-zoo.jpg",
        "pasture-zoo.xmp",
        "zoo.jpg",
        "zoo.xmp",
    ]
    (undo,) = re.findall(r"clipcls (sort --undo \S+)", done.stderr)
    assert clipcls(*undo.split(), cwd=tmp_path).returncode == 0
    assert [name for name in sorted(os.listdir(photos)) if not name.endswith(".xmp")] == before


def test_images_of_other_things_are_near_no_label(clipcls) -> None:
    labels = ("-m", "mini", "-l", "cat", "-l", "dog", "--min-similarity", "2", "-f", "jsonl")
    cat, pagoda = records(
        clipcls("classify", *labels, CHELSEA, str(PHOTOS / "summer-palace.jpg")).stdout
    )
    assert (cat["label"], pagoda["label"]) == ("cat", "unknown")
    assert pagoda["nearness"] < 2 < cat["nearness"]


def test_a_hierarchy_of_labels(clipcls, tmp_path: Path) -> None:
    labels = tmp_path / "tree.txt"
    labels.write_text(
        "# levels: kingdom > kind > breed\nanimal > cat\nanimal > dog > pug\n"
        "animal > dog > greyhound\nthing > building > pagoda\n"
    )
    common = ("classify", "-m", "mini", "--labels", str(labels), "-f", "jsonl", CHELSEA)
    dog = str(PHOTOS / "on-guard.jpg")
    cat, kind = records(clipcls(*common, "--level", "kind", dog).stdout)
    assert (cat["label"], cat["lineage"]) == ("cat", ["animal", "cat"])
    assert (kind["label"], kind["lineage"]) == ("dog", ["animal", "dog"])
    unsure = records(clipcls(*common, "--min-score", "0.6", dog).stdout)[1]
    assert unsure["lineage"] == ["animal", "dog"]
    rows = list(csv.DictReader(clipcls(*common[:-2], "csv", CHELSEA).stdout.splitlines()))
    assert rows[0]["lineage"] == "animal > cat"
    refused = clipcls(*common, "--level", "family")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has no level 'family'; its levels are 1 to 3, by name kingdom, kind" in refused.stderr


def test_suggested_labels_are_read_back(clipcls, tmp_path: Path) -> None:
    words, labels = tmp_path / "words.txt", tmp_path / "labels.txt"
    words.write_text("cat\npagoda\ncastle\npolar bear\nrocket\nfrying pan\n")
    photos = [str(PHOTOS / f"{n}.jpg") for n in ("chelsea", "churchill", "dscovr", "kitchen")]
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    common = ("suggest", "-m", "mini", "--vocabulary", str(words))
    done = clipcls(*common, *photos, str(bad), "-o", str(labels))
    assert (done.returncode, done.stdout) == (1, "")
    assert "skipped" in done.stderr
    assert "4 images in 4 clusters: 4 labels" in done.stderr
    sure = clipcls("classify", "-m", "mini", "--labels", str(labels), "-f", "jsonl", *photos)
    assert [r["label"] for r in records(sure.stdout)] == [
        "cat",
        "polar bear",
        "rocket",
        "frying pan",
    ]
    one = clipcls(*common, "-q", photos[0])
    assert (one.returncode, one.stdout.splitlines()[-1]) == (0, "cat")
    none = clipcls(*common, str(bad), "-o", str(tmp_path / "none.txt"))
    assert (none.returncode, none.stdout) == (2, "")
    assert "error: no image could be read; the first: " in none.stderr
    assert not (tmp_path / "none.txt").exists()
    wrong = clipcls(*common, photos[0], "-o", "labels.yaml")
    assert wrong.returncode == 2
    assert "labels.yaml: its suffix names no format: use .csv, .tsv" in wrong.stderr


def test_a_missing_folder_for_results_is_refused_before_the_work(clipcls, tmp_path: Path) -> None:
    done = clipcls(
        "classify", "-m", "mini", "-l", "cat", "-o", str(tmp_path / "none" / "r.csv"), CHELSEA
    )
    assert done.returncode == 2
    assert "r.csv: the folder " in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_line_and_exit_3(cache_home: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clipcls", "classify", "-m", "mini", "-l", "cat", CHELSEA],
            stdout=full,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(cache_home),
                "PYTHONUNBUFFERED": unbuffered,
            },
            text=True,
        )
    assert done.returncode == 3
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_read_only_cache_costs_a_line_and_no_answer(clipcls_process, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = clipcls_process(
        *("classify", "-m", "mini", "-l", "cat", "-l", "dog", "-f", "jsonl", CHELSEA),
        env={"XDG_CACHE_HOME": str(tmp_path / "file")},
    )
    assert done.returncode == 0
    assert records(done.stdout)[0]["label"] == "cat"
    assert "going on without it" in done.stderr


def many_photos(folder: Path, count: int) -> None:
    """Copies that differ in content, so that each must be encoded."""
    folder.mkdir()
    data = Path(CHELSEA).read_bytes()
    for n in range(count):
        (folder / f"{n:04}.jpg").write_bytes(data + n.to_bytes(4, "big"))
        os.utime(folder / f"{n:04}.jpg", (1_700_000_000, 1_700_000_000))


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_in_the_middle_goes_on_where_it_was(tmp_path: Path, end: int) -> None:
    count = 1000 if end == signal.SIGKILL else 400
    many_photos(tmp_path / "photos", count)
    out, cache = tmp_path / "results.jsonl", tmp_path / "cache.db"
    command = [sys.executable, "-m", "clipcls", "classify", "-m", "mini", "-l", "cat", "-l", "dog"]
    command += ["-o", str(out), "--cache", str(cache), str(tmp_path / "photos")]
    part = tmp_path / "results.jsonl.part"
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # What starts the tests in the background may have Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (part.exists() and part.read_text().count("\n") >= 33):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(end)
    _, said = running.communicate()
    reported = records(part.read_text())[:-1]
    assert not out.exists()
    assert len(reported) < count
    if end == signal.SIGINT:
        assert running.returncode == 130
        assert "results.jsonl.part" in said
        assert "Traceback" not in said
    script = (
        "import sys, atexit; from clipcls import cli\n"
        "from clipcls.models import open_clip_encoder as encoder\n"
        "encode, done = encoder.OpenClipEncoder.encode_images, []\n"
        "def count(self, pixels): done.append(len(pixels)); return encode(self, pixels)\n"
        "encoder.OpenClipEncoder.encode_images = count\n"
        "sys.argv = ['clipcls', *sys.argv[1:]]\n"
        "atexit.register(lambda: print(sum(done)))\n"
        "cli.main()"
    )
    again = subprocess.run([sys.executable, "-c", script, *command[3:]], capture_output=True)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout) <= count - len(reported)
    whole = records(out.read_text())
    assert [Path(r["path"]).name for r in whole] == [f"{n:04}.jpg" for n in range(count)]
    assert whole[: len(reported)] == reported


def test_search_by_text_and_by_image(clipcls, tmp_path: Path) -> None:
    common = ("search", "-m", "mini", "-f", "jsonl", "--cache", str(tmp_path / "s.db"))
    done = clipcls(*common, "-k", "3", "a cat", str(PHOTOS))
    assert done.returncode == 0, done.stderr
    hits = records(done.stdout)
    assert [h["rank"] for h in hits] == [1, 2, 3]
    assert "chelsea.jpg" in {Path(h["path"]).name for h in hits}
    by_image = clipcls(*common, "-k", "1", "--image", CHELSEA)
    assert records(by_image.stdout)[0]["path"].endswith("chelsea.jpg")
    assert records(by_image.stdout)[0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_several_labels(clipcls, tmp_path: Path) -> None:
    common = ("-m", "mini", "--labels", str(EXAMPLES / "labels.txt"))
    done = clipcls("tag", *common, "-f", "jsonl", str(PHOTOS))
    assert done.returncode == 0, done.stderr
    found = {Path(r["path"]).name: [c["label"] for c in r["labels"]] for r in records(done.stdout)}
    assert len(found) == 20
    assert "cat" in found["chelsea.jpg"]
    assert found["on-guard.jpg"] == ["dog"]
    done = clipcls("tag", *common, "-k", "2", "--min-score", "0", CHELSEA)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert (rows[0]["label"], len(rows)) == ("cat", 2)

    truth = tmp_path / "truth.csv"
    lines = [f"{photo},{'|'.join(found[photo.name])}" for photo in PHOTOS.glob("*")]
    truth.write_text("\n".join(["path,label", *lines]))
    metrics, page, file = (str(tmp_path / name) for name in ("f.json", "p.html", "c.json"))
    done = clipcls("evaluate", "--multi-label", *common, "-o", metrics, "--html", page, str(truth))
    assert done.returncode == 0, done.stderr
    measured = json.loads(Path(metrics).read_text())["metrics"]
    assert measured["f1_micro"]["value"] == measured["map_macro"]["value"] == 1
    assert "each scored on its own" in Path(page).read_text("utf-8")

    done = clipcls("calibrate", "--multi-label", *common, str(truth), "-o", file)
    assert done.returncode == 0, done.stderr
    assert "thresholds from 20 images" in done.stderr
    done = clipcls("evaluate", "--multi-label", *common, "--calibration", file, str(truth))
    assert "mAP, mean over labels" in done.stdout
    beside = ("--compare", f"calibration={file}", "--compare", "model=mini")
    done = clipcls("evaluate", "--multi-label", *common, *beside, str(truth))
    assert f"COMPARED: calibration={file}, on 20 images, 36 labels\n" in done.stdout
    done = clipcls("evaluate", "--multi-label", *common, *beside, "-f", "json", str(truth))
    calibrated, same = json.loads(done.stdout)["compare"]
    assert same["metrics"]["f1_micro"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert same["metrics"]["map_micro"]["p"] == 1
    assert (calibrated["images"], calibrated["labels"]) == (20, 36)
    after = json.loads(done.stdout)["metrics"]["f1_micro"]["value"]
    one = calibrated["metrics"]["f1_micro"]
    assert one["value"] - one["difference"]["value"] == pytest.approx(after, abs=1e-5)
    done = clipcls("classify", *common, "--calibration", file, CHELSEA)
    assert (done.returncode, "use it with `clipcls tag`" in done.stderr) == (2, True)


def test_cache_and_lists(clipcls_process, tmp_path: Path) -> None:
    cache = str(tmp_path / "s.db")
    assert "no cache yet" in clipcls_process("cache", "info", "--cache", cache).stdout
    clipcls_process("classify", "-m", "mini", "-l", "cat", "--cache", cache, CHELSEA)
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]  # it was closed
    assert "1 images" in clipcls_process("cache", "info", "--cache", cache).stdout
    assert "0 images forgotten" in clipcls_process("cache", "prune", "--cache", cache).stdout
    assert "deleted" in clipcls_process("cache", "clear", "--cache", cache).stdout
    assert not Path(cache).exists()
    assert "imagenet-7" in clipcls_process("prompts").stdout
    assert clipcls_process("prompts", "none").stdout == "{}\n"
    assert "mini" in clipcls_process("models").stdout


HEAVY = (
    *("numpy", "PIL", "faiss", "openvino", "openvino_telemetry", "huggingface_hub.utils"),
    *("torch", "torchvision", "open_clip", "timm", "transformers", "sklearn", "tqdm", "yaml"),
    *("scipy", "sentencepiece"),
)


def test_no_help_imports_what_is_heavy() -> None:
    script = (
        "import sys; from clipcls.cli import cli\n"
        "commands = cli.list_commands(None)\n"
        "for words in (['--version'], ['--help'], *([name, '--help'] for name in commands)):\n"
        "    cli(words, standalone_mode=False)\n"
        f"    found = [name for name in {HEAVY} if name in sys.modules]\n"
        "    assert not found, (words, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") > 10


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Photo and labels known; labels known, photo new; photo known, labels new.
        (("-l", "cat", "-l", "dog", CHELSEA), {"numpy", "PIL"}),
        (("-l", "cat", "-l", "dog", "{new}"), {"numpy", "PIL", "openvino"}),
        (("-l", "cat", "-l", "{word}", CHELSEA), {"numpy", "PIL", "openvino"}),
        (
            ("--cache", "{cache}", "-l", "cat", "-l", "dog", "{new}"),
            {"numpy", "PIL", "openvino"},
        ),
        (("tag", "-l", "cat", "-l", "dog", CHELSEA), {"numpy", "PIL"}),
        (
            (
                "-l",
                "cat",
                "-l",
                "dog",
                "--calibration",
                "{calibration}",
                "--coverage",
                "1",
                CHELSEA,
            ),
            {"numpy", "PIL"},
        ),
        (("classify", "--classifier", "{classifier}", CHELSEA), {"numpy", "PIL"}),
    ],
    ids=[
        "all known",
        "new photo",
        "new label",
        "new cache",
        "several labels",
        "calibrated",
        "learnt",
    ],
)
def test_what_each_path_imports(
    cache_home: Path, tmp_path: Path, clipcls_process, arguments, expected
) -> None:
    if any(argument.startswith("-l") for argument in arguments):
        command, options = ("tag", arguments[1:]) if "tag" in arguments else ("classify", arguments)
        known = ("-m", "mini", "-l", "cat", "-l", "dog", CHELSEA)
        assert clipcls_process(command, *known).returncode == 0
        arguments = (command, "-m", "mini", *options)
    if not openvino.is_supported() and "openvino" in expected:
        pytest.skip("without OpenVINO what is new needs torch")
    new = tmp_path / "new.jpg"
    new.write_bytes(Path(CHELSEA).read_bytes() + os.urandom(8))
    word = f"thing {os.urandom(4).hex()}"
    calibration = tmp_path / "c.json"
    if "{calibration}" in arguments:
        truth = tmp_path / "truth.csv"
        rows = [
            f"{photo},{'dog' if photo.stem == 'on-guard' else 'cat'}" for photo in PHOTOS.glob("*")
        ]
        truth.write_text("\n".join(["path,label", *rows]))
        options = ("-m", "mini", "-l", "cat", "-l", "dog", "-o", str(calibration))
        assert clipcls_process("calibrate", *options, str(truth)).returncode == 0
    classifier = tmp_path / "c.safetensors"
    if "{classifier}" in arguments:
        truth = tmp_path / "truth.csv"
        truth.write_text(f"path,label\n{CHELSEA},cat\n{PHOTOS / 'on-guard.jpg'},dog\n")
        assert (
            clipcls_process("fit", "-m", "mini", str(truth), "-o", str(classifier)).returncode == 0
        )
    script = (
        "import sys, atexit; from clipcls.cli import main\n"
        f"names = lambda: (name for name in {HEAVY} if name in sys.modules)\n"
        "atexit.register(lambda: print('IMPORTED', *names()))\n"
        "main()"
    )
    names = {"new": new, "word": word, "calibration": calibration, "classifier": classifier}
    names["cache"] = tmp_path / "new.sqlite3"
    filled = [part.format(**names) for part in arguments]
    done = subprocess.run(
        [sys.executable, "-c", script, *filled],
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home)},
        capture_output=True,
        text=True,
    )
    found = done.stdout.rpartition("IMPORTED")[2].split()
    assert set(found) == expected, done.stderr


def shell(command: str, cache_home: Path, **options) -> subprocess.CompletedProcess[str]:
    clipcls = f"{sys.executable} -m clipcls"
    return subprocess.run(
        ["bash", "-c", command.replace("CLIPCLS", clipcls)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache_home), "CHELSEA": CHELSEA},
        capture_output=True,
        text=True,
        **options,
    )


def test_closed_streams_and_readers_that_go(cache_home: Path) -> None:
    run = 'CLIPCLS classify -m mini -l cat -l dog -f jsonl "$CHELSEA" "$CHELSEA" "$CHELSEA"'
    assert shell(f"{run} <&-", cache_home).stdout.count("cat") > 3
    for closed in (f"{run} >&-", f"{run} 2>&-"):
        assert shell(closed, cache_home).returncode == 0
    gone = shell(f"set -o pipefail; {run} | true", cache_home)
    assert gone.returncode in (0, 141)  # 0: all was written before the reader went
    assert gone.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["prompts", "imagenet"],
        ["sort", "r.jsonl", "--into", "out", "--dry-run"],
        ["sort", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_has_its_exit_status(
    arguments: list[str], tmp_path: Path, cache_home: Path
) -> None:
    shutil.copy(CHELSEA, tmp_path / "a.jpg")
    (tmp_path / "r.jsonl").write_text('{"path": "a.jpg", "label": "cat"}\n')
    reader, end = os.pipe()
    os.close(reader)
    with os.fdopen(end, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "clipcls", *arguments],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(cache_home)},
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_stdout_is_utf8_whatever_the_locale(clipcls_process) -> None:
    done = clipcls_process(
        *("classify", "-m", "mini", "-l", "caf\xe9", "-l", "\u732b", "-f", "csv", CHELSEA),
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert "caf\xe9" in done.stdout or "\u732b" in done.stdout


def test_numbers_that_are_none_and_more_labels_than_there_are(clipcls) -> None:
    nan = clipcls("classify", "-m", "mini", "-l", "cat", "--min-score", "nan", CHELSEA)
    assert nan.returncode == 2
    many = clipcls(
        *(["classify", "-m", "mini", "-l", "cat", "-l", "dog", "-k", "9999", "-f", "csv"]), CHELSEA
    )
    assert many.stdout.splitlines()[0].count("label") == 2


def test_a_model_that_cannot_be_read_is_not_the_output_files_fault(clipcls, tmp_path: Path) -> None:
    shutil.copy(ROOT / "clipcls/mini/open_clip_config.json", tmp_path)
    (tmp_path / "open_clip_model.safetensors").mkdir()
    done = clipcls(
        *("classify", "-m", f"local-dir:{tmp_path}", "-l", "cat", "-o", str(tmp_path / "r.csv")),
        CHELSEA,
    )
    assert done.returncode == 2
    assert "open_clip_model.safetensors" in done.stderr
