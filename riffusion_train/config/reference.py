"""The config reference: every key with default and meaning, read from the dataclasses themselves.

`python -m riffusion_train.config.reference docs/config.md` writes it, `--check` before the path compares it.
"""

import ast
import dataclasses
import enum
import functools
import inspect
import itertools
import sys
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from riffusion_train.config.compose import describe, group_options, preset_groups
from riffusion_train.config.model import ExportConfig, ImportConfig
from riffusion_train.config.prepare import MergeConfig, PageConfig, PrepareConfig
from riffusion_train.config.sample import DemoConfig, GridConfig, PlayConfig, RunConfig, SampleConfig, ScoreConfig
from riffusion_train.config.train import TrainConfig

ROOTS: dict[str, type] = {
    "prepare": PrepareConfig,
    "prepare merge": MergeConfig,
    "prepare page": PageConfig,
    "train": TrainConfig,
    "export": ExportConfig,
    "import": ImportConfig,
    "sample": SampleConfig,
    "evaluate grid": GridConfig,
    "evaluate score": ScoreConfig,
    "evaluate run": RunConfig,
    "play": PlayConfig,
    "demo": DemoConfig,
}
"""The root dataclass of every command that is driven by a config."""

_HEAD = """# Every key

Written by `make docs` from the dataclasses in `riffusion_train/config/`; do not edit. A key is set on the command line as
`key=value`, and a group as a whole by naming a preset of `conf/`: `method=lora`.
"""


@functools.cache
def field_meanings(kind: type) -> dict[str, str]:
    """Return the text below each field or member in the source of a dataclass or enum, on one line each.

    The fields of a dataclass's bases are included.
    """
    meanings: dict[str, str] = {}
    if dataclasses.is_dataclass(kind):
        for base in kind.__bases__:
            if dataclasses.is_dataclass(base):
                meanings |= field_meanings(base)
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]).body
    for statement, after in itertools.pairwise(body):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign | ast.Assign) and is_text:
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            text = typing.cast(ast.Constant, typing.cast(ast.Expr, after).value).value
            meanings[typing.cast(ast.Name, target).id] = " ".join(str(text).split())
    return meanings


def key_rows(root: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, default, meaning) of every leaf of a config dataclass, dotted: its own keys, then the inherited ones."""
    rows = []
    hints = typing.get_type_hints(root)
    own = inspect.get_annotations(root)
    for field in sorted(dataclasses.fields(root), key=lambda field: field.name not in own):
        kind = hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            rows += key_rows(kind, f"{prefix}{field.name}.")
        else:
            rows.append((prefix + field.name, _default(field), _meaning(root, field.name, kind)))
    return rows


def reference() -> str:
    """Return the whole reference as Markdown."""
    parts = [_HEAD]
    for verb, root in ROOTS.items():
        parts.append(f"\n## riffusion {verb}\n")
        fields = {field.name for field in dataclasses.fields(root)}
        groups = [group for group in preset_groups(verb) if group in fields]
        parts += [f"- `{name}=` {', '.join(f'`{option}`' for option in group_options(name))}" for name in groups]
        parts.append(
            "\n| key | default | meaning |\n|---|---|---|" if groups else "| key | default | meaning |\n|---|---|---|"
        )
        parts += [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in key_rows(root)]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the reference, or with `--check` report whether the file is up to date, by the exit code too."""
    path = Path(arguments[-1])
    if "--check" not in arguments:
        path.write_text(reference(), encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == reference():
        return 0
    print(f"{path} is not up to date; run make docs", file=sys.stderr)
    return 1


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return describe(field.default_factory())
    return "…" if field.default == "???" else describe(field.default)


def _meaning(root: type, name: str, kind: Any) -> str:
    text = field_meanings(root).get(name, "")
    kind = next((one for one in typing.get_args(kind) if one is not type(None)), kind)  # of a key that may be null
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        meanings = field_meanings(kind)
        text += " " + "; ".join(
            f"`{member.name}`" + (f": {meanings[member.name].rstrip('.')}" if member.name in meanings else "")
            for member in kind
        )
    return text.replace("|", "\\|").strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
