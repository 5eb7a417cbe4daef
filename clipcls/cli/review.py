"""`clipcls review`."""

from __future__ import annotations

import logging
import shlex
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipcls.cli import groups
from clipcls.cli.console import Console
from clipcls.cli.groups import option
from clipcls.cli.label_settings import choose_question, labels_option, prompts_option
from clipcls.cli.options import ModelSettings, question_option, results_argument, root_option
from clipcls.cli.param_types import NEW_FILE
from clipcls.predictions import UNKNOWN, Prediction
from clipcls.questions import check_names

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.labels.label_set import LabelSet
    from clipcls.predictions import Provenance
    from clipcls.web.review.app import ReviewApp

logger = logging.getLogger(__name__)

_ENOUGH = 4  # images per label; docs/evidence/learning.md


@dataclass(frozen=True)
class _Learning(groups.Settings):
    section = "Labels and learning"

    labels: Any = labels_option(
        "The labels, as for `classify`; default: those that occur in RESULTS."
    )
    prompts: str | list[str] | None = prompts_option(
        "Templates to learn with, as for `classify`; default: those of RESULTS."
    )
    no_model: bool = option(help="Order by the scores of RESULTS alone, and learn nothing.")


@dataclass(frozen=True)
class _Page(groups.Settings):
    section = "Page"

    port: int = option(
        type=click.IntRange(0, 65535), default=0, metavar="N", help="The port; default: a free one."
    )
    no_browser: bool = option(help="Only print the page's link; open no browser.")


@groups.command("review")
@results_argument
@click.option(
    "-o",
    "--output",
    type=NEW_FILE,
    help="The file of corrections (csv); an existing one is resumed. Default: cat.corrections.csv "
    "for cat.jsonl, in the same folder.",
)
@question_option
@root_option
def command(
    console: Console,
    results: str,
    output: Path | None,
    question: str | None,
    root: Path,
    learning: _Learning,
    page: _Page,
    model: ModelSettings,
) -> int:
    """Correct the results of `classify` on a page in your browser.

    The images that teach most come first; one key gives a label. Each label is saved at once in the
    file of corrections, which `fit`, `evaluate` and `calibrate` read; the page can learn from it
    too. Finish, or Ctrl-C, ends the review and writes the reviewed table (cat.reviewed.csv): your
    labels, and the answers for all other images. `sort`, `report` and `evaluate` read it. The same
    command resumes a review. Nobody else can open the page.

    \b
    Examples:
      clipcls classify --labels labels.txt --top 3 -o cat.jsonl photos/
      clipcls review cat.jsonl --labels labels.txt
      clipcls review shop.csv --labels colour=colours.txt
      clipcls sort cat.reviewed.csv --into sorted/
      clipcls fit cat.corrections.csv --labels labels.txt -o cat.safetensors
    """
    from clipcls.errors import printable, require_extra
    from clipcls.output.reader import read_results
    from clipcls.web.review.annotations import Corrections
    from clipcls.web.review.files import ReviewFiles
    from clipcls.web.review.session import Review

    with require_extra("review", "review"):
        import uvicorn  # noqa: F401

        from clipcls.web.review.app import ReviewApp

    named, chosen = choose_question(learning, question)
    (asked,) = check_names([question or named]) if question or named else ("",)
    found = read_results(results, root, asked or None)
    title = "stdin" if results == "-" else Path(results).name
    title += f": {asked}" if asked else ""
    labels: LabelSet | None = chosen.labels
    files = ReviewFiles.for_results("results" if results == "-" else results, output, asked)
    files.refuse_foreign_table()
    known = (r.provenance for r in found if isinstance(r, Prediction) and r.provenance)
    provenance = next(known, None)
    templates = learning.prompts or (None if learning.no_model else find_templates(provenance))
    with Corrections(files.corrections) as corrections:
        review = Review(
            found,
            corrections,
            labels=labels.names if labels else (),
            lineages={n: label.path for n, label in zip(labels.names, labels, strict=True)}
            if labels
            else None,
            root=root,
        )

        def next_commands() -> list[str]:
            """File the images; then learn from the corrections, or look at the answers."""
            labelled = {*review.done().values()} - {UNKNOWN}
            if learning.no_model or provenance is None or len(labelled) < 2:
                then = ["report", str(files.table), "-o", str(files.page)]
            else:
                then = ["fit", str(files.corrections), "-m", provenance.model]
                file = (learning.labels or {}).get(named) or (learning.labels or {}).get("")
                if file not in (None, "-"):
                    then += ["--labels", f"{named}={file}" if named else file]
                for template in [templates] if isinstance(templates, str) else templates or ():
                    then += ["--prompts", template]
                for name in sorted(labelled - {*labels.names}) if labels else []:
                    then += ["--no-words", name]  # a label that the person added
                then += ["-o", str(files.classifier)]
            sort = ["sort", str(files.table), "--into", "sorted"]
            return [shlex.join(["clipcls", *words]) for words in (sort, then)]

        opener = None
        if not learning.no_model:
            opener = _make_opener(labels or review.labels[:], templates, provenance, model)
        app = ReviewApp(
            review, files, open_classifier=opener, next_commands=next_commands, title=title
        )
        _run(console, app, page)
        done = len(review.done())
        console.say(f"{files.corrections}: {done:,} of {len(review.order):,} images have a label")
        counts = Counter(review.done().values())
        few = sum(counts[label] < _ENOUGH for label in review.labels)
        if few > 0 and done < len(review.order):
            console.remark(
                f"the first {_ENOUGH} images per label teach most, and {few:,} of "
                f"{len(review.labels):,} labels have fewer"
            )
        if done:
            review.write_table(files.table)
            console.say(f"{files.table}: your labels, and the answers elsewhere; next:")
            for line in next_commands():
                click.echo(printable(f"  {line}"), err=True)  # to be copied: no prefix
    return 0


def _run(console: Console, app: ReviewApp, page: _Page) -> None:
    """Serve the page until the review is finished, or Ctrl-C."""
    from clipcls.web.connections import run
    from clipcls.web.local_server import Guard, OneTimeLink

    access = OneTimeLink()

    def ready(url: str) -> None:
        link = access.link(url)
        console.say(f"{link} (once, in one browser; Ctrl-C ends)")
        app.start()
        if not page.no_browser:  # in a thread: a browser in the terminal would block the server
            threading.Thread(target=show, args=(link,), daemon=True).start()

    def show(link: str) -> None:
        import webbrowser

        if not webbrowser.open(link):
            console.say("no browser could be opened: follow the link")

    try:
        run(Guard(app.asgi(), access=access), ready=ready, port=page.port)
    finally:
        app.stop()


def find_templates(provenance: Provenance | None) -> str | None:
    """The templates that made the results; None for the model's default, and if they are lost."""
    from clipcls.errors import PromptsError
    from clipcls.labels.prompts import choose_prompts, make_prompts

    if provenance is None or provenance.prompts == choose_prompts(provenance.model).name:
        return None
    try:
        make_prompts(provenance.prompts)
    except PromptsError:
        logger.warning(
            "the templates of the results (%s) cannot be found here, so learning uses the "
            "model's default; give them with --prompts",
            provenance.prompts,
        )
        return None
    return provenance.prompts


def _make_opener(
    labels: LabelSet | list[str],
    templates: str | list[str] | None,
    provenance: Provenance | None,
    settings: ModelSettings,
) -> Callable[[], ZeroShotClassifier]:
    """Make what opens the model that made the results, unless another is named."""
    arguments = settings.make_arguments()
    if provenance and arguments["model"] == "auto":
        arguments["model"] = provenance.model

    def opener() -> ZeroShotClassifier:
        from clipcls.classification.zero_shot import ZeroShotClassifier
        from clipcls.labels.label_set import Label, make_labels

        known = make_labels(labels)
        # If the results hold only one of two cranes, `bird > crane` would come back as `crane`.
        if isinstance(labels, list) and list(known.names) != labels:
            known = make_labels([Label(name) for name in labels])
        classifier = ZeroShotClassifier(known, prompts=templates, **arguments).fit()
        if provenance and not classifier.encoder_.weights.startswith(provenance.weights):
            logger.warning(
                "the results are from another model (weights %s) than %s",
                provenance.weights,
                arguments["model"],
            )
        return classifier

    return opener
