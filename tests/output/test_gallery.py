"""The page of results: what is in the file, and what it does in a real browser."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from PIL import Image

from clipcls.errors import ImageError
from clipcls.output import gallery
from clipcls.output.writing import open_output
from clipcls.predictions import (
    Candidate,
    Prediction,
    Provenance,
    Result,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

Paint = Callable[..., str]
EXAMPLES = Path(__file__).parents[2] / "examples"
MADE_BY = Provenance("mini", "0123456789ab", "fp32", "photo")
EVIL = '</script><img src=x onerror="document.title=1"><b>&amp;'


def answer(path: str, label: str, score: float, **more) -> Prediction:
    best = "cat" if label == "unknown" else label
    top = (Candidate(best, score, 0.3), Candidate("tree", (1 - score) / 2, 0.1))
    return Prediction(path, label, top, MADE_BY, **more)


def page_of(path: Path, *results: Result) -> Path:
    with open_output(path, "html") as writer:
        for result in results:
            writer.write(result)
    return path


def data(page: Path, kind: str = "records") -> list:
    blocks = re.findall(
        rf'<script type="application/json" class="{kind}">(.*?)</script>', page.read_text()
    )
    return [item for block in blocks for item in json.loads(block)]


class Opener:
    """Opens a page from its file, and hears what it complains of or asks the network for."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.trouble: list[str] = []

    def __call__(self, path: Path, colours: Literal["light", "dark"] = "light") -> Page:
        page = self.context.new_page()
        page.emulate_media(color_scheme=colours)
        page.on("console", lambda message: self.trouble.append(message.text))
        page.on("pageerror", lambda error: self.trouble.append(str(error)))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("main:not([hidden])")
        return page

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.trouble.append(url)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    context = browser.new_context(viewport={"width": 1000, "height": 800}, offline=True)
    opener = Opener(context)
    yield opener
    context.close()
    assert not opener.trouble


def until(page: Page, condition: str) -> None:
    """Waits; `Page.wait_for_function` would need a policy that allows eval."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"still not: {condition}")


def paths(page: Page) -> list[str]:
    """The images that are drawn, in their order."""
    return page.eval_on_selector_all(".tile", "tiles => tiles.map(tile => tile.title)")


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.title")


# -- the file


def test_the_file_is_whole_and_inert(paint: Paint, tmp_path: Path) -> None:
    page = page_of(
        tmp_path / "r.html",
        answer(paint("a.png", "red", size=300), EVIL, 0.9, label_set=("cat", EVIL)),
        answer(str(tmp_path / "gone.png"), "cat", 0.5),
        ImageError(EVIL, "truncated"),
        Prediction("b.png", "unknown", (Candidate("cat", 0.1, 0.2),), MADE_BY, labels=()),
    )
    text = page.read_text()
    assert EVIL not in text
    assert "<img src=x" not in text
    assert text.count("</script>") == text.count("<script") == 1 + 1 + 3 + 1
    assert "default-src 'none'" in text
    assert "unsafe" not in text
    first, gone, bad, unknown = data(page)
    assert first["labels"] == [[EVIL, 0.9]]
    assert first["link"] == "./a.png"
    assert first["set"] == ["cat", EVIL]
    assert (gone["gone"], "link" in gone) == ("no such file", False)
    assert bad == {"path": EVIL, "error": "truncated"}
    assert unknown["labels"] == [["unknown", 0.1]]
    assert unknown["top"] == [["cat", 0.1]]
    assert text.endswith("</html>\n")


def test_it_is_written_as_the_records_come(paint: Paint, tmp_path: Path) -> None:
    path, part = paint("a.png", "red"), tmp_path / "r.html.part"
    with contextlib.suppress(KeyboardInterrupt), open_output(tmp_path / "r.html", "html") as w:
        for n in range(3 * 64 + 5):
            w.write(answer(path, "cat", n / 1000))
        assert len(data(part)) == 3 * 64
        raise KeyboardInterrupt
    assert len(data(part)) == 3 * 64 + 5, "what an interrupted run leaves is a page too"


def test_levels_and_labels_of_old_files(paint: Paint, tmp_path: Path) -> None:
    name = paint("a.png", "red")
    page = page_of(
        tmp_path / "r.html",
        answer(name, "pug", 0.9, lineages=(("animal", "a > b", "pug"),)),
        Prediction(name, "cat", (), None),
    )
    levels, scoreless = data(page)
    assert levels["labels"] == [["animal > a \\> b > pug", 0.9]]
    assert (scoreless["labels"], scoreless["top"]) == ([["cat", None]], [])


def test_links_lead_from_the_page_to_the_images(paint: Paint, tmp_path: Path) -> None:
    paint("photos/a:b #1%.png", "red")
    (tmp_path / "pages").mkdir()
    with (tmp_path / "pages/r.html").open("w") as stream:
        writer = gallery.GalleryWriter(stream, root=tmp_path / "photos", title="<i>x")
        writer.write(answer("a:b #1%.png", "cat", 0.5))
        writer.finish()
    assert data(tmp_path / "pages/r.html")[0]["link"] == "./../photos/a%3Ab%20%231%25.png"
    assert "<title>clipcls: &lt;i&gt;x</title>" in (tmp_path / "pages/r.html").read_text()
    assert (writer.shown, writer.gone) == (1, 0)


def report(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", "report", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_command(paint: Paint, tmp_path: Path) -> None:
    paint("photos/a.png", "red")
    rows = [answer("a.png", "cat", 0.5), answer("gone.png", "cat", 0.4)]
    results = tmp_path / "r.jsonl"
    results.write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows))
    done = report("r.jsonl", "-o", "r.html", "--root", "photos", "--title", "A day", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.startswith("clipcls: 2 images, 1 without a picture, 0.0 MB")
    assert "<h1>A day</h1>" in (tmp_path / "r.html").read_text()
    done = report("r.jsonl", "-o", "r.html", cwd=tmp_path)
    assert (done.returncode, "--root" in done.stderr) == (1, True)
    for arguments, message in [
        (["none.jsonl", "-o", "r.html"], "none.jsonl: cannot be read"),
        (["r.html", "-o", "x.html"], "is a web page"),
        (["r.jsonl", "-o", "nowhere/r.html"], "the folder nowhere is missing"),
        (["r.jsonl", "-o", "./r.jsonl"], "would be overwritten"),
    ]:
        done = report(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


# -- in the browser


@pytest.fixture
def small(paint: Paint, tmp_path: Path) -> Path:
    colours = ["red", "green", "blue", "yellow"]
    made = [paint(f"photos/{n}.png", colours[n % 4], size=20) for n in range(8)]
    rows = [answer(p, "cat" if n < 5 else "dog", (n * 3 % 8) / 10) for n, p in enumerate(made)]
    rows.append(answer(paint("photos/none.png", "red"), "unknown", 0.15))
    rows.append(
        Prediction(
            paint("photos/both.png", "red"),
            "dog",
            (Candidate("dog", 0.95, 0.3),),
            MADE_BY,
            labels=(Candidate("dog", 0.95, 0.3), Candidate("cat", 0.05, 0.2)),
        )
    )
    return page_of(tmp_path / "r.html", *rows, ImageError("bad.png", "truncated"))


def test_counts_and_the_doubtful_first(opened: Opener, small: Path) -> None:
    page = opened(small)
    said = page.inner_text("#summary")
    assert said.startswith("10 images, 2 labels, 1 unknown, 1 could not be read; model mini (")
    assert page.eval_on_selector_all("#labels tr", "rows => rows.map(r => r.innerText)") == [
        "cat\t6\t0.24",
        "dog\t4\t0.59",
        "unknown\t1\t0.15",
    ]
    assert page.eval_on_selector_all("h3", "all => all.map(h => h.innerText)") == [
        "cat · 6",
        "dog · 4",
        "unknown · 1",
    ]
    names = [Path(path).stem for path in paths(page)]
    # Scores of 0 to 7 are 0, .3, .6, .1, .4, .7, .2, .5.
    assert names == ["0", "both", "3", "1", "4", "2", "6", "7", "5", "both", "none"]
    page.select_option("#order", "sure")
    page.uncheck("#grouped")
    until(page, "document.querySelector('.tile').title.endsWith('both.png')")
    assert [Path(path).stem for path in paths(page)][:3] == ["both", "5", "2"]
    assert page.eval_on_selector(".tile img", "image => image.naturalWidth") == 8
    assert page.inner_text("#failures summary") == "1 could not be read"
    page.click("#failures summary")
    assert page.inner_text("#failures li") == "bad.png: truncated"


def test_filters(opened: Opener, small: Path) -> None:
    page = opened(small)

    def left(count: str) -> list[str]:
        until(page, f"document.querySelector('#count').textContent === '{count}'")
        return sorted(Path(path).stem for path in paths(page))

    page.select_option("#label", label="dog (4)")
    assert left("4 of 10 images") == ["5", "6", "7", "both"]
    page.fill("#from", "0.3")
    assert left("3 of 10 images") == ["5", "7", "both"]
    page.fill("#to", "0.6")
    assert left("1 of 10 images") == ["7"]
    assert page.inner_text("#labels tr >> nth=0").startswith("cat\t3"), "counts follow the scores"
    page.click("text=show all")
    left("10 of 10 images")
    page.keyboard.press("/")
    page.keyboard.type("BOTH")
    assert left("1 of 10 images") == ["both", "both"]
    page.fill("#text", "nothing like it")
    assert left("0 of 10 images") == []
    page.keyboard.press("ArrowDown")
    page.fill("#text", "")
    left("10 of 10 images")
    page.click("#labels button >> text=unknown")
    assert left("1 of 10 images") == ["none"]
    assert page.get_attribute("#labels button >> text=unknown", "aria-pressed") == "true"
    page.click("#labels button >> text=unknown")
    left("10 of 10 images")
    page.click("#histogram rect >> nth=8")  # from 0.4 to 0.45
    assert left("1 of 10 images") == ["4"]


def test_the_keyboard(opened: Opener, small: Path) -> None:
    page = opened(small)
    page.uncheck("#grouped")
    until(page, "!document.querySelector('h3')")
    order = paths(page)
    assert page.eval_on_selector_all(".tile[tabindex='0']", "t => t.length") == 1
    page.focus(".tile[tabindex='0']")
    columns = page.eval_on_selector(".row", "row => row.children.length")
    assert columns == 5
    for key, at in [
        ("ArrowRight", 1),
        ("ArrowDown", 6),
        ("ArrowLeft", 5),
        ("ArrowUp", 0),
        ("ArrowUp", 0),
        ("ArrowLeft", 0),
        ("End", 10),
        ("ArrowRight", 10),
        ("ArrowUp", 5),
        ("PageDown", 10),
        ("Home", 0),
        ("ArrowRight", 1),
    ]:
        page.keyboard.press(key)
        assert focused(page) == order[at], key
    page.keyboard.press("Enter")
    page.wait_for_selector("#large[open]")
    assert page.inner_text("#large-name") == order[1]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-name") == order[2]
    assert page.inner_text("#about").startswith("answer\n")
    # The photo itself takes the place of the small one.
    until(page, "document.querySelector('#large img').src.startsWith('file:')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#large:not([open])", state="attached")
    until(page, "document.activeElement.className === 'tile'")
    assert focused(page) == order[2]


def test_a_photo_that_is_gone_shows_its_thumbnail(opened: Opener, small: Path) -> None:
    (small.parent / "photos/0.png").unlink()
    page = opened(small)
    page.click(".tile >> nth=0")
    page.wait_for_selector("#large[open]")
    until(page, "document.querySelector('#large img').src.startsWith('data:')")
    page.wait_for_timeout(200)  # for the file, which is not there
    assert page.eval_on_selector("#large img", "i => i.src.startsWith('data:') && i.naturalWidth")
    assert opened.trouble.pop().endswith("net::ERR_FILE_NOT_FOUND")


def test_html_in_names_and_labels_stays_text(opened: Opener, paint: Paint, tmp_path: Path) -> None:
    name = paint("<img src=x onerror=alert(1)>.png", "red")
    page = opened(page_of(tmp_path / "r.html", answer(name, EVIL, 0.4), answer(EVIL, EVIL, 0.6)))
    page.on("dialog", lambda dialog: pytest.fail("a script ran"))
    assert page.inner_text("#labels button") == EVIL
    page.click(".tile >> nth=0")
    assert page.inner_text("#large-name") == name
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#large-name") == EVIL
    assert page.title() == "clipcls: Results"
    # The policy holds: neither a script nor an address that somebody put in would do anything.
    assert page.evaluate(
        """() => new Promise(done => {
            document.addEventListener("securitypolicyviolation", e => done(e.effectiveDirective));
            const script = document.createElement("script");
            script.textContent = "document.title = 'ran'";
            document.body.append(script);
        })"""
    ).startswith("script-src")
    assert page.title() == "clipcls: Results"
    assert "Content Security Policy" in opened.trouble.pop()


def test_ten_thousand_images_open_and_scroll(opened: Opener, paint: Paint, tmp_path: Path) -> None:
    first = paint("photos/0.png", "red")
    rows = []
    for n in range(10_000):
        path = tmp_path / f"photos/{n}.png"
        if n:
            os.link(first, path)
        rows.append(answer(str(path), f"label {n % 7}", (n * 7919 % 10_000) / 10_000))
    page = opened(page_of(tmp_path / "r.html", *rows))
    assert page.inner_text("#count") == "10,000 of 10,000 images"
    assert len(paths(page)) < 100, "only what is seen is drawn"
    page.evaluate("window.scrollTo(0, document.body.scrollHeight / 2)")
    until(page, "scrollY > 10000 && document.querySelectorAll('.tile').length > 10")
    middle = page.evaluate("document.elementFromPoint(80, 500).closest('.tile')?.title")
    page.mouse.wheel(0, 1000)
    until(
        page, f"document.elementFromPoint(80, 500).closest('.tile')?.title !== {json.dumps(middle)}"
    )
    assert len(paths(page)) < 100
    page.focus(".tile[tabindex='0']")
    page.keyboard.press("End")
    last = max((row.score, row.path) for row in rows if row.label == "label 6")[1]
    assert focused(page) == last
    assert page.evaluate("document.activeElement.getBoundingClientRect().bottom <= innerHeight"), (
        "what has the focus is seen"
    )
    page.fill("#text", "/123")
    until(page, "document.querySelector('#count').textContent.startsWith('11 of')")
    top = page.evaluate("document.querySelector('.tile').getBoundingClientRect().top")
    assert 0 < top < 400, "the first of what was found is seen"


def test_it_is_for_light_and_dark_and_looks_as_in_the_docs(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES)
    path = tmp_path / "r.html"
    subprocess.run(
        [
            *(sys.executable, "-m", "clipcls", "classify", "-m", "mini", "--top", "5", "-q"),
            *("--labels", "labels.txt", "-o", path, "photos"),
        ],
        check=True,
    )
    brightness = []
    for colours in ("light", "dark"):
        page = opened(path, colours)
        page.uncheck("#grouped")  # 20 labels, an image each
        until(page, "[...document.images].every(image => image.complete)")
        body = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(map(int, re.findall(r"\d+", body))))
        folder = os.environ.get("CLIPCLS_SCREENSHOTS")
        if folder and colours == "light":
            shot = Image.open(io.BytesIO(page.screenshot()))
            shot.quantize(96).save(EXAMPLES.parent / folder / "report.png", optimize=True)
    assert brightness[0] > 700 > 150 > brightness[1]
