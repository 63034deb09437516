import gzip
import hashlib
import json
from pathlib import Path

import pytest

from riffusion_train.model import components
from riffusion_train.model.components import (
    build_tokenizer,
    is_standard,
    load_tokenizer,
    save_tokenizer,
    tokenizer_fingerprint,
    write_tokenizer,
)
from riffusion_train.runtime import clip_bpe
from riffusion_train.runtime.clip_bpe import MAX_TOKENS, VOCABULARY_SIZE


def test_the_ids_are_those_of_stable_diffusion() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!")["input_ids"] == [49406, 3306, 1002, 256, 49407]


def test_long_texts_are_cut_and_short_ones_padded_with_the_end_token() -> None:
    tokenizer = build_tokenizer()
    for text in ("piano", "piano " * 200):
        ids = tokenizer(text, padding="max_length", max_length=MAX_TOKENS, truncation=True)["input_ids"]
        assert len(ids) == MAX_TOKENS
        assert ids[-1] == 49407


def test_transformers_4_finds_the_files_that_it_reads(tmp_path: Path) -> None:
    save_tokenizer(build_tokenizer(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    for name in ("vocab.json", "merges.txt"):
        # The sums of the files that Stable Diffusion 1.5 ships: transformers 4's slow tokenizer is built from these two.
        found = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert found == components._TOKENIZER_SHA256[name]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "CLIPTokenizer"
    assert settings["pad_token"] == "<|endoftext|>"


def test_a_standard_tokenizer_is_read_as_it_was_with_tokenizer_json_and_without(tmp_path: Path) -> None:
    used = build_tokenizer()
    used("piano", padding="max_length", max_length=9, truncation=True)
    save_tokenizer(used, tmp_path / "without")
    used.save_pretrained(tmp_path / "with")  # as version 0.1.0 did
    for name in ("without", "with"):
        read = load_tokenizer(tmp_path / name)
        assert tokenizer_fingerprint(read) == tokenizer_fingerprint(build_tokenizer())
        assert read.special_tokens_map == used.special_tokens_map
        assert read.model_max_length == used.model_max_length


def test_a_tokenizer_with_words_of_its_own_keeps_them_in_every_file(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<my-band>"])
    assert not is_standard(tokenizer)
    save_tokenizer(tokenizer, tmp_path)
    ids = tokenizer("a <my-band> song")["input_ids"]
    assert CLIPTokenizer.from_pretrained(tmp_path)("a <my-band> song")["input_ids"] == ids
    assert len(json.loads((tmp_path / "vocab.json").read_text())) == VOCABULARY_SIZE
    assert (tmp_path / "merges.txt").read_text().splitlines()[1] == "i n"


def test_a_damaged_vocabulary_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = tmp_path / "vocabulary"
    vocabulary.mkdir()
    (vocabulary / clip_bpe.VOCABULARY_FILE).write_bytes(gzip.compress(b"not the vocabulary"))
    clip_bpe.read_vocabulary.cache_clear()
    components._standard_files.cache_clear()
    monkeypatch.setattr(clip_bpe.resources, "files", lambda package: tmp_path)
    with pytest.raises(RuntimeError, match="the installation is damaged"):
        write_tokenizer(tmp_path / "out")
