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

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "clipcls", "_CLIPCLS_COMPLETE").source())
    return 0


def _make_completer(list_names: Callable[[], Iterable[str]], *, or_files: bool) -> Completer:
    """A completer of names; with `or_files`, of files if no name fits."""

    def complete(
        _context: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found = [name for name in list_names() if name.startswith(incomplete)]
        if or_files and not found:  # the shell itself knows files best
            return [CompletionItem(incomplete, type="file")]
        if or_files:  # bash takes either words or a request for files
            found = [name for name in _find_lists() if name.startswith(incomplete)] + found
        return [CompletionItem(name) for name in found]

    return complete


def _find_lists() -> list[str]:
    """Lists in the current folder whose names need no quotes, which bash would not add."""
    with contextlib.suppress(OSError):
        plain = re.compile(r"\w[\w.,+-]*\.(txt|csv|tsv|yaml|yml|json)")
        return sorted(name for name in os.listdir() if plain.fullmatch(name))
    return []


def _list_ready(*kinds: Literal["labels", "templates"]) -> list[str]:
    from clipcls.labels.presets import list_sets

    return [name for kind in kinds for name in list_sets(kind)]


def _list_models() -> Iterable[str]:
    from clipcls.models.aliases import model_names

    return model_names()


complete_files = _make_completer(tuple, or_files=True)
complete_label_sets = _make_completer(partial(_list_ready, "labels"), or_files=True)
complete_template_sets = _make_completer(partial(_list_ready, "templates"), or_files=True)
complete_sets = _make_completer(partial(_list_ready, "templates", "labels"), or_files=False)
complete_models = _make_completer(_list_models, or_files=False)
