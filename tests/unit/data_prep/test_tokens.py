import random

from data_prep.captions.text import MAX_TOKENS, count_tokens
from riffusion_train.model.tokenizer import MAX_LENGTH, build_tokenizer


def test_tokens_are_counted_as_the_models_tokenizer_counts_them():
    draw = random.Random(0)
    pool = "abc ABC é ñ 123 ,.!?'s don't 日本 🎸 - _ \t ß piano drums"
    texts = ["".join(draw.choice(pool) for _ in range(draw.randint(0, 60))) for _ in range(500)]
    tokenizer = build_tokenizer()
    assert count_tokens(texts) == [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert MAX_TOKENS == MAX_LENGTH
