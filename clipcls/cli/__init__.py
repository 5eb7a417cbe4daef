"""The command line, the only place that prints and exits."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from clipcls import __version__
from clipcls.cli.console import Console
from clipcls.errors import ClipclsError, OutputClosedError, OutputError, printable

# With their summaries, so that `clipcls --help` need not import them.
_COMMANDS = {
    "classify": "Give each image the label that fits best.",
    "tag": "Give each image all labels that fit, or none.",
    "evaluate": "Measure answers and scores on images whose labels are known.",
    "calibrate": "Learn from labelled images what a score means.",
    "report": "Make a page of the answers of `classify` to look through.",
    "review": "Correct the results of `classify` on a page in your browser.",
    "merge": "Put results together: the shards of one run, or runs on several folders.",
    "sort": "File images into one folder per label, or write keywords.",
    "fit": "Learn a classifier from labelled images, few or many.",
    "suggest": "Suggest labels for images that nobody has labelled.",
    "embed": "Write images' vectors to a file that other programs read.",
    "index": "Build an index of vectors, to search millions of images at once.",
    "search": "Find the images nearest to a text or to another image.",
    "serve": "Classify images over HTTP, with a page to try it on.",
    "models": "List models, download one, or print where it is.",
    "prompts": "List the template sets and label sets, or print the set NAME.",
    "cache": "Manage stored embeddings and exported models.",
    "config": "Show which settings apply, and where they come from.",
    "completion": "Print a shell script that completes commands and options.",
    "bench": "Measure where the time goes on this machine.",
}


@contextlib.contextmanager
def _translating_broken_pipes() -> Iterator[None]:
    """Otherwise click would exit with 1."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosedError(
            "standard output: the reading end of the pipe was closed"
        ) from error


class _Commands(click.Group):
    """Imports the module of a command only to run it or to show its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _translating_broken_pipes():  # --help and --version print here
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _translating_broken_pipes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"clipcls.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="clipcls")
@click.option("--no-config", is_flag=True, envvar="CLIPCLS_NO_CONFIG", help="Read no clipcls.toml.")
def cli(no_config: bool) -> None:
    """Classify images by your own labels with CLIP models, without training data.

    \b
    Exit status:
      0    all images were read, or all but as many as --max-errors allows
      1    some images could not be read: each is reported, the rest are classified
      2    nothing was done: bad usage, labels, prompts or model, or no readable image
      3    the results could not be written; complete ones are kept in FILE.part
      130  interrupted; the same command computes only what is not cached yet
      141  the reading end of the pipe was closed

    Every option can be set by a variable, such as CLIPCLS_MODEL=mini for all commands or
    CLIPCLS_CLASSIFY_TOP=3 for one, and in clipcls.toml: see `clipcls config --help`.
    """


def main() -> NoReturn:
    """Run `clipcls` and end the process; an error is one line on stderr, not a stack trace."""
    # NumPy reads it when it is imported. Otherwise the threads of its OpenBLAS spin for 2^26 cycles
    # after each product, on cores that decoding and the model need.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    _open_streams()
    console = Console()
    console.attach(logging.getLogger("clipcls"))
    if not os.environ.get("CLIPCLS_DEBUG"):
        _silence_libraries()
    _return_large_blocks()
    status = _run(console)
    if os.environ.get("CLIPCLS_DEBUG"):  # a profiler may continue
        sys.exit(status)
    # sys.exit would take modules and a model's memory apart, 60 ms with ViT-B-32.
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # _run has reported them
            stream.flush()
    os._exit(status)


def _return_large_blocks() -> None:
    """Have glibc return blocks of 4 MB and more to the system as soon as they are freed.

    It would learn to keep blocks of up to 32 MB per thread: with eight threads that decode large
    images the process held three times the memory in use.
    """
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD


def _open_streams() -> None:
    """Replace streams that are closed (cron, daemons); have stdout write every path."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def _silence_libraries() -> None:
    """Keep stderr for this program: remarks of libraries about odd files are not for its users.

    Python warnings become log records, and unhandled records are dropped. Most C libraries print to
    file descriptor 2 without a way to stop it, so it now leads nowhere, and `sys.stderr` gets
    another descriptor.
    """
    logging.captureWarnings(True)
    logging.getLogger().addHandler(logging.NullHandler())
    sys.unraisablehook = lambda _: None  # exceptions in destructors
    for library in ("HF_HUB", "TRANSFORMERS"):  # their loggers have handlers of their own
        os.environ.setdefault(f"{library}_VERBOSITY", "critical")
    if not isinstance(sys.stderr, io.TextIOWrapper):
        return
    with contextlib.suppress(OSError):
        if sys.stderr.fileno() != 2:
            return
        own = open(  # noqa: SIM115
            os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors
        )
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        sys.stderr = own
        if os.name != "nt":  # there it also reports exceptions that programs handle
            faulthandler.enable(own)  # else a crash in a library would go unreported


def _end_output() -> None:
    """Flush stdout; if that fails, let Python's own attempt at exit succeed."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # a stream without a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(console: Console) -> int:
    try:
        status = cli.main(standalone_mode=False, prog_name="clipcls", obj=console)
        sys.stdout.flush()
        return int(status or 0)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.UsageError as error:
        with io.StringIO() as text:
            error.show(text)
            shown = text.getvalue().replace(error.message, printable(error.message))
        click.echo(shown, err=True, nl=False)
        if origin := console.origin(error.message):
            console.say(origin)
        return 2
    except (click.Abort, KeyboardInterrupt):
        console.say("interrupted; the same command computes only what is not cached yet")
        return 130
    except OutputClosedError:
        _end_output()
        return 141
    except OutputError as error:
        _end_output()
        console.say(f"error: {error}")
        return 3
    except OSError as error:  # one with a name is about an input, one without about a stream
        console.say(f"error: {error.filename or 'output'}: {error.strerror or error}")
        if error.filename:
            return 2
        _end_output()
        return 3
    except ClipclsError as error:
        origin = console.origin(str(error))
        console.say(f"error: {error}" + (f" ({origin})" if origin else ""))
        return 2
    except Exception as error:
        if os.environ.get("CLIPCLS_DEBUG"):
            raise
        console.say(
            f"error: {type(error).__name__}: {error} (internal error, please report it; "
            "CLIPCLS_DEBUG=1 shows where)"
        )
        return 2
