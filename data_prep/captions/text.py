"""Captions as text: cleaning, reading one caption per line, counting tokens, and composing captions from fields.

A template of paths reads fields from the name of a file; a template of captions composes a caption from any fields.
"""

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from riffusion_train.runtime.clip_bpe import make_encoder
from riffusion_train.runtime.errors import InputError

Value = str | int | float | bool | None
"""A field of a caption, and a cell of an extra column."""
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))
"""Byte-order mark, zero-width space, word joiner: invisible, and yet they change the tokens of a caption."""


def clean_caption(text: str) -> str:
    """Return `text` in Unicode NFC, without control characters, with single spaces and none at the ends."""
    composed = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    printable = "".join(" " if unicodedata.category(char) == "Cc" else char for char in composed)
    return " ".join(printable.split())


def clean_captions(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the cleaned captions in their order, without empty ones and repetitions."""
    return tuple(dict.fromkeys(caption for caption in map(clean_caption, texts) if caption))


def one_line_caption(value: object) -> str | None:
    """Return a value as a cleaned text; None if it is None or empty."""
    return (clean_caption(str(value)) or None) if value is not None else None


def parse_sidecar(where: str, content: bytes) -> tuple[str, ...]:
    """Return the captions of a `.txt` sidecar: one per line, in UTF-8.

    Args:
        where: Its name, for messages.
        content: Its bytes.

    Raises:
        InputError: If it is not UTF-8 text.
    """
    try:
        return clean_captions(content.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8 text; save it as UTF-8") from None


def read_sidecar(path: Path) -> tuple[str, ...]:
    """Read a sidecar from a file; see `parse_sidecar`."""
    try:
        return parse_sidecar(str(path), path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def count_tokens(captions: Iterable[str]) -> list[int]:
    """Return the number of tokens of each caption, start and end included."""
    return [len(encoded.ids) + 2 for encoded in make_encoder().encode_batch(list(captions))]


_FIELD = re.compile(r"\{(\w*)\}")


class PathTemplate:
    """Reads fields from the last parts of a path: `{genre}/{artist} - {title}`; `{}` matches anything and keeps nothing.

    Args:
        text: The template, without the suffix of the files.

    Raises:
        InputError: If it has no field, or has one twice.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.fields = [name for name in _FIELD.findall(text) if name]
        if not self.fields or len(set(self.fields)) != len(self.fields):
            raise InputError(f"path_template={text}: write fields as {{genre}}/{{artist}} - {{title}}, each once")
        pattern = ""
        for index, piece in enumerate(_FIELD.split(text)):  # literals at even places, names of fields at odd ones
            named = rf"(?P<{piece}>[^/]+?)" if piece else "[^/]+?"
            pattern += re.escape(piece) if index % 2 == 0 else named
        self._pattern = re.compile(pattern)
        self._depth = text.count("/") + 1

    def read(self, source: str) -> dict[str, str] | None:
        """Return the fields of a path with forward slashes, underscores as spaces; None if it does not match."""
        parts = PurePosixPath(source).with_suffix("").parts[-self._depth :]
        match = self._pattern.fullmatch("/".join(parts))
        if match is None:
            return None
        return {name: clean_caption(text.replace("_", " ")) for name, text in match.groupdict().items()}


class _Field(NamedTuple):
    names: tuple[str, ...]
    """Alternatives: the first field with a value is taken."""
    text: str | None
    """Default if none has a value."""
    format: str


class CaptionTemplate:
    """Composes a caption from fields: `{genre|style} {instrument|"music"}, {bpm:.0f} bpm, in {key}`.

    A part between commas is left out if it has fields and none of them has a value; so is the whole caption if none of its
    fields has one. `{a|b|"text"}` takes the first field that has a value, or else the text.

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
        """Names of all fields, in order."""
        return [name for field in self._fields for name in field.names]

    def check(self, known: Iterable[str]) -> list[str]:
        """Refuse a field that no track can have.

        Args:
            known: The fields that tracks can have.

        Returns:
            The names that no track can have and that have an alternative, so that the template can be used without them.

        Raises:
            InputError: Naming the field, and those that exist.
        """
        existing = set(known)
        have = f"there are {', '.join(sorted(existing))}" if existing else "there are none"
        for field in self._fields:
            if field.text is None and existing.isdisjoint(field.names):
                raise InputError(f"caption_template: no column or field '{field.names[0]}'; {have}")
        return [name for name in dict.fromkeys(self.names) if name not in existing]

    @property
    def _fields(self) -> list[_Field]:
        return [piece for part in self._parts for piece in part if isinstance(piece, _Field)]

    def fill(self, fields: Mapping[str, Value]) -> str | None:
        """Return the caption for a track's fields; None if none of its fields has a value."""
        texts, any_known = [], not self.names
        for part in self._parts:
            filled = [piece if isinstance(piece, str) else _text(piece, fields) for piece in part]
            known = [text for piece, text in zip(part, filled, strict=True) if isinstance(piece, _Field) and text]
            if known or not any(isinstance(piece, _Field) for piece in part):
                texts.append(clean_caption("".join(text or "" for text in filled)))
            any_known = any_known or bool(known)
        return ", ".join(text for text in texts if text) or None if any_known else None


def _field(name: str, form: str) -> _Field:
    *names, last = (alternative.strip() for alternative in name.split("|"))
    if len(last) >= 2 and last[0] == last[-1] and last[0] in "'\"":
        return _Field(tuple(names), last[1:-1], form)
    for alternative in (*names, last):
        if not alternative.isidentifier():
            raise ValueError(f"'{alternative}' is not the name of a column")
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
            except ValueError:  # a text where the format expects a number: use it as it is
                return str(value)
    return field.text
