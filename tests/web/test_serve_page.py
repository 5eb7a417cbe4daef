"""The page of `clipcls serve`, in a real browser."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from PIL import Image
from playwright.sync_api import FilePayload

from clipcls import MultiLabelClassifier, ZeroShotClassifier
from helpers.encoders import ColourEncoder
from helpers.servers import GREEN, RED, Server

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHOTOS = Path(__file__).parents[2] / "examples/photos"
HTML = "<img src=x onerror=\"document.title='run'\"> red"


def image(name: str, data: bytes = RED) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": data}


@pytest.fixture
def page(browser: Browser, encoder: ColourEncoder) -> Iterator[Page]:
    with Server(encoder) as server, server.listening() as (host, port):
        yield from opened(browser, f"http://{host}:{port}/")


def opened(
    browser: Browser, url: str, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Page]:
    """The page, and afterwards what it may not have done."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    page = context.new_page()
    said: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.add(request.url))
    page.goto(url)
    expect(page.locator("#made-by:not(:empty), #token-form:not([hidden])")).to_be_visible()
    yield page
    assert page.title() == "clipcls"
    assert [line for line in said if "401" not in line] == []  # a blocked script would be told
    assert all(address.startswith((url, "blob:", "data:")) for address in asked), asked
    context.close()


def test_images_get_bars(page: Page) -> None:
    assert page.input_value("#labels") == "red\ngreen\nblue"
    page.set_input_files("#files", [image("a.png"), image("b.png", GREEN), image("c.png", b"text")])
    expect(page.locator("#status")).to_have_text("3 of 3 classified")
    answers = page.locator("#results > li")
    assert answers.locator(".name").all_text_contents() == ["a.png", "b.png", "c.png"]
    assert answers.nth(0).locator(".bars li").first.locator("span").first.text_content() == "red"
    assert answers.nth(1).locator(".bars li").count() == 3
    assert answers.nth(2).locator(".bad").text_content() == "not an image"
    widths = [
        line.locator(".bar").evaluate("bar => bar.getBoundingClientRect().width")
        for line in answers.nth(0).locator(".bars li").all()
    ]
    assert widths[0] > 10 * widths[1]

    page.fill("#labels", "green\nred thing")
    page.focus("#labels")
    page.keyboard.press("Control+Enter")
    expect(answers.nth(1).locator(".bars span").first).to_have_text("green")
    expect(answers.nth(0).locator(".bars span").first).to_have_text("red thing")
    page.select_option("#top", "1")
    page.click("#question button")
    expect(page.locator(".bars li")).to_have_count(2)


def test_each_question_has_its_bars(browser: Browser, encoder: ColourEncoder) -> None:
    questions = {
        name: ZeroShotClassifier(labels, encoder, prompts=["{}"], cache=False).fit()
        for name, labels in {"shade <b>": ["red", "blue"], "colour": ["red", "green"]}.items()
    }
    words = ZeroShotClassifier(["green"], encoder, prompts=["{}"], cache=False)
    every: dict[str, Any] = {**questions, "tags": MultiLabelClassifier(words).fit()}
    with Server(encoder, questions=every) as server, server.listening() as (host, port):
        for page in opened(browser, f"http://{host}:{port}/"):
            note = page.text_content("#labels-note") or ""
            assert "2 labels for shade <b>, 2 labels for colour" in note
            assert page.input_value("#labels") == ""
            page.set_input_files("#files", [image("a.png"), image("c.png", b"text")])
            expect(page.locator("#status")).to_have_text("2 of 2 classified")
            answer = page.locator("#results > li").first
            assert answer.locator("h3").all_text_contents() == ["shade <b>", "colour", "tags"]
            assert answer.locator(".bars").count() == 2
            assert answer.locator(".quiet").text_content() == "none of its labels"
            assert page.locator("#results .bad").count() == 1
            page.fill("#labels", "green\nred thing")
            page.click("#question button")
            expect(answer.locator(".bars span").first).to_have_text("red thing")
            assert answer.locator("h3").count() == 0


def test_html_in_names_and_labels_is_text(page: Page) -> None:
    page.fill("#labels", f"{HTML}\ngreen")
    page.set_input_files("#files", [image(f"{HTML.replace('/', '')}.png")])
    page.wait_for_selector(".bars")
    assert page.locator(".bars li span").first.text_content() == HTML
    assert page.locator(".name").text_content() == f"{HTML}.png"
    assert page.locator("#results img").count() == 1  # the preview alone


def test_by_keyboard_alone(page: Page) -> None:
    seen = []
    for _ in range(7):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert seen[:5] == ["labels", "top", "BUTTON", "files", "BODY"]
    page.focus("#labels")
    page.keyboard.press("Shift+Tab")
    page.focus("#files")
    outline = "getComputedStyle(document.querySelector('#files + label')).outlineStyle"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(outline) == "solid"
    named = page.evaluate(
        "[...document.querySelectorAll('input, textarea, select')].every(e => e.labels.length)"
    )
    assert named


def test_text_has_contrast(browser: Browser, encoder: ColourEncoder) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, in both schemes."""
    with Server(encoder) as server, server.listening() as (host, port):
        for scheme in ("light", "dark"):
            for page in opened(browser, f"http://{host}:{port}/", scheme):
                page.set_input_files("#files", [image("a.png"), image("b.png", b"")])
                page.wait_for_selector(".bars")
                page.wait_for_selector("#results .bad")
                least = page.evaluate(CONTRAST)
                assert least[0] >= 4.5, (scheme, least)


CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  let least = [21, ""];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 80)];
  }
  return least;
}"""


def test_a_token_is_asked_for(browser: Browser, encoder: ColourEncoder) -> None:
    with (
        Server(encoder, token="a-very-long-token") as server,
        server.listening() as (host, port),
    ):
        for page in opened(browser, f"http://{host}:{port}/"):
            assert page.locator("#token-problem").is_hidden()
            page.fill("#token", "another-long-token")
            page.press("#token", "Enter")
            expect(page.locator("#token-problem")).to_have_text(re.compile("refused this token"))
            page.fill("#token", "a-very-long-token")
            page.keyboard.press("Enter")
            expect(page.locator("#labels")).to_have_value("red\ngreen\nblue")
            assert page.locator("#token-form").is_hidden()
            page.set_input_files("#files", [image("a.png")])
            page.wait_for_selector(".bars")


@pytest.mark.skipif("CLIPCLS_SCREENSHOTS" not in os.environ, reason="makes the docs' pictures")
def test_screenshot(browser: Browser) -> None:
    from clipcls.web.serve.app import make_app
    from clipcls.web.serve.service import Service

    labels = str(PHOTOS.parent / "labels.txt")
    service = Service({"": ZeroShotClassifier(labels, "mini", cache=False).fit()})
    server = Server.__new__(Server)
    server.service, server.app = service, make_app(service)
    with server, server.listening() as (host, port):
        for page in opened(browser, f"http://{host}:{port}/"):
            page.select_option("#top", "3")
            names = ("chelsea", "zoo", "eileen", "perth", "workbench", "summer-palace")
            page.set_input_files("#files", [str(PHOTOS / f"{name}.jpg") for name in names])
            expect(page.locator("#status")).to_have_text("6 of 6 classified", timeout=120_000)
            folder = Path(os.environ["CLIPCLS_SCREENSHOTS"])
            folder.mkdir(parents=True, exist_ok=True)
            page.set_viewport_size({"width": 1100, "height": 660})
            shot = Image.open(io.BytesIO(page.screenshot()))
            shot.quantize(128).save(folder / "serve.png", optimize=True)
            assert (folder / "serve.png").stat().st_size < 150_000
