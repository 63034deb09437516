"""CLIP's byte-pair encoding (Radford et al. 2021, arXiv:2103.00020), from the vocabulary file that OpenAI published.

It stands this low because `prepare` counts the tokens of captions with it, without importing transformers, and the model's
tokenizer is built from it.
"""

import functools
import gzip
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_SIZE = 49408
MAX_TOKENS = 77
"""Tokens that the text encoder sees, start and end included."""
START, END = "<|startoftext|>", "<|endoftext|>"
START_ID, END_ID = 49406, 49407

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = VOCABULARY_SIZE - 2 * 256 - 2  # every byte within and at the end of a word, start and end are no merges
_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@functools.cache
def read_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return the ids of the tokens, and the merges in order, each as two symbols with a space between.

    Raises:
        RuntimeError: If the packaged file does not have the published SHA-256.
    """
    packed = (resources.files("riffusion_train.runtime") / "vocabulary" / VOCABULARY_FILE).read_bytes()
    check_sha256(VOCABULARY_FILE, packed, _SHA256)
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _NUM_MERGES + 1]
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge.split()) for merge in merges)]
    return {token: index for index, token in enumerate([*tokens, START, END])}, merges


@functools.cache
def make_encoder() -> "Tokenizer":
    """Return an encoder without special tokens, which gives the ids that the model's tokenizer gives."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    ids, merges = read_vocabulary()
    pairs = [(left, right) for left, right in (merge.split() for merge in merges)]
    encoder = Tokenizer(models.BPE(ids, pairs, end_of_word_suffix="</w>"))
    encoder.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return encoder


def check_sha256(name: str, content: bytes, expected: str) -> None:
    """Refuse a file of the package, or one that is rebuilt from it, that is not the published one.

    Raises:
        RuntimeError: Naming both sums.
    """
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise RuntimeError(f"{name}: SHA-256 {actual} is not {expected}; the installation is damaged")


def _byte_symbols() -> list[str]:
    """Return the printable character that stands for each byte, in the order of GPT-2's byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
