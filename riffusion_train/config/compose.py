"""Compose a command's config: typed root dataclass <- presets in `conf/` <- `key=value` arguments of the command line.

Hydra composes and nothing more: it makes no run directory and sets up no logging. The root dataclass is stored as
`<verb>_schema`. A verb with preset groups has a file `conf/<verb>.yaml`, whose `defaults` begin with the schema; other verbs
are composed from the schema alone. Either way an unknown key in any preset or override fails at once.
"""

import dataclasses
import difflib
import enum
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

_RENAMED_KEYS = {"lane": "unet_batch_size"}
"""Keys of version 0.1.0 that have another name now; they are still accepted, with a warning."""


def conf_dir() -> Path:
    """Return the folder of presets: beside this package in an installed wheel, at the repository root in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no conf/ beside {package} or its parent; reinstall riffusion-train")


def group_options(group: str) -> list[str]:
    """Return the names of the presets in `conf/<group>/`, sorted; empty where there is no such group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def compose(verb: str, root: type[Root], arguments: Sequence[str]) -> Root:
    """Compose the config of `verb` from its presets and the command line's `key=value` arguments.

    Args:
        verb: The command; `conf/<verb>.yaml` names its default presets, where it has preset groups.
        root: The root dataclass.
        arguments: Overrides as the user typed them. Values of text fields are taken literally, so that a path may contain
            spaces, commas, quotes and parentheses.

    Raises:
        InputError: For an unknown key or preset, a value of the wrong type, or mandatory keys that are missing (all of
            them in one message).
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name=f"{verb}_schema", node=root)
    overrides = [override for argument in arguments for override in _as_overrides(argument, root)]
    has_file = (conf_dir() / f"{verb}.yaml").is_file()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            config = hydra_compose(config_name=verb if has_file else f"{verb}_schema", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explain(error, root)) from None
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise InputError(f"{verb} needs {', '.join(f'{key}=…' for key in missing)}; see riffusion {verb} --help")
    try:
        return typing.cast(Root, OmegaConf.to_object(config))
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(_explain(error, root)) from None


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


def _as_overrides(argument: str, root: type) -> list[str]:
    """Turn one command-line argument into Hydra overrides, with text values quoted."""
    key, separator, value = argument.partition("=")
    key = _renamed(key, root)
    if not separator:
        raise InputError(f"'{argument}' is not key=value (texts go in --prompt TEXT, and so on)")
    group = key.lstrip("+~")
    if group in _GROUP_SHORTHAND and (conf_dir() / group).is_dir() and value not in group_options(group):
        return [f"{group}={_GROUP_SHORTHAND[group]}", f"{group}.path={_quoted(value)}"]
    if is_text(root, group) and value not in ("null", "???"):
        return [f"{key}={_quoted(value)}"]
    return [f"{key}={value}"]


def is_text(root: type, key: str) -> bool:
    """Whether a dotted key of a config dataclass holds free text, in which commas and brackets are ordinary characters."""
    kind: Any = root
    for part in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        kind = typing.get_type_hints(kind).get(part)
    return kind in (str, str | None)


def _quoted(value: str) -> str:
    """Quote a value so that Hydra's grammar and OmegaConf's interpolation take it literally."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    # A run of backslashes is escaped only before a quote or at the end; Hydra keeps all others as they are.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return "'" + escaped.replace("${", "\\${") + "'"


def _explain(error: Exception, root: type) -> str:
    """Reduce a Hydra or OmegaConf error to one line, with the nearest key where the user mistyped one."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else type(cause).__name__
    unknown = re.search(r"Key '([^']+)' (?:is )?not in|Key '([^']+)' not", text)
    full_key = re.search(r"full_key: (\S+)", str(cause))
    if unknown:
        name = full_key[1] if full_key else (unknown[1] or unknown[2])
        near = difflib.get_close_matches(name, _known_keys(root), n=1)
        return f"unknown key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
    option = re.search(r"Could not find '([^/']+)/([^']+)'", str(error))
    if option:
        return f"unknown preset '{option[1]}={option[2]}'; choose from: {', '.join(group_options(option[1]))}"
    name_of = f"{full_key[1]}: " if full_key and full_key[1] not in text else ""
    return name_of + text


def _known_keys(root: type) -> list[str]:
    groups = [field.name for field in dataclasses.fields(root)]
    return [*config_keys(root), *groups]


def describe(value: Any) -> str:
    """Return a field's default as the user would type it."""
    if isinstance(value, enum.Enum):
        return value.name
    return "null" if value is None else str(value)
