"""Tables of captions: CSV, TSV or JSONL with one row a file, or several rows where a file has several captions."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.captions import clean_captions
from riffusion_train.config.errors import InputError
from riffusion_train.dataset.layout import COLUMNS, SPLITS

TABLE_NAMES = ("captions.csv", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "audio")
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description")
_SPLIT_NAMES = {name: name for name in SPLITS} | {"training": "train", "val": "validation", "valid": "validation"}
_SPLIT_NAMES |= {"dev": "validation", "eval": "validation", "testing": "test"}
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")

Value = str | int | float | bool | None


@dataclasses.dataclass(frozen=True)
class TableRow:
    """What a table says about one file."""

    captions: tuple[str, ...]
    columns: dict[str, Value]
    artist: str | None
    split: str | None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of captions."""

    path: Path
    rows: dict[str, TableRow]
    """By the file's path as the table writes it."""
    types: dict[str, str]
    """Type of each extra column: string, int64, float64 or bool."""


def read_table(
    path: Path,
    file_column: str | None = None,
    caption_column: str | None = None,
    artist_column: str | None = None,
    split_column: str | None = None,
) -> Table:
    """Read a table of captions.

    Args:
        path: A .csv or .tsv file with a header, or a .jsonl file.
        file_column: Column with the file's path; None takes the first of `FILE_COLUMNS`.
        caption_column: Column with the caption, or in JSONL with a list of them; None takes the first of `CAPTION_COLUMNS`.
        artist_column: Column with the artist; None takes `artist` where there is one.
        split_column: Column with the split; None takes `split` where there is one.

    Raises:
        InputError: If the file cannot be read, a column is missing, or an extra column bears a name the dataset uses.
    """
    records = _read_records(path)
    if not records:
        raise InputError(f"{path}: the table has no rows")
    names = list(dict.fromkeys(name for record in records for name in record))
    file_name = _choose(path, "file_column", file_column, FILE_COLUMNS, names)
    caption_name = _choose(path, "caption_column", caption_column, CAPTION_COLUMNS, names)
    artist_name = _optional(path, "artist_column", artist_column, "artist", names)
    split_name = _optional(path, "split_column", split_column, "split", names)
    extra = [name for name in names if name not in (file_name, caption_name, split_name)]
    for name in extra:
        if name in COLUMNS:
            raise InputError(f"{path}: column '{name}' bears a name the dataset itself uses; rename it in the table")
    grouped: dict[str, list[dict[str, Any]]] = {}
    for number, record in enumerate(records, start=1):
        file = str(record.get(file_name) or "").strip()
        if not file:
            raise InputError(f"{path}: row {number} has nothing in column '{file_name}'")
        grouped.setdefault(file, []).append(record)
    types = {name: _column_type([record.get(name) for record in records]) for name in extra}
    rows = {
        file: TableRow(
            captions=clean_captions(text for record in group for text in _texts(record.get(caption_name))),
            columns={name: _as_type(group[0].get(name), types[name]) for name in extra},
            artist=str(group[0].get(artist_name) or "").strip() or None if artist_name else None,
            split=_split_of(path, file, group, split_name),
        )
        for file, group in grouped.items()
    }
    return Table(path, rows, types)


def _read_records(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text; save the table as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the table with table=PATH") from None
    return _read_jsonl(path, text) if path.suffix.lower() in (".jsonl", ".ndjson") else _read_csv(path, text)


def _read_jsonl(path: Path, text: str) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f'{path}: line {number} is not an object; write {{"file": …, "caption": …}}')
        records.append(record)
    return records


def _read_csv(path: Path, text: str) -> list[dict[str, Any]]:
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        records = [dict(record) for record in reader]
    except csv.Error as error:
        raise InputError(f"{path}: not a table: {error}") from None
    for number, record in enumerate(records, start=2):
        if None in record:
            raise InputError(
                f"{path}: record {number} has more fields than the header; put quotes around texts with '{delimiter}'"
            )
    return records


def _choose(path: Path, key: str, named: str | None, usual: Sequence[str], names: Sequence[str]) -> str:
    for name in [named] if named else usual:
        if name in names:
            return name
    wanted = f"'{named}'" if named else f"any of {', '.join(usual)}"
    raise InputError(f"{path}: no column {wanted}; it has {', '.join(names)}; name one with {key}=")


def _optional(path: Path, key: str, named: str | None, usual: str, names: Sequence[str]) -> str | None:
    if named is None:
        return usual if usual in names else None
    return _choose(path, key, named, (), names)


def _texts(cell: Any) -> list[str]:
    if cell is None:
        return []
    return [str(item) for item in cell] if isinstance(cell, list) else [str(cell)]


def _split_of(path: Path, file: str, group: Sequence[dict[str, Any]], name: str | None) -> str | None:
    if name is None:
        return None
    said = {str(record.get(name) or "").strip().lower() for record in group} - {""}
    unknown = sorted(said - set(_SPLIT_NAMES))
    if unknown:
        raise InputError(f"{path}: {file}: '{unknown[0]}' in column '{name}' is not {', '.join(SPLITS)}")
    splits = sorted({_SPLIT_NAMES[word] for word in said})
    if len(splits) > 1:
        raise InputError(f"{path}: {file} stands in the splits {' and '.join(splits)}; leave one")
    return splits[0] if splits else None


def _column_type(cells: Sequence[Any]) -> str:
    """Return the narrowest type that holds every cell of a column without loss."""
    known = [cell for cell in cells if cell is not None and cell != ""]
    if known and all(isinstance(cell, bool) for cell in known):
        return "bool"
    texts = [cell if isinstance(cell, str) else json.dumps(cell) for cell in known]
    if known and all(_INTEGER.fullmatch(text) for text in texts):
        return "int64"
    return "float64" if known and all(_NUMBER.fullmatch(text) for text in texts) else "string"


def _as_type(cell: Any, kind: str) -> Value:
    if cell is None or cell == "":
        return None
    if kind == "bool":
        return bool(cell)
    if kind == "int64":
        return int(cell)
    if kind == "float64":
        return float(cell)
    return cell.strip() if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
