"""The small real input of `compare_versions`: cuts of produced tracks, and rendered clips of the demo's corpus."""

import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

RATE_HZ = 44100

_START_S = 6.0
_CUT_S = 10.6
_TRACKS = {
    "calm": "calm_acoustic_1", "energetic": "energetic_electronic_2", "nostalgic": "nostalgic_acoustic_s522",
    "tender": "tender_electronic_1",
}  # fmt: skip
_FORMATS = {
    ".wav": {"format": "WAV", "subtype": "PCM_16"},
    ".flac": {"format": "FLAC", "subtype": "PCM_24"},
    ".ogg": {"format": "OGG", "subtype": "VORBIS"},
    ".mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
}


def write_inputs(folder: Path, corpus: Path) -> None:
    """Write everything that the cases read.

    Args:
        folder: Where to write: `mixed` has captions beside the files, `table` one table of them, `tagged` tags in the files.
        corpus: Clips that `data_prep.corpus` rendered.
    """
    cuts = {name: _cut(track) for name, track in _TRACKS.items()}
    _write_mixed(folder / "mixed", cuts, corpus)
    _write_table(folder / "table", cuts)
    _write_tagged(folder / "tagged", cuts)
    _write(folder / "melody.wav", cuts["calm"][: round(6.5 * RATE_HZ)])
    _write(folder / "other.flac", cuts["tender"][: round(4 * RATE_HZ)])
    mask = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (16, 1))
    Image.fromarray(mask).save(folder / "mask.png")


def _write_mixed(folder: Path, cuts: dict[str, npt.NDArray[np.float32]], corpus: Path) -> None:
    """Write stereo in several formats beside the corpus's mono clips, each with its captions in a text file."""
    for (name, wav), suffix in zip(cuts.items(), _FORMATS, strict=True):
        _write(folder / f"{name}{suffix}", wav)
        (folder / f"{name}.txt").write_text(f"{name} music\na {name} track, produced\n", encoding="utf-8")
    for path in sorted(corpus.iterdir()):
        if path.suffix in (".flac", ".txt"):
            shutil.copyfile(path, folder / path.name)


def _write_table(folder: Path, cuts: dict[str, npt.NDArray[np.float32]]) -> None:
    lines = ["file,caption,artist,genre,bpm,split"]
    for number, (name, wav) in enumerate(cuts.items()):
        _write(folder / name / f"part {number}.wav", wav[: round((5.3 + 1.5 * number) * RATE_HZ)])
        split = "test" if number == 1 else "validation" if number == 2 else ""
        lines.append(
            f'{name}/part {number}.wav,"{name}, from a table",artist {number % 3},{name},{80 + number},{split}'
        )
    (folder / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_tagged(folder: Path, cuts: dict[str, npt.NDArray[np.float32]]) -> None:
    """Write tracks with tags: one in good order, one with an offset, one clipped, a copy and a near copy, one half silent."""
    calm, energetic, nostalgic, tender = cuts.values()
    half_silent = np.concatenate([np.zeros_like(tender[: 2 * RATE_HZ]), tender])
    made = {
        "calm.flac": calm,
        "copy.wav": calm,
        "near.mp3": 0.5 * calm,
        "offset.flac": np.clip(energetic * 0.5 + np.float32(0.05), -1, 1),
        "clipped.flac": np.clip(nostalgic * 8, -1, 1),
        "late.ogg": half_silent,
    }
    for number, (name, wav) in enumerate(made.items()):
        title = {
            "title": f"Title {number}",
            "artist": f"Artist {number % 2}",
            "genre": "folk",
            "comment": "a tagged song",
        }
        _write(folder / name, wav, {} if name.endswith(".wav") else title)


def _cut(track: str) -> npt.NDArray[np.float32]:
    """Return some seconds of a produced track, (samples, 2), at its own rate taken for 44.1 kHz."""
    files = importlib.metadata.distribution("immich-memories-music").files or ()
    path = next(Path(str(file.locate())) for file in files if str(file).endswith(f"{track}.opus"))
    start, frames = round(_START_S * RATE_HZ), round(_CUT_S * RATE_HZ)
    wav, _ = soundfile.read(path, frames=frames, start=start, dtype="float32", always_2d=True)
    return wav


def _write(path: Path, wav: npt.NDArray[np.float32], tags: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", RATE_HZ, wav.shape[1], **_FORMATS[path.suffix]) as file:
        for name, text in (tags or {}).items():
            setattr(file, name, text)
        file.write(wav)
