"""The images that a command reads: its inputs, the options on them, and how many they are."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from clipcls.cli.completion import complete_files
from clipcls.cli.groups import Settings, option

if TYPE_CHECKING:
    from clipcls.cli.progress import Total
    from clipcls.data.file_kinds import LeftOut
    from clipcls.data.inputs import NamedImage
    from clipcls.data.sharding import Shard
    from clipcls.errors import ImageError

inputs_argument = click.argument(
    "inputs", nargs=-1, required=True, metavar="INPUT...", shell_complete=complete_files
)


@dataclass(frozen=True)
class InputSettings(Settings):
    """How the inputs lead to images."""

    section = "Input"

    null: bool = option("-0", "--null", rare=True, help="Paths on stdin end with NUL.")

    def find_images(
        self, inputs: tuple[str, ...], left_out: LeftOut, shard: Shard | None = None
    ) -> tuple[Iterator[str | NamedImage | ImageError], Total]:
        """The images that the inputs name and, unless stdin lists them, how to count them.

        With a shard, its share of them, which may be none.

        To count them the inputs are searched again: keeping a million paths would take more memory
        than everything else together.
        """
        from clipcls.data import paths

        images = paths.find_images(
            inputs, stdin=sys.stdin.buffer, null=self.null, left_out=left_out, shard=shard
        )
        total = (
            None
            if "-" in inputs
            else lambda: sum(map(_count, paths.find_images(inputs, shard=shard)))
        )
        first = list(itertools.islice(images, 1))  # or the error that there is none
        return itertools.chain(first, images), total


def _count(found: str | NamedImage | ImageError) -> int:
    from clipcls.data.file_kinds import is_vectors

    if not isinstance(found, str) or not is_vectors(found):
        return 1
    from clipcls.embeddings.vector_files import open_vectors

    return len(open_vectors(found))


def _parse_shard(_: click.Context, __: click.Parameter, value: str | None) -> Shard | None:
    from clipcls.data.sharding import Shard
    from clipcls.errors import InputError

    try:
        return None if value is None else Shard.parse(value)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


@dataclass(frozen=True)
class ShardedInputSettings(InputSettings):
    """The same for commands whose results `clipcls merge` puts together."""

    shard: Shard | None = option(
        metavar="I/N",
        rare=True,
        callback=_parse_shard,
        help="Read only share I, from 1, of N shares of the images, so that N jobs do the work of "
        "one. An image's share depends only on its name below INPUT. See `clipcls merge`.",
    )

    def find_images(
        self, inputs: tuple[str, ...], left_out: LeftOut, shard: Shard | None = None
    ) -> tuple[Iterator[str | NamedImage | ImageError], Total]:
        """The share's images, and how to count them."""
        return super().find_images(inputs, left_out, shard or self.shard)
