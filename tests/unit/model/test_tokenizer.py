import gzip
from pathlib import Path

import pytest

import riffusion_train.model.tokenizer as tokenizer_module
from riffusion_train.model.tokenizer import MAX_LENGTH, VOCABULARY_SIZE, build_tokenizer, write_tokenizer


def test_the_ids_are_those_of_stable_diffusion() -> None:
    tokenizer = build_tokenizer()
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("hello world!")["input_ids"] == [49406, 3306, 1002, 256, 49407]


def test_long_texts_are_cut_and_short_ones_padded_with_the_end_token() -> None:
    tokenizer = build_tokenizer()
    for text in ("piano", "piano " * 200):
        ids = tokenizer(text, padding="max_length", max_length=MAX_LENGTH, truncation=True)["input_ids"]
        assert len(ids) == MAX_LENGTH
        assert ids[-1] == 49407


def test_a_damaged_vocabulary_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = tmp_path / "vocabulary"
    vocabulary.mkdir()
    (vocabulary / tokenizer_module._VOCABULARY_FILE).write_bytes(gzip.compress(b"not the vocabulary"))
    monkeypatch.setattr(tokenizer_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(RuntimeError, match="the installation is damaged"):
        write_tokenizer(tmp_path / "out")
