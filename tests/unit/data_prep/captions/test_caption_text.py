import random

import pytest

from data_prep.captions.text import clean_caption, clean_captions, count_tokens, read_sidecar
from riffusion_train.model.components import build_tokenizer
from riffusion_train.runtime.clip_bpe import MAX_TOKENS
from riffusion_train.runtime.errors import InputError


def test_a_caption_loses_control_characters_and_stray_spaces_and_is_composed():
    assert clean_caption("\ufeff  cafe\u0301\tjazz,\x00 slow\u200b \n") == "café jazz, slow"


def test_captions_keep_their_order_without_blanks_and_repetitions():
    assert clean_captions(["b", " ", "a", "b ", "a"]) == ("b", "a")


def test_a_sidecar_gives_one_caption_per_line(tmp_path):
    (tmp_path / "song.txt").write_bytes("\ufeffdrums, bass\r\n\r\nslow “dub”\r\n".encode())
    assert read_sidecar(tmp_path / "song.txt") == ("drums, bass", "slow “dub”")


def test_a_sidecar_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "song.txt").write_bytes("Fühling".encode("latin-1"))
    with pytest.raises(InputError, match=r"song\.txt: not UTF-8"):
        read_sidecar(tmp_path / "song.txt")


def test_tokens_are_counted_as_the_models_tokenizer_counts_them():
    draw = random.Random(0)
    pool = "abc ABC é ñ 123 ,.!?'s don't 日本 🎸 - _ \t ß piano drums"
    texts = ["".join(draw.choice(pool) for _ in range(draw.randint(0, 60))) for _ in range(500)]
    tokenizer = build_tokenizer()
    assert count_tokens(texts) == [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert tokenizer.model_max_length == MAX_TOKENS
