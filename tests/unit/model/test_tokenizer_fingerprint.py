from riffusion_train.model.components import build_tokenizer, tokenizer_fingerprint


def test_one_tokenizer_has_one_fingerprint_whatever_it_was_asked_before() -> None:
    fresh, used = build_tokenizer(), build_tokenizer()
    used(["a band", "a longer band of brass"], padding="max_length", max_length=20, truncation=True)
    assert tokenizer_fingerprint(used) == tokenizer_fingerprint(fresh)


def test_what_changes_the_ids_changes_the_fingerprint() -> None:
    plain, taught, shorter, padded = (build_tokenizer() for _ in range(4))
    taught.add_tokens(["<my-band>"])
    shorter.model_max_length = 40
    padded.pad_token = "!"
    found = [tokenizer_fingerprint(one) for one in (plain, taught, shorter, padded)]
    assert len(set(found)) == 4
