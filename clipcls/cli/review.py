"""`clipcls review`."""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clipcls.cli.completion import complete_files, complete_label_sets, complete_template_sets
from clipcls.cli.console import Console
from clipcls.cli.options import FILE, NEW_FILE, cache_of, cache_options, join_prompts, model_options
from clipcls.predictions import Prediction, Result

if TYPE_CHECKING:
    from clipcls.classification.zero_shot import ZeroShotClassifier
    from clipcls.labels.label_set import LabelSet, LabelsLike
    from clipcls.predictions import Provenance

logger = logging.getLogger(__name__)


@click.command("review")
@click.argument("results", metavar="RESULTS", shell_complete=complete_files)
@click.option(
    "-o",
    "--output",
    type=NEW_FILE,
    help="The file of corrections (csv), new or to go on with; default: cat.corrections.csv for "
    "cat.jsonl, in the same folder.",
)
@click.option(
    "--labels",
    "label_source",
    metavar="FILE|NAME",
    shell_complete=complete_label_sets,
    help="The labels, as for `classify`; default: those that occur in RESULTS.",
)
@click.option(
    "--prompts",
    multiple=True,
    metavar="TEMPLATE|NAME|FILE",
    shell_complete=complete_template_sets,
    callback=join_prompts,
    help="Templates to learn with, as for `classify`; default: those of RESULTS.",
)
@click.option(
    "--root",
    type=FILE,
    default=".",
    metavar="DIR",
    help="The folder that `classify` ran in; default: this one.",
)
@click.option(
    "--no-model",
    is_flag=True,
    help="Order by the scores of RESULTS alone, and learn nothing.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: one that is free.")
@click.option("--no-browser", is_flag=True, help="Only print the link of the page.")
@model_options
@cache_options
@click.pass_obj
def command(
    console: Console,
    /,
    results: str,
    output: Path | None,
    label_source: str | None,
    prompts: str | list[str] | None,
    root: Path,
    no_model: bool,
    port: int,
    no_browser: bool,
    cache_file: Path | None,
    no_cache: bool,
    **model_settings: Any,
) -> int:
    """Correct the results of `classify` on a page in your browser.

    The images that teach most come first; one key gives a label. Each label is saved at once in the
    file of corrections, which `fit`, `evaluate` and `calibrate` read; the page can learn from it
    too. Finish, or Ctrl-C, ends the review and writes the reviewed table (cat.reviewed.csv), which
    holds your label where you gave one and the answer elsewhere; `sort`, `report` and `evaluate`
    read it. The same command goes on where it stopped. Nobody else can open the page.

    \b
    Examples:
      clipcls classify --labels labels.txt --top 3 -o cat.jsonl photos/
      clipcls review cat.jsonl --labels labels.txt
      clipcls sort cat.reviewed.csv --into sorted/
      clipcls fit cat.corrections.csv --labels labels.txt -o cat.safetensors
    """
    from clipcls.errors import printable
    from clipcls.labels.label_set import log_warnings, read_labels
    from clipcls.output.reader import read_results
    from clipcls.web.local_server import Guard, OneTimeLink
    from clipcls.web.review.annotations import Corrections
    from clipcls.web.review.app import ReviewApp
    from clipcls.web.review.session import NO_LABEL, Review, ReviewFiles
    from clipcls.web.run import run

    found = read_results(results, root)
    labels = read_labels(label_source) if label_source else None
    if labels:
        log_warnings(labels)
    files = ReviewFiles.of("results" if results == "-" else results, output)
    files.refuse_foreign_table()
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
        opener = None
        made_by = find_provenance(found)
        templates = prompts or ("photo" if no_model else find_templates(made_by))
        if not no_model:
            context = click.get_current_context()
            if context.get_parameter_source("model") == ParameterSource.DEFAULT:
                model_settings["model"] = None
            opener = _opener(
                found,
                labels or review.labels[:],
                templates,
                cache_file,
                no_cache,
                model_settings,
            )

        def next_commands() -> list[str]:
            """File the images; then learn from the corrections, or look at the answers."""
            commands = [["sort", str(files.table), "--into", "sorted"]]
            if no_model or made_by is None or len({*review.done().values()} - {NO_LABEL}) < 2:
                commands.append(["report", str(files.table), "-o", str(files.page)])
            else:
                fit = ["fit", str(files.corrections), "-m", made_by.model]
                fit += ["--labels", label_source] if label_source not in (None, "-") else []
                for template in [templates] if isinstance(templates, str) else templates:
                    fit += ["--prompts", template] if template != "photo" else []
                given = {review.name(n) for n in review.done().values() if n != NO_LABEL}
                for name in sorted(given - {*labels.names}) if labels else []:
                    fit += ["--no-words", name]  # a label that the person added
                commands.append([*fit, "-o", str(files.classifier)])
            return [shlex.join(["clipcls", *command]) for command in commands]

        app = ReviewApp(
            review,
            files,
            open_classifier=opener,
            next_commands=next_commands,
            title="stdin" if results == "-" else Path(results).name,
        )
        access = OneTimeLink()

        def ready(url: str) -> None:
            link = access.link(url)
            console.say(f"{link} (once, in one browser; Ctrl-C ends)")
            app.start()
            if not no_browser:  # in a thread: one in the terminal would hold the server up
                threading.Thread(target=show, args=(link,), daemon=True).start()

        def show(link: str) -> None:
            import webbrowser

            if not webbrowser.open(link):
                console.say("no browser could be opened: follow the link")

        try:
            run(Guard(app.asgi(), access=access), ready=ready, port=port)
        finally:
            app.stop()
        done = len(review.done())
        console.say(f"{files.corrections}: {done:,} of {len(review.order):,} images have a label")
        if done:
            review.write_table(files.table)
            console.say(f"{files.table}: your labels, and the answers elsewhere; next:")
            for line in next_commands():
                click.echo(printable(f"  {line}"), err=True)  # to be copied: no prefix
    return 0


def find_provenance(results: Iterable[Result]) -> Provenance | None:
    """What made the results: the first of them that says so."""
    return next((r.provenance for r in results if isinstance(r, Prediction) and r.provenance), None)


def find_templates(made_by: Provenance | None) -> str:
    """The templates that made the results; `photo` where the results do not hold them."""
    from clipcls.errors import PromptsError
    from clipcls.labels.prompts import make_prompts

    if made_by is None:
        return "photo"
    try:
        make_prompts(made_by.prompts)
    except PromptsError:
        logger.warning(
            "the templates of the results (%s) cannot be found here, so learning uses `photo`; "
            "give them with --prompts",
            made_by.prompts,
        )
        return "photo"
    return made_by.prompts


def _opener(
    results: tuple[Result, ...],
    labels: LabelSet | list[str],
    templates: str | list[str],
    cache_file: Path | None,
    no_cache: bool,
    settings: dict[str, Any],
) -> Callable[[], ZeroShotClassifier]:
    """Opens the model that made the results, unless another is named."""
    made_by = find_provenance(results)
    cache = cache_of(cache_file, no_cache) or False

    def opener() -> ZeroShotClassifier:
        from clipcls.classification.zero_shot import ZeroShotClassifier
        from clipcls.labels.label_set import Label, make_labels

        known: LabelsLike = labels
        if isinstance(labels, list):
            known = make_labels(labels)
            # Where the results hold one of two cranes, `bird > crane` would come back as `crane`.
            if list(known.names) != labels:
                known = [Label(name) for name in labels]
        model = settings.pop("model") or (made_by.model if made_by else "auto")
        classifier = ZeroShotClassifier(
            known, model, prompts=templates, cache=cache, **settings
        ).fit()
        if made_by and not classifier.encoder_.weights.startswith(made_by.weights):
            logger.warning(
                "the results are of another model (weights %s) than %s", made_by.weights, model
            )
        return classifier

    return opener
