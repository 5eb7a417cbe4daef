"""`clipcls completion`, and what a shell offers for labels, prompts, models and files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

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

_LISTS = (".txt", ".csv", ".tsv", ".yaml", ".yml", ".json")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands, options, files, label and template sets, models.

    \b
    To install it, for bash in ~/.bashrc, for zsh in ~/.zshrc, for fish once:
      eval "$(clipcls completion bash)"
      eval "$(clipcls completion zsh)"
      clipcls completion fish > ~/.config/fish/completions/clipcls.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root.command, {}, "clipcls", "_CLIPCLS_COMPLETE").source())


def complete_files(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files and folders, which the shell itself knows best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_label_sets(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ready label sets, and files."""
    from clipcls.ready import ready_sets

    return _names_or_files(ctx, param, incomplete, ready_sets("labels"))


def complete_template_sets(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ready template sets, and files."""
    from clipcls.ready import ready_sets

    return _names_or_files(ctx, param, incomplete, ready_sets("templates"))


def complete_sets(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Ready template sets and label sets."""
    from clipcls.ready import ready_sets

    return _matching([*ready_sets("templates"), *ready_sets("labels")], incomplete)


def complete_models(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Models that have a short name, by that and by their full name."""
    from clipcls.sources import model_names

    return _matching(model_names(), incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names_or_files(
    ctx: click.Context, param: click.Parameter, incomplete: str, names: Iterable[str]
) -> list[CompletionItem]:
    """Names with the lists of this folder, as bash takes either words or a request for files."""
    found = _matching(names, incomplete)
    if not found:
        return complete_files(ctx, param, incomplete)
    with os.scandir() as entries:
        lists = sorted(
            entry.name
            for entry in entries
            # Words are put on the command line as they are, without quotes.
            if entry.name.endswith(_LISTS) and re.fullmatch(r"\w[\w.,+-]*", entry.name)
        )
    return [*_matching(lists, incomplete), *found]
