"""Captions as text: cleaning, reading one caption per line, and counting tokens."""

import functools
import gzip
import unicodedata
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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


MAX_TOKENS = 77
"""Length of CLIP's context with its start and end tokens; training cuts off longer captions."""
_NUM_MERGES = 49408 - 2 * 256 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def count_tokens(captions: Iterable[str]) -> list[int]:
    """Return the number of tokens of each caption, with the start and end tokens."""
    return [len(encoded.ids) + 2 for encoded in _tokenizer().encode_batch(list(captions))]


@functools.cache
def _tokenizer() -> "Tokenizer":
    """Build CLIP's byte-pair encoder from the vocabulary file that the package carries.

    It is the tokenizer of `riffusion_train.model`, which stays out of here because it takes transformers; a test holds the two
    equal.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    packed = resources.files("riffusion_train") / "model" / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : _NUM_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer
