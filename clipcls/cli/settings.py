"""Values of options from variables and from `clipcls.toml`; the command line overrides both."""

from __future__ import annotations

import functools
import logging
import operator
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from clipcls.cli.constraints import EXCLUSIVE, long_name
from clipcls.errors import ClipclsError

logger = logging.getLogger(__name__)

FILE_NAME = "clipcls.toml"
_PREFIX = "CLIPCLS_"
_OTHER_VARIABLES = frozenset(("CLIPCLS_TOKEN", "CLIPCLS_DEBUG", "CLIPCLS_NO_CONFIG"))

# A folder may come from anyone: its file may choose how images are classified, but not write, move,
# delete or serve anything, or hide that it is in use.
_ALLOWED_IN_FOLDERS = frozenset(
    (
        *("model", "device", "batch-size", "precision", "backend", "workers"),
        *("labels", "label", "prompts", "level", "classifier", "calibration"),
        *("top", "min-score", "min-margin", "min-similarity", "coverage", "max-error"),
        *("prediction-sets", "refine"),
        *("explain", "multi-label"),
        *("clusters", "vocabulary", "no-words", "check-labels"),
        *("format", "columns", "bom", "progress", "max-errors"),
    )
)
_PER_QUESTION = frozenset(("labels", "classifier", "calibration"))
_PATHS_OR_NAMES = frozenset(("labels", "prompts", "vocabulary", "model"))
# Where the first is given, weaker places no longer set the second.
_SUPERSEDES = (
    ("output", "format"),
    ("model", "checkpoint"),
    *((one, other) for one, other, _ in EXCLUSIVE),
    *((other, one) for one, other, _ in EXCLUSIVE),
)
_FORMATS = frozenset(("table", "csv", "tsv", "json", "jsonl", "html", "parquet", "labels"))
_OFF = ("false", "0", "no", "off", "n", "f")

CommandPath = tuple[str, ...]  # the words that call a command


class SettingsError(ClipclsError):
    """A settings file or a variable cannot be used."""


class Setting(NamedTuple):
    """A value for an option."""

    key: str  # the option's long name, after `search.` if it is for this command alone
    value: Any  # as written
    source: str  # the variable or the file that holds it

    @property
    def name(self) -> str:
        """The option's long name."""
        return self.key.rpartition(".")[2]


def find_own_file() -> Path | None:
    """The user's own file, in their configuration folder; None if they have no home folder."""
    from clipcls.files.folders import find_user_folder

    folder = find_user_folder("config")
    return folder and folder / FILE_NAME


def list_options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that can be set, by long name."""
    found = (p for p in command.params if isinstance(p, click.Option) and not p.is_eager)
    return {long_name(option): option for option in found}


def walk_commands(
    group: click.Group, path: CommandPath = ()
) -> Iterator[tuple[CommandPath, click.Command]]:
    """Every command below a group, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from walk_commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


def list_keys(path: CommandPath, command: click.Command) -> dict[str, click.Option]:
    """The keys that set the options of a command, those for this command alone last."""
    options = list_options(command)
    return options | {".".join((*path, name)): option for name, option in options.items()}


@functools.cache
def _list_all_keys(root: click.Group) -> frozenset[str]:
    """The keys of all commands; imports them all, which takes a while."""
    return frozenset(key for each in walk_commands(root) for key in list_keys(*each))


def name_variable(key: str) -> str:
    """The variable of a key, such as CLIPCLS_TOP or CLIPCLS_SEARCH_TOP."""
    if key == "sort-into":  # CLIPCLS_SORT_INTO is `sort --into`
        return ""
    return _PREFIX + re.sub("[.-]", "_", key).upper()


def _read_variables(path: CommandPath, command: click.Command) -> dict[str, Setting]:
    found = {}
    for key, option in list_keys(path, command).items():
        variable = name_variable(key)
        if text := os.environ.get(variable):  # an empty one counts as none
            value = text.splitlines() if option.multiple else text
            found[long_name(option)] = Setting(key, value, variable)
    return found


def _warn_about_variables(root: click.Group, path: CommandPath, command: click.Command) -> None:
    """Name the variables that set nothing."""
    unknown = {v for v in os.environ if v.startswith(_PREFIX)} - _OTHER_VARIABLES
    if unknown := unknown - {*map(name_variable, list_keys(path, command))}:
        known = {*map(name_variable, _list_all_keys(root))}
        for name in sorted(unknown - known):
            hint = _suggest(name.upper(), known, _PREFIX)
            logger.warning("%s: no option has this variable%s", name, hint)


class File:
    """One `clipcls.toml`: the user's own, or that of a folder."""

    def __init__(self, path: Path, *, is_own: bool) -> None:
        self.place = os.fspath(path.absolute())
        self.is_own = is_own
        self._folder = path.parent
        import tomllib

        try:
            table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
            self._values = dict(_flatten(table))
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be read ({error.strerror}); --no-config runs without it"
            ) from error
        except RecursionError as error:
            raise SettingsError(f"{path}: is nested too deeply") from error
        except ValueError as error:  # also for a number with thousands of digits
            raise SettingsError(f"{path}: is not TOML in UTF-8: {error}") from error

    def read(
        self, root: click.Group, path: CommandPath, command: click.Command
    ) -> dict[str, Setting]:
        """The settings for a command, by option; refuses those that it must not set."""
        commands, keys = root.list_commands(click.Context(root)), list_keys(path, command)
        found: dict[str, Setting] = {}
        for key in sorted(self._values, key=lambda key: key.count(".")):
            *words, name = key.split(".")
            if words and words[0] in commands and any(map(operator.ne, words, path)):
                continue  # for another command, which will check it
            if key not in keys and key not in (known := _list_all_keys(root)):
                raise SettingsError(
                    f"{self.place}: {key}: no option has this name{_suggest(key, known)}"
                )
            if not self.is_own and name not in _ALLOWED_IN_FOLDERS:
                raise SettingsError(
                    f"{self.place}: {key}: a file that may have come with the folder cannot set "
                    f"it; set it in {find_own_file() or 'your own file'}, by a variable or on the "
                    "command line, or ignore the file with --no-config"
                )
            if key in keys:
                value = self._check(self._values[key], name, keys[key])
                found[name] = Setting(key, value, self.place)
        return found

    def _check(self, value: Any, name: str, option: click.Option) -> Any:
        where = f"{self.place}: {name}"
        values = value if isinstance(value, list) else [value]
        is_nested = any(isinstance(one, list | dict) for one in values)
        if is_nested or (isinstance(value, list) and not option.multiple):
            raise SettingsError(f"{where}: takes one value, not a list")
        if any(re.search(r"[\0-\x1f\x7f]", str(one)) for one in values):
            raise SettingsError(f"{where}: takes no text with control characters")
        is_path = isinstance(option.type, click.Path)
        if is_path or name in _PATHS_OR_NAMES:
            may_be_named = name in _PER_QUESTION
            values = [self._resolve_path(str(v), where, is_path, may_be_named) for v in values]
        return [*map(str, values)] if option.multiple else values[0]

    def _resolve_path(
        self, value: str, where: str, is_path: bool, may_be_named: bool = False
    ) -> str:
        """A path, relative to the file; a folder's file must not lead out of its folder.

        In QUESTION=PATH the path is what follows.
        """
        question, mark, rest = value.partition("=")
        if may_be_named and mark and not (self.is_own and (self._folder / value).exists()):
            resolved = self._resolve_path(rest, where, is_path)
            if self.is_own:
                return f"{question}={resolved}"
        scheme = "local-dir:" if value.startswith("local-dir:") else ""
        path = value.removeprefix(scheme)
        if path == "-":  # a standard stream
            return value
        if self.is_own:
            joined = self._folder / os.path.expanduser(path)
            return scheme + str(joined) if scheme or is_path or os.path.exists(joined) else value
        inside = Path(os.path.realpath(self._folder))
        # Without a look at the path: on Windows opening \\host\share sends a password's hash.
        if os.path.isabs(path) or not Path(os.path.realpath(path)).is_relative_to(inside):
            raise SettingsError(
                f"{where}: {value}: lies outside the folder; a file that may have come with the "
                "folder can only name what is inside it"
            )
        return value


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys and values of tables in tables."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key.replace("_", "-"), value


def find_files() -> list[File]:
    """The settings files of this folder and of the user, the strongest first."""
    own = find_own_file()
    found: list[Path] = []
    for path in filter(None, (own, Path(FILE_NAME))):
        if os.path.isfile(path):  # not Path's, which raises where a folder must not be searched
            if not any(path.samefile(other) for other in found):
                found.append(path)
        elif os.path.lexists(path):  # never opened: a pipe would block
            logger.warning("%s: is not a file; ignored", path)
    return [File(path, is_own=path == own) for path in reversed(found)]


def resolve(
    files: Sequence[File],
    root: click.Group,
    path: CommandPath,
    command: click.Command,
    given: Collection[str] = (),
) -> dict[str, Setting]:
    """The settings that apply to a command, by option: those of variables, then those of files.

    `files` has the strongest first; options that are `given` on the command line stay as they are.

    Raises:
        SettingsError: a file or an option refuses a setting.
    """
    options = list_options(command)
    settled = _supersede(given)
    resolved: dict[str, Setting] = {}
    layers = [_read_variables(path, command), *(file.read(root, path, command) for file in files)]
    for layer in layers:
        found = {
            name: setting
            for name, setting in layer.items()
            if name not in settled and not _is_for_others(setting, options[name])
        }
        for name, setting in found.items():
            _check_value(setting, options[name], command)
        resolved |= found
        off = {name for name, setting in found.items() if str(setting.value).lower() in _OFF}
        settled |= off | _supersede(found.keys() - off)
    return {name: resolved[name] for name in options if name in resolved}


def _supersede(names: Iterable[str]) -> set[str]:
    """These options, and those that a weaker place can then no longer set."""
    return {*names, *(other for name, other in _SUPERSEDES if name in set(names))}


def _is_for_others(setting: Setting, option: click.Option) -> bool:
    """Whether it is a format, set for all commands, that only others have."""
    return (
        isinstance(option.type, click.Choice)
        and setting.key == "format"
        and setting.value in _FORMATS - {*option.type.choices}
    )


def _check_value(setting: Setting, option: click.Option, command: click.Command) -> None:
    try:
        option.type_cast_value(click.Context(command), _as_typed(setting.value))
    except click.BadParameter as error:
        raise SettingsError(f"{setting.source}: {setting.name}: {error.message}") from error
    except OSError as error:  # the path is too long, or its folder must not be searched
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"{setting.source}: {setting.name}: {reason}") from error


def _as_typed(value: Any) -> str | list[str]:
    """Text, as on a command line: click would make 2 out of the number 2.5."""
    return [*map(str, value)] if isinstance(value, list) else str(value)


def apply(context: click.Context, arguments: Sequence[str]) -> None:
    """Make settings the defaults of a command before it parses its arguments."""
    command, program = context.command, context.find_root()
    root, path = program.command, tuple(context.command_path.split()[1:])
    assert isinstance(root, click.Group)
    _warn_about_variables(root, path, command)
    files = [] if program.params.get("no_config") else find_files()
    given = _find_given(context, arguments)
    found = resolve(files, root, path, command, given)
    options = list_options(command)
    context.default_map = {str(options[n].name): _as_typed(s.value) for n, s in found.items()}
    if console := context.obj:
        console.settings = {
            f"--{n}": (" ".join(s.value) if isinstance(s.value, list) else str(s.value), s.source)
            for n, s in found.items()
        }
        folders = [file.place for file in files if not file.is_own]
        used = sorted(n for n, s in found.items() if s.source in folders)
        if used and "quiet" not in {*given, *found}:
            console.say(
                f"using {FILE_NAME} of this folder: {', '.join(used)} "
                f"(to ignore it: clipcls --no-config {' '.join(path)} ...)"
            )


def _find_given(context: click.Context, arguments: Sequence[str]) -> set[str]:
    """Long names of the options among the arguments."""
    try:
        _, _, order = context.command.make_parser(context).parse_args([*arguments])
    except click.UsageError:
        return set()  # the command itself will say
    return {long_name(param) for param in order if isinstance(param, click.Option)}


def _suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    import difflib

    names = [word.removeprefix(prefix) for word in known]
    close = difflib.get_close_matches(name.removeprefix(prefix), names, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
