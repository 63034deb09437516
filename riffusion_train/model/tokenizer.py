"""The tokenizer of Stable Diffusion 1.5, rebuilt byte for byte from CLIP's published BPE vocabulary file.

The rebuilt `vocab.json` and `merges.txt` have the SHA-256 sums of the files that Stable Diffusion 1.5 ships, and both are
checked before they are written.
"""

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from riffusion_train.runtime.clip_bpe import END, MAX_TOKENS, START, VOCABULARY_SIZE, check_sha256, read_vocabulary
from riffusion_train.runtime.files import json_text, write_atomically, write_json

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_SHA256 = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}
_SETTINGS = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": MAX_TOKENS,
    "bos_token": START,
    "eos_token": END,
    "unk_token": END,
    "pad_token": END,
    "do_lower_case": True,
    "add_prefix_space": False,
    "errors": "replace",
}


def build_tokenizer() -> "CLIPTokenizer":
    """Return the Stable Diffusion 1.5 tokenizer, without the network."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)


def load_tokenizer(folder: Path) -> "CLIPTokenizer":
    """Read a folder's tokenizer.

    Raises:
        OSError: If the folder holds no tokenizer.
        ValueError: If it holds a damaged one.
    """
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def write_tokenizer(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and `tokenizer_config.json` into `folder`.

    Raises:
        RuntimeError: If the packaged vocabulary or a rebuilt file does not have the published SHA-256.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _standard_files().items():
        (folder / name).write_bytes(content)
    write_json(folder / "tokenizer_config.json", _SETTINGS, ascii_only=True)


def save_tokenizer(tokenizer: "CLIPTokenizer", folder: Path) -> None:
    """Write a tokenizer for every transformers: `vocab.json` and `merges.txt`, and `tokenizer.json` unless it is the standard.

    Of the standard one transformers 4 and 5 read the first two; `tokenizer.json` would be 3.6 MB more, and slower to read.
    """
    if is_standard(tokenizer):
        write_tokenizer(folder)
        return
    with _as_made(tokenizer):
        tokenizer.save_pretrained(folder)
    if (folder / "vocab.json").is_file() or not (folder / "tokenizer.json").is_file():
        return
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_json(folder / "vocab.json", model["vocab"])
    write_atomically(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")


def is_standard(tokenizer: "CLIPTokenizer") -> bool:
    """Say whether a tokenizer has exactly the vocabulary of Stable Diffusion 1.5."""
    if len(tokenizer) != VOCABULARY_SIZE:
        return False
    vocabulary, _ = read_vocabulary()
    return tokenizer.get_vocab() == vocabulary


def tokenizer_fingerprint(tokenizer: "CLIPTokenizer") -> str:
    """Return a short hash of all that turns a text into ids: vocabulary, merges, normalisation, added tokens, length."""
    with _as_made(tokenizer):
        digest = hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode("utf-8"), digest_size=16)
    digest.update(f"{tokenizer.model_max_length} {tokenizer.pad_token_id}".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _as_made(tokenizer: "CLIPTokenizer") -> Iterator[None]:
    """Remove for the length of a block the padding and truncation that the last call left in a tokenizer."""
    backend = tokenizer.backend_tokenizer
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


@functools.cache
def _standard_files() -> dict[str, bytes]:
    """Return `vocab.json` and `merges.txt`, checked."""
    ids, merges = read_vocabulary()
    files = {
        "vocab.json": json_text(ids, sort_keys=True).encode("utf-8"),
        "merges.txt": ("#version: 0.2\n" + "\n".join(merges) + "\n").encode("utf-8"),
    }
    for name, content in files.items():
        check_sha256(name, content, _SHA256[name])
    return files
