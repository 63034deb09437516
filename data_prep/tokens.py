"""How long a caption is in tokens of the CLIP text encoder that Stable Diffusion 1.5 has."""

import functools
import gzip
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 77
"""What the text encoder sees, its start and end included; a longer caption is cut off in training."""
_NUM_MERGES = 49408 - 2 * 256 - 2
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def count_tokens(captions: Iterable[str]) -> list[int]:
    """Return the number of tokens of each caption, start and end included."""
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
