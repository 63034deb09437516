import random

from data_prep.captions.text import count_tokens
from riffusion_train.model.tokenizer import build_tokenizer
from riffusion_train.runtime.clip_bpe import MAX_TOKENS


def test_tokens_are_counted_as_the_models_tokenizer_counts_them():
    draw = random.Random(0)
    pool = "abc ABC é ñ 123 ,.!?'s don't 日本 🎸 - _ \t ß piano drums"
    texts = ["".join(draw.choice(pool) for _ in range(draw.randint(0, 60))) for _ in range(500)]
    tokenizer = build_tokenizer()
    assert count_tokens(texts) == [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert tokenizer.model_max_length == MAX_TOKENS
