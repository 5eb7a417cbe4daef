"""Values of options from the environment and from `clipcls.toml`, below the command line's."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from clipcls.cli.console import Console
from clipcls.cli.constraints import EXCLUSIVE, long_name
from clipcls.errors import ClipclsError

__all__ = ["FILE_NAME", "Layer", "Setting", "SettingsError", "apply", "find_layers", "resolve"]

logger = logging.getLogger(__name__)

FILE_NAME = "clipcls.toml"
_PREFIX = "CLIPCLS_"
_NOT_OPTIONS = frozenset(("CLIPCLS_TOKEN", "CLIPCLS_DEBUG", "CLIPCLS_NO_CONFIG"))

# A folder may come from anyone. What its file sets shapes answers; it writes, moves, deletes and
# serves nothing, and runs in plain view.
_OF_A_FOLDER = frozenset(
    (
        *("model", "device", "batch-size", "precision", "backend", "workers"),
        *("labels", "label", "prompts", "reject", "level", "classifier", "calibration"),
        *("top", "min-score", "min-margin", "coverage", "max-error", "prediction-sets", "refine"),
        *("explain", "multi-label"),
        *("clusters", "vocabulary", "augment", "no-words", "check-labels"),
        *("format", "columns", "bom", "progress", "max-errors"),
    )
)
_PATHS_OR_NAMES = frozenset(("labels", "prompts", "vocabulary", "model"))
# Where the first is given, the second is not taken from a weaker place.
_SUPERSEDES = (
    ("output", "format"),
    ("model", "checkpoint"),
    *((one, other) for one, other, _ in EXCLUSIVE),
    *((other, one) for one, other, _ in EXCLUSIVE),
)
_OFF = ("false", "0", "no", "off", "n", "f")

CommandPath = tuple[str, ...]


class SettingsError(ClipclsError):
    """A file of settings, or a variable, that cannot be used."""


class Setting(NamedTuple):
    """A value for an option."""

    scope: CommandPath  # the command that it is for; () for all
    name: str  # the option's long name, without dashes before it
    value: Any  # as written
    source: str  # the variable or the file that holds it


def own_file() -> Path | None:
    """The user's own file, in their configuration folder; None where they have no home."""
    import platformdirs

    try:
        path = Path(platformdirs.user_config_dir("clipcls", appauthor=False)) / FILE_NAME
    except RuntimeError:  # newer versions of platformdirs; older ones give a relative path
        return None
    return path if path.is_absolute() else None


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command that can be set, by long name."""
    found = (p for p in command.params if isinstance(p, click.Option) and not p.is_eager)
    return {long_name(option): option for option in found}


def all_commands(
    group: click.Group, path: CommandPath = ()
) -> Iterator[tuple[CommandPath, click.Command]]:
    """Every command below a group, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        elif command is not None:
            yield (*path, name), command


class Layer(ABC):
    """One place where settings come from."""

    def find(self, path: CommandPath, option: click.Option) -> Setting | None:
        """The setting of a command's option: its own, else the one for all commands."""
        for scope in (path, ()):
            if setting := self._find(scope, option):
                return setting
        return None

    @abstractmethod
    def check(self, root: click.Group, path: CommandPath, command: click.Command) -> None:
        """Warn of or refuse what sets nothing, for a command that is about to run."""

    @abstractmethod
    def _find(self, scope: CommandPath, option: click.Option) -> Setting | None:
        """The setting of exactly this scope."""


class Environment(Layer):
    """Variables like CLIPCLS_MODEL and, for one command, CLIPCLS_CLASSIFY_TOP."""

    def __init__(self, groups: Collection[str]) -> None:
        self._groups = groups

    def _find(self, scope: CommandPath, option: click.Option) -> Setting | None:
        variable = self._variable(scope, long_name(option))
        if not (variable and (text := os.environ.get(variable))):  # an empty one counts as none
            return None
        value = text.splitlines() if option.multiple else text
        return Setting(scope, long_name(option), value, variable)

    def check(self, root: click.Group, path: CommandPath, command: click.Command) -> None:
        """Warn of variables that set nothing."""
        odd = {v for v in os.environ if v.startswith(_PREFIX)} - _NOT_OPTIONS
        odd -= {self._variable(scope, name) for scope in (path, ()) for name in options_of(command)}
        if not odd:
            return
        known = {
            str(self._variable(scope, name))
            for path, other in all_commands(root)
            for name in options_of(other)
            for scope in (path, ())
        }
        for name in sorted(odd - known):
            hint = _hint(name.upper(), known, _PREFIX)
            logger.warning("%s: no option has this variable%s", name, hint)

    def _variable(self, scope: CommandPath, name: str) -> str | None:
        # CLIPCLS_SORT_INTO would be both `sort --into` and --sort-into of `classify`.
        if not scope and name.split("-")[0] in self._groups and "-" in name:
            return None
        return _PREFIX + "_".join((*scope, name)).upper().replace("-", "_")


class File(Layer):
    """One `clipcls.toml`.

    Args:
        path: the file.
        is_own: whether it is the user's own rather than one that lies in a folder.

    Raises:
        SettingsError: it cannot be read, is not TOML, or sets an option twice.
    """

    def __init__(self, path: Path, *, is_own: bool) -> None:
        self.place = os.fspath(path.absolute())
        self._folder = path.parent
        self.is_own = is_own
        import tomllib

        try:
            values = list(_flatten(tomllib.loads(path.read_bytes().decode("utf-8-sig"))))
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be read ({error.strerror}); --no-config goes without"
            ) from error
        except RecursionError as error:
            raise SettingsError(f"{path}: is nested too deeply") from error
        except ValueError as error:  # also of a number with thousands of digits
            raise SettingsError(f"{path}: is not TOML in UTF-8: {error}") from error
        self._values: dict[tuple[CommandPath, str], Any] = {}
        for scope, key, value in values:
            name = key.replace("_", "-")
            if (scope, name) in self._values:
                raise SettingsError(f"{path}: {name}: is set twice, with - and with _")
            self._values[scope, name] = value

    def _find(self, scope: CommandPath, option: click.Option) -> Setting | None:
        name = long_name(option)
        if (scope, name) not in self._values:
            return None
        value = self._checked(name, option, self._values[scope, name])
        return Setting(scope, name, value, self.place)

    def check(self, root: click.Group, path: CommandPath, command: click.Command) -> None:
        """Refuse names that no option has, and what the file of a folder must not set."""
        commands = root.list_commands(click.Context(root))
        for scope, name in self._values:
            where = f"{self.place}: " + (f"[{'.'.join(scope)}] " if scope else "")
            if scope and scope[0] not in commands:
                hint = _hint(scope[0], commands)
                raise SettingsError(f"{where[:-1]}: no command has this name{hint}")
            if scope and scope[: len(path)] != path[: len(scope)]:
                continue  # for another command, which will check it
            known = set(options_of(command))
            if not scope and name not in known:
                known = {option for _, other in all_commands(root) for option in options_of(other)}
            if scope not in (path, ()) or name not in known:
                hint = _hint(name, known)
                if not scope and name in commands:
                    hint = f", but a command; write its options below [{name}]"
                raise SettingsError(f"{where}{name}: no option has this name{hint}")
            if not self.is_own and name not in _OF_A_FOLDER:
                raise SettingsError(
                    f"{where}{name}: a file that may have come with the folder cannot set it; set "
                    f"it in {own_file() or 'your own file'}, by a variable or on the command "
                    "line, or ignore the file with --no-config"
                )

    def _checked(self, name: str, option: click.Option, value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        where = f"{self.place}: {name}"
        if isinstance(value, list) and not option.multiple:
            cure = "; write label = [...]" if name == "labels" else ""
            raise SettingsError(f"{where}: takes one value, not a list{cure}")
        for one in values:
            if type(one) not in ((bool,) if option.is_flag else (str, int, float)):
                wanted = "true or false" if option.is_flag else "text or a number"
                shown = repr(one) if isinstance(one, str) else str(one).lower()
                raise SettingsError(f"{where}: takes {wanted}, not {shown}")
            if re.search(r"[\0-\x1f\x7f]", str(one)):
                raise SettingsError(f"{where}: takes no text with control characters")
        is_path = isinstance(option.type, click.Path)
        if is_path or name in _PATHS_OR_NAMES:
            values = [self._placed(str(one), where, is_path) for one in values]
        return values if option.multiple else values[0]

    def _placed(self, value: str, where: str, is_path: bool) -> str:
        """A path, relative to the file; a folder's file must not lead out of its folder."""
        scheme = "local-dir:" if value.startswith("local-dir:") else ""
        path = value.removeprefix(scheme)
        if path == "-":  # a standard stream
            return value
        if self.is_own:
            joined = self._folder / os.path.expanduser(path)
            return scheme + str(joined) if scheme or is_path or os.path.exists(joined) else value
        inside = Path(os.path.realpath(self._folder))
        # Not even looked at elsewhere: on Windows \\host\share alone sends a password's hash.
        if os.path.isabs(path) or not Path(os.path.realpath(path)).is_relative_to(inside):
            raise SettingsError(
                f"{where}: {value}: lies outside the folder; a file that may have come with the "
                "folder can name only what is in it"
            )
        return value


def _flatten(
    table: Mapping[str, Any], scope: CommandPath = ()
) -> Iterator[tuple[CommandPath, str, Any]]:
    """Tables of tables as command, key and value."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*scope, key))
        else:
            yield scope, key, value


def find_layers(root: click.Group, *, files: bool = True) -> list[Layer]:
    """Where settings come from on this machine and in this folder, the strongest first.

    Raises:
        SettingsError: a file cannot be used.
    """
    layers: list[Layer] = [Environment(root.list_commands(click.Context(root)))]
    found: list[Path] = []
    for path in filter(None, (own_file(), Path(FILE_NAME)) if files else ()):
        if os.path.isfile(path):
            if not any(path.samefile(other) for other in found):
                found.append(path)
        elif os.path.lexists(path):  # never opened: a pipe would be waited for
            logger.warning("%s: is not a file; ignored", path)
    return layers + [File(path, is_own=path == own_file()) for path in reversed(found)]


def resolve(
    layers: Sequence[Layer],
    root: click.Group,
    path: CommandPath,
    command: click.Command,
    given: Collection[str] = (),
) -> dict[str, Setting]:
    """The settings that hold for a command.

    Args:
        layers: where they come from, the strongest first.
        root: the program.
        path: the words that call the command.
        command: the command.
        given: long names of the options on the command line, which no setting replaces.

    Returns:
        The settings by long name.

    Raises:
        SettingsError: a value is none that its option takes.
    """
    options = options_of(command)
    settled = _settled_by(given)
    held: dict[str, Setting] = {}
    for layer in layers:
        found = {}
        for name in options.keys() - settled:
            setting = layer.find(path, options[name])
            if setting and (setting.scope or not _is_for_others(setting, options[name], root)):
                _convert(setting, options[name], command)
                found[name] = setting
        held |= found
        off = {name for name, setting in found.items() if str(setting.value).lower() in _OFF}
        settled |= off | _settled_by(found.keys() - off)
    return {name: held[name] for name in options if name in held}


def _settled_by(names: Iterable[str]) -> set[str]:
    """Options whose values a weaker place cannot set, where these are given."""
    return {*names, *(other for name, other in _SUPERSEDES if name in set(names))}


def _is_for_others(setting: Setting, option: click.Option, root: click.Group) -> bool:
    """Whether it is a choice that this command does not have, and another does: format=jsonl."""

    def choices(option: click.Option | None) -> Collection[str]:
        kind = option.type if option else None
        return kind.choices if isinstance(kind, click.Choice) else ()

    others = (options_of(command).get(setting.name) for _, command in all_commands(root))
    is_unknown = choices(option) and setting.value not in choices(option)
    return bool(is_unknown) and any(setting.value in choices(other) for other in others)


def _convert(setting: Setting, option: click.Option, command: click.Command) -> None:
    """Raises `SettingsError` where an option cannot take the value."""
    value = setting.value
    # As if typed: 2.5 is no whole number, though click would make it 2, and inf overflows.
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    try:
        option.type_cast_value(click.Context(command), value)
    except click.BadParameter as error:
        raise SettingsError(f"{setting.source}: {setting.name}: {error.message}") from error
    except OSError as error:  # at a path that is too long, or of a folder that may not be searched
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"{setting.source}: {setting.name}: {reason}") from error


def apply(context: click.Context, arguments: Sequence[str]) -> None:
    """Make settings the defaults of a command that is about to run, and say if a folder's are used.

    Args:
        context: of the command.
        arguments: what follows the command's name.

    Raises:
        SettingsError: a file or a variable cannot be used.
    """
    command, program = context.command, context.find_root()
    root, path = program.command, tuple(context.command_path.split()[1:])
    assert isinstance(root, click.Group)
    layers = find_layers(root, files=not program.params.get("no_config"))
    for layer in layers:
        layer.check(root, path, command)
    given = _given(context, arguments)
    held = resolve(layers, root, path, command, given)
    options = options_of(command)
    context.default_map = {str(options[n].name): s.value for n, s in held.items()}
    console = context.obj
    if isinstance(console, Console):
        console.settings = {f"--{n}": (str(s.value), s.source) for n, s in held.items()}
        of_folder = [x.place for x in layers if isinstance(x, File) and not x.is_own]
        used = sorted(n for n, s in held.items() if s.source in of_folder)
        if used and "quiet" not in {*given, *held}:
            console.say(
                f"using {FILE_NAME} of this folder: {', '.join(used)} "
                f"(to ignore it: clipcls --no-config {' '.join(path)} ...)"
            )


def _given(context: click.Context, arguments: Sequence[str]) -> set[str]:
    """Long names of the options among the arguments."""
    try:
        _, _, order = context.command.make_parser(context).parse_args([*arguments])
    except click.UsageError:
        return set()  # the command itself will say
    return {long_name(param) for param in order if isinstance(param, click.Option)}


def _hint(name: str, known: Iterable[str], prefix: str = "") -> str:
    import difflib

    names = [word.removeprefix(prefix) for word in known]
    close = difflib.get_close_matches(name.removeprefix(prefix), names, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
