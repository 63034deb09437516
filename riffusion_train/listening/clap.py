"""LAION-CLAP: sounds and texts in one space, through transformers.

Wu et al. 2023, "Large-scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption Augmentation"
(arXiv:2211.06687). Nothing is part of the package: the model comes from the hub or from a folder, its weights from safetensors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from riffusion_train.listening.patches import Clip, Heard, make_heard, mono_at, patch_starts
from riffusion_train.runtime.errors import InputError, one_line
from riffusion_train.runtime.hub import check_source

DEFAULT_SOURCE = "laion/larger_clap_music"
_SLACK_S = 0.1
"""A shorter rest at the end of a clip gets no patch of its own."""
_TEXTS = 64
"""Texts at a time."""


class ClapEmbedder:
    """CLAP as an embedder: patches of up to 10 s, of unit length, and texts; no tags.

    A clip shorter than a patch is repeated as CLAP's own preprocessing does it. Longer ones are cut into patches here, one
    after another: that preprocessing would take random excerpts.
    """

    def __init__(self, model: Any, processor: Any, name: str, device: str = "cpu") -> None:
        """Take a loaded model.

        Args:
            model: A `transformers.ClapModel`.
            processor: Its `transformers.ClapProcessor`.
            name: Name for records.
            device: Where it computes.
        """
        self.name = name
        self.dim = int(model.config.projection_dim)
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._processor = processor

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is heard in each clip; see `Embedder`."""
        extractor = self._processor.feature_extractor
        rate_hz, longest = int(extractor.sampling_rate), int(extractor.nb_max_samples)
        heard = []
        for number, clip in enumerate(clips, 1):
            mono = mono_at(clip, rate_hz, f"clip {number} of {len(clips)}")
            length = min(longest, len(mono))
            starts = patch_starts(len(mono), length, round(_SLACK_S * rate_hz))
            # One at a time, so that no sum depends on what else is in a batch.
            patches = [self._hear_patch(mono[start : start + length], rate_hz) for start in starts]
            heard.append(make_heard(np.stack(patches)))
        return heard

    @torch.inference_mode()
    def _hear_patch(self, mono: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float32]:
        inputs = self._processor.feature_extractor(mono, sampling_rate=rate_hz, return_tensors="pt")
        features = inputs["input_features"].to(self._device, torch.float32)
        # The preprocessing marks a random sound as longer than a patch when none is. None is.
        is_longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self._device)
        embedding: npt.NDArray[np.float32] = _pooled(
            self._model.get_audio_features(input_features=features, is_longer=is_longer)
        )[0]
        return embedding

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the embeddings of texts, of unit length, shape (texts, dim); long ones are cut off as CLAP was trained."""
        rows = [np.zeros((0, self.dim), np.float32)]
        for first in range(0, len(texts), _TEXTS):
            batch = list(texts[first : first + _TEXTS])
            inputs = self._processor.tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            names = ("input_ids", "attention_mask")
            rows.append(
                _pooled(self._model.get_text_features(**{name: inputs[name].to(self._device) for name in names}))
            )
        return np.concatenate(rows)


def load_clap(source: str | None = None, device: str = "cpu") -> ClapEmbedder:
    """Load CLAP from a folder or the hub.

    Args:
        source: A hub id or a folder with `model.safetensors` and the files of its processor; None takes `DEFAULT_SOURCE`.
        device: Where it computes.

    Raises:
        InputError: If it is not there, cannot be fetched, or is no CLAP in safetensors.
    """
    source = source or DEFAULT_SOURCE
    check_source(source)
    path = Path(source).expanduser()
    place = str(path) if path.exists() else source
    from transformers import ClapModel, ClapProcessor

    try:
        processor = ClapProcessor.from_pretrained(place)
        # Missing weights would be random ones: `output_loading_info` names them.
        model, info = ClapModel.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        fix = "name a folder or hub id of a CLAP model in safetensors, or set embedder=musicnn"
        raise InputError(f"embedder=clap: {source} cannot be loaded ({one_line(error)[:160]}); {fix}") from None
    if missing := sorted(name for name in info["missing_keys"] if not name.endswith("position_ids")):
        raise InputError(f"embedder=clap: {source} is no whole CLAP model, it lacks {missing[0]}; get it again")
    return ClapEmbedder(model, processor, f"clap:{source}", device)


def _pooled(output: Any) -> npt.NDArray[np.float32]:
    """Return the projected embeddings as an array."""
    pooled = getattr(output, "pooler_output", output)
    array: npt.NDArray[np.float32] = pooled.float().cpu().numpy()
    return array
