"""musicnn, a music tagger: 3 s of sound to the scores of 50 tags and an embedding of 200 numbers.

Pons & Serra 2019, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (arXiv:1909.06654). The weights
are those that its authors published under the ISC licence, in `weights/` beside the licence; `convert_musicnn.py` made
them. The layers are arranged for speed on a CPU: a batch norm is a scale and an offset, and the maximum over frequency is taken
before it, which makes the large arrays small at once.
"""

import enum
import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from riffusion_train.listening.patches import Clip, Heard, make_heard, mono_at, patch_starts

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

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding (batch, 200) and the scores of the tags (batch, 50), from 0 to 1, of images (batch, T, 96)."""
        x = self.input_norm(log_mel[:, None])
        features = [torch.cat([block(x) for block in self.front], dim=1)]  # (B, 561, T)
        features.append(self.middle[0](features[0]))
        for block in self.middle[1:]:
            features.append(block(features[-1]) + features[-1])
        whole = torch.cat(features, dim=1)  # (B, 753, T)
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
        patches = [_cut(mono_at(clip, RATE_HZ, f"clip {n} of {len(clips)}")) for n, clip in enumerate(clips, 1)]
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
    starts = patch_starts(len(mono) // HOP_LENGTH, PATCH_FRAMES, _SLACK_FRAMES)
    padded = np.pad(mono, N_FFT // 2)
    length = (PATCH_FRAMES - 1) * HOP_LENGTH + N_FFT
    return [padded[start * HOP_LENGTH :][:length] for start in starts]
