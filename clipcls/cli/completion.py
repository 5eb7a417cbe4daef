"""`clipcls completion`, and the completers of labels, prompts, models and files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import click

from clipcls.cli import groups
from clipcls.cli.console import Console

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "command",
    "complete_files",
    "complete_label_sets",
    "complete_models",
    "complete_sets",
    "complete_template_sets",
]

Completer: TypeAlias = "Callable[[click.Context, click.Parameter, str], list[CompletionItem]]"


@groups.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(_console: Console, shell: str) -> int:
    """Print a shell script that completes commands and options.

    \b
    Tab then also completes files, label sets, template sets and models. To install it:
      bash  add to ~/.bashrc:  eval "$(clipcls completion bash)"
      zsh   add to ~/.zshrc, below compinit:  eval "$(clipcls completion zsh)"
      fish  run once:  clipcls completion fish > ~/.config/fish/completions/clipcls.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "clipcls", "_CLIPCLS_COMPLETE").source())
    return 0


def _make_completer(names: Callable[[], Iterable[str]], *, or_files: bool = False) -> Completer:
    """A completer of names; with `or_files`, of files where no name fits."""

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [name for name in names() if name.startswith(incomplete)]
        if or_files and not found:  # the shell itself knows files best
            return [CompletionItem(incomplete, type="file")]
        if or_files:  # bash takes either words or a request for files
            found = [name for name in _find_lists() if name.startswith(incomplete)] + found
        return [CompletionItem(name) for name in found]

    return complete


def _find_lists() -> list[str]:
    """Lists in the current folder whose names need no quotes, which words do not get."""
    with contextlib.suppress(OSError):
        plain = re.compile(r"\w[\w.,+-]*\.(txt|csv|tsv|yaml|yml|json)")
        return sorted(name for name in os.listdir() if plain.fullmatch(name))
    return []


def _ready_sets(*kinds: Literal["labels", "templates"]) -> list[str]:
    from clipcls.labels.presets import list_sets

    return [name for kind in kinds for name in list_sets(kind)]


def _model_names() -> Iterable[str]:
    from clipcls.models.aliases import model_names

    return model_names()


complete_files = _make_completer(tuple, or_files=True)
complete_label_sets = _make_completer(partial(_ready_sets, "labels"), or_files=True)
complete_template_sets = _make_completer(partial(_ready_sets, "templates"), or_files=True)
complete_sets = _make_completer(partial(_ready_sets, "templates", "labels"))
complete_models = _make_completer(_model_names)
