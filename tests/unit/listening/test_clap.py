"""CLAP as an embedder, with a small model of its architecture and random weights, made here."""

import json

import numpy as np
import pytest
import torch

from riffusion_train.listening.embedder import load_clap, make_embedder
from riffusion_train.runtime.errors import InputError

RATE_HZ = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

    path = tmp_path_factory.mktemp("clap")
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyzĠ"]
    tokenizer = RobertaTokenizer({word: index for index, word in enumerate(words)}, [], model_max_length=24)
    extractor = ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc")
    ClapProcessor(extractor, tokenizer).save_pretrained(path)
    text = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 40,
    }  # fmt: skip
    audio = {
        "window_size": 4, "spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "depths": [1, 1], "num_attention_heads": [1, 2], "num_classes": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=12))
    model.save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def clap(folder):
    return make_embedder("clap", str(folder))


def noise(duration_s, rate_hz=RATE_HZ, channels=1, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((channels, round(duration_s * rate_hz))).astype(np.float32)


def test_clips_of_any_length_are_heard_in_patches_of_unit_length(clap):
    clips = [(noise(1.0), RATE_HZ), (noise(2.0, 22_050, 2), 22_050), (noise(5.0), RATE_HZ)]
    heard = clap.hear(clips)
    assert [clip.patches.shape for clip in heard] == [(1, 12), (1, 12), (3, 12)]
    np.testing.assert_allclose(np.linalg.norm(heard[2].patches, axis=1), 1, atol=1e-5)
    assert heard[0].tags == {} and heard[0].patch_tags.shape == (1, 0) and heard[2].patch_tags.shape == (3, 0)
    assert np.abs(heard[2].patches[0] - heard[2].patches[2]).max() > 1e-6


def test_what_is_heard_is_the_same_every_time_and_alone(clap):
    clips = [(noise(seconds, seed=seed), RATE_HZ) for seed, seconds in enumerate((5.0, 1.0))]
    together = clap.hear(clips)
    assert (clap.hear(clips[:1])[0].patches == together[0].patches).all()
    assert (clap.hear(clips[1:])[0].patches == together[1].patches).all()


def test_texts_are_embedded_in_the_same_space_whatever_is_beside_them(clap):
    texts = ["a slow piano", "drums", "a very long text " * 20]
    together = clap.embed_texts(texts)
    assert together.shape == (3, clap.dim) == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(clap.embed_texts(texts[1:2]), together[1:2], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-4
    assert clap.embed_texts([]).shape == (0, 12)


def test_a_clip_without_samples_is_named(clap):
    with pytest.raises(InputError, match="clip 1 of 1: holds no audio samples"):
        clap.hear([(np.zeros((2, 0), np.float32), RATE_HZ)])


def test_what_is_no_clap_is_one_line(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"^\./nowhere: no such file or folder"):
        load_clap("./nowhere")
    with pytest.raises(InputError, match=r"cannot be loaded .*set embedder=musicnn") as caught:
        load_clap(str(tmp_path))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="embedder=clap: user/no-such-clap cannot be loaded") as caught:
        load_clap("user/no-such-clap")
    assert "\n" not in str(caught.value)


def test_pickles_are_not_read(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_clap(str(tmp_path))


def test_a_model_that_lacks_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("audio_projection"))
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clap"
    with pytest.raises(InputError, match="is no whole CLAP model, it lacks audio_projection"):
        load_clap(str(tmp_path))
