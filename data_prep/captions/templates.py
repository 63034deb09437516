"""Templates: fields read out of a path, and captions composed of fields."""

import re
import string
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.captions.text import clean_caption
from data_prep.inputs.tables import Value
from riffusion_train.runtime.errors import InputError

_FIELD = re.compile(r"\{(\w*)\}")


class PathTemplate:
    """Reads fields out of the last parts of a path: `{genre}/{artist} - {title}`; `{}` matches anything and keeps nothing.

    Args:
        text: The template, without the suffix of the files.

    Raises:
        InputError: If it has no field, or one twice.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.fields = [name for name in _FIELD.findall(text) if name]
        if not self.fields or len(set(self.fields)) != len(self.fields):
            raise InputError(f"path_template={text}: write fields as {{genre}}/{{artist}} - {{title}}, each once")
        literals = _FIELD.split(text)
        pattern = ""
        for index, piece in enumerate(literals):
            named = rf"(?P<{piece}>[^/]+?)" if piece else "[^/]+?"
            pattern += re.escape(piece) if index % 2 == 0 else named
        self._pattern = re.compile(pattern)
        self._depth = text.count("/") + 1

    def read(self, source: str) -> dict[str, str] | None:
        """Return the fields of a path with forward slashes, underscores as spaces; None where it does not match."""
        parts = PurePosixPath(source).with_suffix("").parts[-self._depth :]
        found = self._pattern.fullmatch("/".join(parts))
        return (
            {name: clean_caption(text.replace("_", " ")) for name, text in found.groupdict().items()} if found else None
        )


class _Field(NamedTuple):
    names: tuple[str, ...]
    """Alternatives: the first that is known is taken."""
    text: str | None
    """What stands in where none is."""
    format: str


class CaptionTemplate:
    """Composes a caption of fields: `{genre|style} {instrument|"music"}, {bpm:.0f} bpm, in {key}`.

    A part between commas is left out where it has fields and none of them is known; so is the whole caption where nothing
    is left of its fields. `{a|b|"text"}` takes the first field that is known, or the text.

    Args:
        text: The template.

    Raises:
        InputError: If it cannot be parsed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts: list[list[str | _Field]] = [[]]
        try:
            for literal, name, form, _ in string.Formatter().parse(text):
                first, *others = literal.split(",")
                self._parts[-1].append(first)
                self._parts += [[other] for other in others]
                if name is not None:
                    self._parts[-1].append(_field(name, form or ""))
        except ValueError as error:
            raise InputError(f"caption_template={text}: {error}; write fields as {{genre}} or {{bpm:.0f}}") from None

    @property
    def names(self) -> list[str]:
        """Names of all fields."""
        return [name for part in self._parts for piece in part if isinstance(piece, _Field) for name in piece.names]

    def check(self, known: Iterable[str]) -> None:
        """Refuse a field that no track can have.

        Raises:
            InputError: Naming the field and those there are.
        """
        there = sorted(known)
        for name in self.names:
            if name not in there:
                have = f"there are {', '.join(there)}" if there else "there are none"
                raise InputError(f"caption_template: no column or field '{name}'; {have}")

    def fill(self, fields: Mapping[str, Value]) -> str | None:
        """Return the caption for a track's fields; None where nothing is known."""
        texts, any_known = [], not self.names
        for part in self._parts:
            filled = [piece if isinstance(piece, str) else _text(piece, fields) for piece in part]
            known = [text for piece, text in zip(part, filled, strict=True) if isinstance(piece, _Field) and text]
            if known or not any(isinstance(piece, _Field) for piece in part):
                texts.append(clean_caption("".join(text or "" for text in filled)))
            any_known = any_known or bool(known)
        return ", ".join(text for text in texts if text) or None if any_known else None


def _field(name: str, form: str) -> _Field:
    *names, last = (word.strip() for word in name.split("|"))
    if len(last) >= 2 and last[0] == last[-1] and last[0] in "'\"":
        return _Field(tuple(names), last[1:-1], form)
    for word in (*names, last):
        if not word.isidentifier():
            raise ValueError(f"'{word}' is no name of a column")
    return _Field((*names, last), None, form)


def _text(field: _Field, fields: Mapping[str, Value]) -> str | None:
    for name in field.names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        try:
            return format(value, field.format)
        except ValueError:
            try:
                return format(float(value), field.format)
            except ValueError:  # a text where a number was meant: better as it is than not at all
                return str(value)
    return field.text
