"""Embedders: pretrained models that listen to clips. One is chosen by name; another one is a class with four members.

musicnn is a music tagger: 3 s of sound to the scores of 50 tags and an embedding of 200 numbers. Pons & Serra 2019, "musicnn:
Pre-trained convolutional neural networks for music audio tagging" (arXiv:1909.06654). The weights are those that its authors
published under the ISC licence, in `weights/` beside the licence; `convert_musicnn.py` made them. The layers are arranged for
speed on a CPU: a batch norm is a scale and an offset, and the maximum over frequency is taken before it, which makes the large
arrays small at once.

LAION-CLAP has sounds and texts in one space, through transformers: Wu et al. 2023, "Large-scale Contrastive Language-Audio
Pretraining with Feature Fusion and Keyword-to-Caption Augmentation" (arXiv:2211.06687). Nothing of it is part of the package:
the model comes from the hub or from a folder, its weights from safetensors.
"""

import dataclasses
import enum
import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.audio.read import resample
from riffusion_train.config.sample import EmbedderName
from riffusion_train.runtime.errors import InputError, member, one_line
from riffusion_train.runtime.hub import check_source

# --- clips and patches -----------------------------------------------------------------------------------------------

Clip = tuple[npt.NDArray[np.float32], int]
"""A sound, shape (channels, samples), full scale 1, and its sample rate in Hz."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a listener heard in a clip."""

    embedding: npt.NDArray[np.float32]
    """Mean over the patches, shape (dim,)."""
    patches: npt.NDArray[np.float32]
    """Embedding of each patch, shape (patches, dim)."""
    tags: dict[str, float]
    """Mean score of each tag over the patches, from 0 to 1; empty for listeners without tags."""
    patch_tags: npt.NDArray[np.float32]
    """Scores of the tags in each patch, shape (patches, tags), in the order of `tags`; (patches, 0) without tags."""


def make_heard(
    patches: npt.NDArray[np.float32], patch_tags: npt.NDArray[np.float32] | None = None, names: Sequence[str] = ()
) -> Heard:
    """Return what was heard from the embeddings (patches, dim) and the scores (patches, tags) of the named tags."""
    if patch_tags is None:
        patch_tags = np.zeros((len(patches), 0), np.float32)
    means = patch_tags.mean(axis=0, dtype=np.float64)
    tags = {name: float(mean) for name, mean in zip(names, means, strict=True)}
    return Heard(patches.mean(axis=0, dtype=np.float64).astype(np.float32), patches, tags, patch_tags)


def _mono_at(clip: Clip, rate_hz: int, label: str = "clip") -> npt.NDArray[np.float32]:
    """Return the mean of a clip's channels at another sample rate, shape (samples,).

    Args:
        clip: The clip.
        rate_hz: The new rate.
        label: What an error message calls the clip.

    Raises:
        InputError: If it has no samples, samples that are not numbers, or no rate.
        ValueError: If its shape is not (channels, samples).
    """
    wav, from_hz = np.asarray(clip[0], np.float32), int(clip[1])
    if wav.ndim != 2:
        raise ValueError(f"a clip has the shape (channels, samples), not {wav.shape}")
    if wav.size == 0:
        raise InputError(f"{label}: holds no audio samples; leave it out or export it again")
    if from_hz <= 0:
        raise InputError(f"{label}: has a sample rate of {from_hz} Hz; give its real one")
    mono = wav.mean(axis=0, keepdims=True)
    if not np.isfinite(mono).all():
        raise InputError(f"{label}: holds samples that are not numbers (NaN or infinity); export it again")
    out: npt.NDArray[np.float32] = resample(mono, from_hz, rate_hz)[0]
    return out


def _patch_starts(length: int, patch: int, slack: int = 0) -> list[int]:
    """Return where patches begin that cover a length: one after another, and the last one aligned to the end.

    Args:
        length: Length of what is covered, at least one patch.
        patch: Length of a patch, in the same unit.
        slack: A rest at the end of at most this length gets no patch of its own.
    """
    starts = list(range(0, length - patch + 1, patch))
    if length - (starts[-1] + patch) > slack:
        starts.append(length - patch)
    return starts


# --- embedders -------------------------------------------------------------------------------------------------------


class Embedder(Protocol):
    """Turns clips into embeddings.

    What it hears in a clip depends on that clip alone, not on those that it is given with, and is the same every time.
    """

    @property
    def name(self) -> str:
        """What it is, for records: embeddings of two names cannot be compared."""

    @property
    def dim(self) -> int:
        """Length of an embedding."""

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is heard in each clip, whatever its rate, number of channels and length.

        Raises:
            InputError: If a clip has no samples, or samples that are not numbers.
        """

    def embed_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32] | None:
        """Return the embeddings of texts in the same space, shape (texts, dim); None if there is no text side."""


def make_embedder(name: EmbedderName | str, source: str | None = None, device: str = "cpu") -> Embedder:
    """Return the embedder of a name.

    Args:
        name: `musicnn`, whose weights are part of the package, or `clap`.
        source: For `clap`: a hub id or a folder; None takes `laion/larger_clap_music`.
        device: Where it computes.

    Raises:
        InputError: If the name is unknown, or the model cannot be loaded.
    """
    chosen = member("embedder", name, EmbedderName)
    if chosen is EmbedderName.clap:
        return load_clap(source, device)
    if source is not None:
        raise InputError(f"embedder_source={source}: musicnn is part of the package; leave it out or set embedder=clap")
    return MusicnnEmbedder(device)


# --- musicnn ---------------------------------------------------------------------------------------------------------

RATE_HZ = 16_000
N_FFT = 512
HOP_LENGTH = 256
N_MELS = 96
PATCH_FRAMES = 187
"""Frames of a patch: 3 s, the length that the taggers were trained with."""
EMBEDDING_DIM = 200
NUM_TAGS = 50
_MIDDLE_CHANNELS = 64
_SHORTEST_SAMPLES = 3 * RATE_HZ
_SLACK_FRAMES = 6
"""A rest of less than 0.1 s is not worth a patch: sounds of 6 s have two patches, not three."""
_GPU_PATCHES = 64
"""Patches at a time on a GPU. On a CPU it is one: no slower, and then no sum depends on what else is in the batch."""


class Weights(enum.Enum):
    """What a tagger was trained on; the value is the name of its file."""

    mtt = "musicnn_mtt"
    """MagnaTagATune: 19,000 excerpts tagged by players of a game. Instruments, voices, tempo, mood."""
    msd = "musicnn_msd"
    """Million Song Dataset: 200,000 songs tagged by users of Last.fm. Genres, decades, mood."""


TAGS = {
    Weights.mtt: (
        "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano", "ambient",
        "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing", "vocals", "no vocals",
        "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop", "soft", "sitar", "solo",
        "man", "classic", "choir", "voice", "new age", "dance", "male voice", "female vocal", "beats", "harp",
        "cello", "no voice", "weird", "country", "metal", "female voice", "choral",
    ),
    Weights.msd: (
        "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s", "alternative rock",
        "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock", "soul", "indie rock", "Mellow",
        "electronica", "80s", "folk", "90s", "chill", "instrumental", "punk", "oldies", "blues", "hard rock",
        "ambient", "acoustic", "experimental", "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country",
        "easy listening", "sexy", "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb",
        "indie pop", "sad", "House", "happy",
    ),
}  # fmt: skip
"""The names of the tags in the order of the outputs, as published."""


class LogMel(nn.Module):
    """Sound to the image that the taggers see: log10(10000 mel + 1), with librosa's mel bands and STFT."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.register_buffer("window", torch.hann_window(N_FFT))
        bands = melscale_fbanks(N_FFT // 2 + 1, 0.0, RATE_HZ / 2, N_MELS, RATE_HZ, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", bands)  # (257, 96)

    def forward(self, wav: Tensor) -> Tensor:
        """Return the image (batch, frames, 96) of sound at `RATE_HZ` (batch, samples).

        Frame 0 is centred at sample `N_FFT / 2`: pad with zeros there and at the end for the frames of a whole sound.
        """
        spectrum = torch.stft(wav, N_FFT, HOP_LENGTH, window=self.window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, 257, frames)
        return torch.log10(10_000 * (power.transpose(1, 2) @ self.filters) + 1)


class _Scaled(nn.Module):
    """A batch norm in evaluation: a scale and an offset for each channel, (batch, channels, ...) in and out."""

    scale: Tensor
    offset: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("offset", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.scale.view(shape) + self.offset.view(shape)


class _OverFrequency(nn.Module):
    """Convolution, ReLU, batch norm, and the maximum over all positions in frequency: (B, 1, T, 96) -> (B, C, T).

    The maximum is taken of the convolution's output. With a negative scale it would be a minimum; the file of the weights holds
    the kernels of these channels negated, and `sign` is -1 for them.
    """

    sign: Tensor

    def __init__(self, channels: int, frames: int, bands: int, band_step: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (frames, bands), stride=(1, band_step))
        self.norm = _Scaled(channels)
        self.register_buffer("sign", torch.ones(channels))
        # As many zeros before and after as keep the number of frames; of an odd number, the larger part after.
        self.padding = (0, 0, (frames - 1) // 2, frames // 2)

    def forward(self, x: Tensor) -> Tensor:
        highest = self.conv(F.pad(x, self.padding)).amax(dim=3)
        normed: Tensor = self.norm(F.relu(highest * self.sign.view(-1, 1)))
        return normed


class _OverTime(nn.Module):
    """Convolution over time, ReLU and batch norm: (B, C, T) -> (B, 64, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, _MIDDLE_CHANNELS, 7, padding=3)
        self.norm = _Scaled(_MIDDLE_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(F.relu(self.conv(x)))
        return normed


class MusicTagger(nn.Module):
    """One of the two taggers; `load_tagger` gives it with its weights.

    Five shapes of filters look for timbres (7 frames by 38 or 67 bands) and for patterns in time (128, 64 or 32 frames of one
    band); three convolutions over time with residual connections follow, then pooling over time and two dense layers.

    Args:
        band_step: Distance in bands of the positions at which the first filters are tried. 1 is as published; 2 takes about
            half of the time, and its scores are close, not equal.
    """

    def __init__(self, band_step: int = 1) -> None:
        super().__init__()
        self.input_norm = _Scaled(1)
        shapes = ((204, 7, 38), (204, 7, 67), (51, 128, 1), (51, 64, 1), (51, 32, 1))
        self.front = nn.ModuleList(_OverFrequency(*shape, band_step) for shape in shapes)
        width = sum(channels for channels, *_ in shapes)
        self.middle = nn.ModuleList(_OverTime(channels) for channels in (width, _MIDDLE_CHANNELS, _MIDDLE_CHANNELS))
        pooled = 2 * (width + 3 * _MIDDLE_CHANNELS)
        self.pooled_norm = _Scaled(pooled)
        self.dense = nn.Linear(pooled, EMBEDDING_DIM)
        self.dense_norm = _Scaled(EMBEDDING_DIM)
        self.tags = nn.Linear(EMBEDDING_DIM, NUM_TAGS)

    def features(self, log_mel: Tensor) -> list[Tensor]:
        """Return what each layer over time sees in images (batch, T, 96): (batch, 561, T), then three of (batch, 64, T)."""
        x = self.input_norm(log_mel[:, None])
        features = [torch.cat([block(x) for block in self.front], dim=1)]
        features.append(self.middle[0](features[0]))
        for block in self.middle[1:]:
            features.append(block(features[-1]) + features[-1])
        return features

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding (batch, 200) and the scores of the tags (batch, 50), from 0 to 1, of images (batch, T, 96)."""
        whole = torch.cat(self.features(log_mel), dim=1)  # (B, 753, T)
        # Maximum and mean alternate: the published graph flattens (B, 753, 2).
        pooled = torch.stack([whole.amax(dim=2), whole.mean(dim=2)], dim=2).flatten(1)
        embedding = self.dense_norm(F.relu(self.dense(self.pooled_norm(pooled))))
        return embedding, torch.sigmoid(self.tags(embedding))


@functools.cache
def load_tagger(weights: Weights, device: str = "cpu", band_step: int = 1) -> MusicTagger:
    """Return a tagger with its weights, ready to listen. It is loaded once and shared: do not change it.

    Args:
        weights: What it was trained on.
        device: Where it computes.
        band_step: See `MusicTagger`.
    """
    from safetensors.torch import load

    tagger = MusicTagger(band_step)
    content = (resources.files("riffusion_train.listening") / "weights" / f"{weights.value}.safetensors").read_bytes()
    tagger.load_state_dict(load(content))
    return tagger.eval().requires_grad_(False).to(device)


class MusicnnEmbedder:
    """Both taggers: the embedding of the one for MagnaTagATune, and the tags of both, of patches of 3 s.

    Tags are named as published, those of the Million Song Dataset with `msd:` before them. Shorter sounds are repeated.

    Args:
        device: Where it computes.
        band_step: See `MusicTagger`; embeddings of two steps are not to be compared.
    """

    name = "musicnn"
    dim = EMBEDDING_DIM
    tag_names = (*TAGS[Weights.mtt], *(f"msd:{tag}" for tag in TAGS[Weights.msd]))

    def __init__(self, device: str = "cpu", band_step: int = 1) -> None:
        self._device = torch.device(device)
        self._log_mel = LogMel().to(self._device)
        self._taggers = [load_tagger(weights, str(self._device), band_step) for weights in (Weights.mtt, Weights.msd)]

    def hear(self, clips: Sequence[Clip]) -> list[Heard]:
        """Return what is heard in each clip; see `Embedder`."""
        patches = [_cut(_mono_at(clip, RATE_HZ, f"clip {n} of {len(clips)}")) for n, clip in enumerate(clips, 1)]
        if not patches:
            return []
        together = [patch for clip in patches for patch in clip]
        size = 1 if self._device.type == "cpu" else _GPU_PATCHES
        results = [self._hear_batch(together[first : first + size]) for first in range(0, len(together), size)]
        embeddings, tags = (np.concatenate(part) for part in zip(*results, strict=True))
        ends = np.cumsum([len(clip) for clip in patches])[:-1]
        parts = zip(np.split(embeddings, ends), np.split(tags, ends), strict=True)
        return [make_heard(embedding, scores, self.tag_names) for embedding, scores in parts]

    def embed_texts(self, texts: Sequence[str]) -> None:
        """Return None: it has no text side."""
        return

    @torch.inference_mode()
    def _hear_batch(
        self, patches: Sequence[npt.NDArray[np.float32]]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the embeddings (patches, 200) and the scores of all tags (patches, 100)."""
        image = self._log_mel(torch.from_numpy(np.stack(patches)).to(self._device))
        embeddings, scores = zip(*(tagger(image) for tagger in self._taggers), strict=True)
        return embeddings[0].cpu().numpy(), torch.cat(scores, dim=1).cpu().numpy()


def _cut(mono: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """Return the samples of each patch of a sound at `RATE_HZ`, with those before and after that its frames reach."""
    if len(mono) < _SHORTEST_SAMPLES:
        mono = np.resize(mono, _SHORTEST_SAMPLES)  # repeats it
    # The frame at the very end is left out: the frame before reaches to the end as well.
    starts = _patch_starts(len(mono) // HOP_LENGTH, PATCH_FRAMES, _SLACK_FRAMES)
    padded = np.pad(mono, N_FFT // 2)
    length = (PATCH_FRAMES - 1) * HOP_LENGTH + N_FFT
    return [padded[start * HOP_LENGTH :][:length] for start in starts]


# --- LAION-CLAP ------------------------------------------------------------------------------------------------------

_CLAP_SOURCE = "laion/larger_clap_music"
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
            mono = _mono_at(clip, rate_hz, f"clip {number} of {len(clips)}")
            length = min(longest, len(mono))
            starts = _patch_starts(len(mono), length, round(_SLACK_S * rate_hz))
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
        source: A hub id or a folder with `model.safetensors` and the files of its processor; None takes `_CLAP_SOURCE`.
        device: Where it computes.

    Raises:
        InputError: If it is not there, cannot be fetched, or is no CLAP in safetensors.
    """
    source = source or _CLAP_SOURCE
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
