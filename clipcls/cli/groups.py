"""Commands whose options come in groups: a heading in `--help`, a settings object in the code."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_type_hints

import click

from clipcls.cli import constraints
from clipcls.cli.param_types import FILE
from clipcls.errors import InputError

_SHOWN = 15  # parameters of a command that `--help` shows all of
_SHOW_ALL = "clipcls.show_all"


class Option(click.Option):
    """An option in a section of `--help`; of a long list, `--help` leaves out the `rare` ones."""

    def __init__(
        self,
        *args: Any,
        section: str = "",
        rare: bool = False,
        optional: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.section, self.rare = section, rare
        self._optional = optional

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """The value for the command; an `InputError` about it is a usage error."""
        try:
            return super().process_value(ctx, value)
        except InputError as error:
            raise click.BadParameter(str(error), ctx, self) from error

    def spell_out(self, arguments: list[str]) -> list[str]:
        """Arguments in which an option without its optional value has its `flag_value`.

        click would take any next argument for the value; `optional` is the pattern of values.
        """
        if not self._optional:
            return arguments
        found = []
        for word, after in itertools.pairwise([*arguments, ""]):
            is_bare = word in self.opts and not re.fullmatch(self._optional, after)
            found.append(f"{word}={self.flag_value}" if is_bare else word)
        return found


def option(*names: str, section: str = "", **attributes: Any) -> Any:
    """A field of a `Settings` class, set by an option.

    A `bool` is a flag, a tuple may be repeated, a `Path` is a file.

    Args:
        names: the option's names; default: the field's.
        section: its heading, if not the class's.
        attributes: as for `click.option`; `rare=True` leaves the option to `--help-all`.
    """
    metadata = {"names": names, "section": section, "attributes": attributes}
    return field(default=attributes.get("default"), metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The values of a group of options; subclasses are frozen dataclasses."""

    section: ClassVar[str] = "Options"

    @classmethod
    def options(cls) -> list[Option]:
        """The options that set the fields."""
        found = []
        for each in fields(cls):
            names = each.metadata["names"] or ["--" + each.name.replace("_", "-")]
            section = each.metadata["section"] or cls.section
            kind = str(each.type)
            attributes = {
                **({"is_flag": True} if kind == "bool" else {}),
                **({"multiple": True} if kind.startswith("tuple[") else {}),
                **({"type": FILE} if kind.startswith("Path") else {}),
                **each.metadata["attributes"],
            }
            found.append(Option([each.name, *names], section=section, **attributes))
        return found


class _Command(click.Command):
    def __init__(self, groups: Mapping[str, type[Settings]], *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._groups = groups
        shared = [param for param in self.params if getattr(param, "section", "")]
        own = [param for param in self.params if param not in shared]
        self.params = [*own, *(o for group in groups.values() for o in group.options()), *shared]
        self._hides = len(self.params) > _SHOWN
        if self._hides:
            option = click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help="Show all options and exit.",
            )
            self.params.append(option)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_run = not ctx.resilient_parsing and not {"-h", "--help", "--help-all"} & set(args)
        if is_run:
            from clipcls.cli import settings

            settings.apply(ctx, args)
        for param in self.params:
            args = param.spell_out(args) if isinstance(param, Option) else args
        rest = super().parse_args(ctx, args)
        if is_run:
            constraints.check(ctx)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        values = dict(ctx.params)
        settings = {
            name: group(**{each.name: values.pop(each.name) for each in fields(group)})
            for name, group in self._groups.items()
        }
        assert self.callback is not None
        return ctx.invoke(self.callback, ctx.obj, **values, **settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        title, hidden = "Options", 0
        hides = self._hides and _SHOW_ALL not in ctx.meta
        for param in self.get_params(ctx):
            if hides and getattr(param, "rare", False):
                hidden += 1
            elif isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                if not param.is_eager:  # help comes last, in any section
                    title = getattr(param, "section", "") or "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"For {hidden} more options: {ctx.command_path} --help-all")


def _show_all(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given and not ctx.resilient_parsing:
        ctx.meta[_SHOW_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


def command(name: str) -> Callable[[Callable[..., int]], click.Command]:
    """Make a function the command `name`.

    It is called with the `Console`, then by keyword with the values of its `click.argument` and
    `click.option`, and with a settings object per parameter that is annotated with such a class.
    """

    def decorate(function: Callable[..., int]) -> click.Command:
        groups = {
            parameter: kind
            for parameter, kind in get_type_hints(function).items()
            if isinstance(kind, type) and issubclass(kind, Settings)
        }
        return click.command(name, cls=_Command, groups=groups)(function)

    return decorate
