"""Compose a command's config: typed root dataclass <- presets in `conf/` <- `key=value` arguments of the command line.

Hydra composes and nothing more: it makes no run directory and sets up no logging. The root dataclass is stored as
`<verb>_schema`. A verb with preset groups has a file `conf/<verb>.yaml`, whose `defaults` begin with the schema; other verbs
are composed from the schema alone. Either way an unknown key in any preset or override fails at once, also behind Hydra's
`+` and `++`. Presets of one's own are found in the folders of `hydra.searchpath`, which `--config-dir DIR` sets.
"""

import dataclasses
import difflib
import enum
import functools
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_atomically

Root = TypeVar("Root")

_GROUP_SHORTHAND = {"model": "pretrained"}
"""Groups that also take free text: `model=PATH` means `model=pretrained model.path=PATH`."""

_SEARCH_PATH = "hydra.searchpath"

_RENAMED_KEYS = {"lane": "unet_batch_size"}
"""Keys of version 0.1.0 that have another name now; they are still accepted, with a warning."""


def conf_dir() -> Path:
    """Return the folder of presets: beside this package in an installed wheel, at the repository root in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no conf/ beside {package} or its parent; reinstall riffusion-train")


def group_options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Return the names of the presets in `conf/<group>/`, sorted; empty where there is no such group.

    Args:
        group: The group.
        folders: Further folders of presets, as `preset_folders` returns them.
    """
    return sorted({path.stem for folder in (conf_dir(), *folders) for path in (folder / group).glob("*.yaml")})


def preset_groups(verb: str) -> list[str]:
    """Return the groups of presets that a command takes, in the order in which they apply."""
    return list(_groups_in(conf_dir() / f"{verb}.yaml"))


@functools.cache  # asked for every key of a command line, and YAML is slow to read
def _groups_in(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        return ()
    from omegaconf import OmegaConf

    defaults: Any = OmegaConf.to_container(OmegaConf.load(file))
    return tuple(group for entry in defaults["defaults"] if isinstance(entry, dict) for group in entry)


def search_path(folders: Sequence[str]) -> list[str]:
    """Return the argument that adds folders of presets to a command; none for no folders.

    Raises:
        InputError: If one does not exist.
    """
    paths = [Path(folder).expanduser().resolve() for folder in folders]
    missing = [path for path in paths if not path.is_dir()]
    if missing:
        raise InputError(f"--config-dir {missing[0]}: no such folder; it holds presets as GROUP/NAME.yaml")
    places = ",".join(_quoted(f"file://{path}") for path in paths)
    return [f"{_SEARCH_PATH}=[{places}]"] if paths else []


def preset_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that the `hydra.searchpath` among some arguments adds to `conf/`.

    Raises:
        InputError: If its value cannot be read, or names a folder that does not exist.
    """
    values = [argument for argument in arguments if argument.partition("=")[0].lstrip("+") == _SEARCH_PATH]
    if not values:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_override(values[-1].lstrip("+")).value()
    except OverrideParseException:
        parsed = None
    if not isinstance(parsed, list):
        raise InputError(f"'{values[-1]}': give a list, {_SEARCH_PATH}=[file:///DIR], or --config-dir DIR")
    places = [str(getattr(place, "text", place)) for place in parsed]
    folders = [Path(place.removeprefix("file://")) for place in places if not place.startswith("pkg://")]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise InputError(f"{_SEARCH_PATH}: {missing[0]}: no such folder; it holds presets as GROUP/NAME.yaml")
    return folders


def compose(verb: str, root: type[Root], arguments: Sequence[str], *, command: str | None = None) -> Root:
    """Compose the config of `verb` from its presets and the command line's `key=value` arguments.

    Args:
        verb: The command; `conf/<verb>.yaml` names its default presets, where it has preset groups.
        root: The root dataclass.
        arguments: Overrides as the user typed them. Values of text fields are taken literally, so that a path may contain
            spaces, commas, quotes and parentheses.
        command: The command with its verb, for messages; None is `verb`.

    Raises:
        InputError: For an unknown key or preset, a value of the wrong type, or mandatory keys that are missing (all of
            them in one message).
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = _compose_node(verb, root, arguments)
    try:
        missing = sorted(OmegaConf.missing_keys(node))
        if not missing:
            return typing.cast(Root, OmegaConf.to_object(node))
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(_explain(error, root)) from None
    command = command or verb
    raise InputError(f"{command} needs {', '.join(f'{key}=…' for key in missing)}; see riffusion {command} --help")


def composed_text(verb: str, root: type, arguments: Sequence[str]) -> str:
    """Return the config that arguments make as YAML, with `???` for mandatory keys that are missing; arguments as of `compose`.

    Raises:
        InputError: For an unknown key or preset, or a value of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    node = _compose_node(verb, root, arguments)
    try:
        return OmegaConf.to_yaml(node, resolve=True)
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(_explain(error, root)) from None


def _compose_node(verb: str, root: type, arguments: Sequence[str]) -> Any:
    """Return the composed config as an OmegaConf node; arguments and errors as of `compose`, but keys may be missing."""
    folders = preset_folders(arguments)
    overrides = [override for argument in arguments for override in _as_overrides(argument, verb, root, folders)]
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name=f"{verb}_schema", node=root)
    has_file = (conf_dir() / f"{verb}.yaml").is_file()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            # A key with the name of another command's group, such as captions of prepare: Hydra would look for a preset.
            others = [text for text in overrides if _is_other_group(text.partition("=")[0], verb, folders)]
            own = [text for text in overrides if text not in others]
            node = hydra_compose(config_name=verb if has_file else f"{verb}_schema", overrides=own)
            for override in OverridesParser.create().parse_overrides(others):
                OmegaConf.update(node, override.key_or_group, override.value())
            return node
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, root, folders)) from None


def _is_other_group(key: str, verb: str, folders: Sequence[Path]) -> bool:
    return key not in preset_groups(verb) and bool(group_options(key, folders))


def load_saved(path: Path, root: type[Root]) -> Root:
    """Read a config file that `write_config` wrote, checked against `root`.

    Raises:
        InputError: If the file cannot be read or does not fit the schema.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        saved: Any = OmegaConf.load(path)
        for key in _RENAMED_KEYS.keys() & set(saved):
            saved[_renamed(key, root)] = saved.pop(key)
        merged = OmegaConf.merge(OmegaConf.structured(root), saved)
        return typing.cast(Root, OmegaConf.to_object(merged))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {_explain(error, root)}") from None


def write_config(path: Path, config: Any) -> None:
    """Write a config dataclass as YAML: plain data that `load_saved` reads back."""
    from omegaconf import OmegaConf

    write_atomically(path, OmegaConf.to_yaml(OmegaConf.structured(config)))


def config_keys(root: type, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Return every leaf key of a config dataclass, dotted, with its field."""
    keys: dict[str, dataclasses.Field[Any]] = {}
    hints = typing.get_type_hints(root)
    for field in dataclasses.fields(root):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            keys |= config_keys(kind, f"{prefix}{field.name}.")
        else:
            keys[prefix + field.name] = field
    return keys


def current_key(key: str, root: type) -> str:
    """Return the current name of a key of `root` that version 0.1.0 called differently; any other key as it is."""
    names = {field.name for field in dataclasses.fields(root)}
    new = _RENAMED_KEYS.get(key, key)
    return new if key not in names and new in names else key


def _renamed(key: str, root: type) -> str:
    """Return the current name of a key, with a warning if that is another one."""
    new = current_key(key, root)
    if new != key:
        print(f"{key}= is now called {new}=; the old name still works", file=sys.stderr)
    return new


def _as_overrides(argument: str, verb: str, root: type, folders: Sequence[Path]) -> list[str]:
    """Turn one command-line argument into Hydra overrides, with text values quoted.

    Every key exists in the schema, so Hydra's `+key=` and `++key=` mean the same as `key=`, and become it: Hydra itself adds
    whatever stands behind them.
    """
    key, separator, value = argument.partition("=")
    key = key.removeprefix("+").removeprefix("+")
    if not separator or not key:
        raise InputError(f"'{argument}' is not key=value (texts go in --prompt TEXT, and so on)")
    if key == _SEARCH_PATH:
        return [f"{key}={value}"]
    key = _renamed(key, root)
    _check_key(key, verb, root)
    if key in _GROUP_SHORTHAND and (conf_dir() / key).is_dir() and value not in group_options(key, folders):
        return [f"{key}={_GROUP_SHORTHAND[key]}", f"{key}.path={_quoted(value)}"]
    if is_text(root, key) and value not in ("null", "???"):
        return [f"{key}={_quoted(value)}"]
    return [f"{key}={value}"]


def _check_key(key: str, verb: str, root: type) -> None:
    """Raise `InputError` unless a key is a leaf of the schema, a group of leaves or of presets, or lies within a leaf."""
    if key.startswith("~"):
        raise InputError(f"'{key}' would remove a key, and every key has its place; set it, or choose another preset")
    if re.match(r"hydra[./]", key):
        raise InputError(
            f"'{key}' is a key of Hydra's own, which only composes the config here; of these, there is only {_SEARCH_PATH}"
        )
    leaves, groups = config_keys(root), preset_groups(verb)
    if key in groups or any(f"{leaf}.".startswith(f"{key}.") or key.startswith(f"{leaf}.") for leaf in leaves):
        return
    raise InputError(_unknown_key(key, [*_known_keys(root), *groups]))


def _unknown_key(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")


def is_text(root: type, key: str) -> bool:
    """Whether a dotted key of a config dataclass holds free text, in which commas and brackets are ordinary characters."""
    return key_type(root, key) in (str, str | None)


def key_type(root: type, key: str) -> Any:
    """Return the type of a dotted key of a config dataclass; None where there is no such key."""
    kind: Any = root
    for part in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return None
        kind = typing.get_type_hints(kind).get(part)
    return kind


def _quoted(value: str) -> str:
    """Quote a value so that Hydra's grammar and OmegaConf's interpolation take it literally."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    # A run of backslashes is escaped only before a quote or at the end; Hydra keeps all others as they are.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def _explain(error: Exception, root: type, folders: Sequence[Path] = ()) -> str:
    """Reduce a Hydra or OmegaConf error to one line, with the nearest key where the user mistyped one."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    preset = re.match(r"In '(.+)': \w+ raised while composing config:", lines[0]) if len(lines) > 1 else None
    where = f"preset {preset[1]}: " if preset else ""
    text = lines[1 if preset else 0] if lines else type(cause).__name__
    if unresolved := re.search(r"raised while resolving interpolation: (.*)", text):
        text = unresolved[1].strip("\"'")
    unknown = re.search(r"Key '([^']+)' (?:is )?not in|Key '([^']+)' not", text)
    full_key = re.search(r"full_key: (\S+)", str(cause))
    if unknown:
        name = full_key[1] if full_key else (unknown[1] or unknown[2])
        return where + _unknown_key(name, _known_keys(root))
    option = re.search(r"Could not find '([^/']+)/([^']+)'", str(error))
    if option:
        return f"unknown preset '{option[1]}={option[2]}'; choose from: {', '.join(group_options(option[1], folders))}"
    name_of = f"{full_key[1]}: " if full_key and full_key[1] not in text else ""
    return where + name_of + text


def _known_keys(root: type) -> list[str]:
    groups = [field.name for field in dataclasses.fields(root)]
    return [*config_keys(root), *groups]


def describe(value: Any) -> str:
    """Return a field's default as the user would type it."""
    if isinstance(value, enum.Enum):
        return value.name
    return "null" if value is None else str(value)
