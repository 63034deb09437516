"""`python -m benchmarks.marking FILE` writes into a page what is left of the mark after a file was worked on.

`--check FILE` only checks that the page agrees. Each row is done: a marked file is written, changed, and read again.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import PIL.Image
import soundfile

from benchmarks.command import arguments_of, exit_code
from riffusion_train.audio.codec import EncodedClip
from riffusion_train.audio.convert import decode_images, encode_file
from riffusion_train.audio.image_file import save_image
from riffusion_train.audio.marking import SOUNDS, SOURCE_TYPE, XMP_TEXT, Mark, read_mark
from riffusion_train.audio.write import write_audio
from riffusion_train.config.spectrogram import load_preset
from riffusion_train.runtime.errors import InputError

MARK = Mark("laptop", "0f3a", "77c1")
RATE_HZ = 48000
_BEGIN, _END = "<!-- measured by python -m benchmarks.marking -->\n", "<!-- end -->"
_CODECS = {".wav": "pcm_s16le", ".flac": "flac", ".opus": "libopus", ".mp3": "libmp3lame"}
"""FFmpeg's encoders; PyAV has none for Vorbis."""
_WHOLE, _TYPE, _LOST = "whole mark", "source type", "lost"


def measure(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Return, for each operation, what is left by format."""
    sounds = {suffix: folder / f"a{suffix}" for suffix in SOUNDS}
    for file in sounds.values():
        write_audio(file, _sound(), RATE_HZ, mark=MARK)
    rows = []
    for target in _CODECS:
        name = f"FFmpeg: re-encoded to {target.removeprefix('.')}"
        rows.append((name, _after(sounds, folder, lambda source, to: _transcode(source, to), target)))
    rows.append(("FFmpeg: trimmed without re-encoding", _after(sounds, folder, _trim)))
    rows.append(("FFmpeg: metadata stripped", _after(sounds, folder, lambda a, b: _trim(a, b, metadata=False))))
    rows.append(("opened and saved by a program that knows samples only", _after(sounds, folder, _rewrite)))
    rows.append(("`riffusion spectrogram encode`, to PNG", _after(sounds, folder, _encode, ".png")))
    image = folder / "a.png"
    codec = load_preset("tiny")
    pixels = np.random.default_rng(0).integers(0, 255, (codec.n_mels, codec.width_px), np.uint8)
    save_image(image, EncodedClip(pixels, 0.0), codec, {XMP_TEXT: MARK.xmp()})
    images = {".png": image}
    rows.append(("`riffusion spectrogram decode`, to WAV", _after(images, folder, _decode, ".wav")))
    rows.append(("Pillow: opened, cropped and saved as PNG", _after(images, folder, _crop)))
    rows.append(("Pillow: opened and saved as JPEG", _after(images, folder, _crop, ".jpg")))
    return rows


def table(rows: Sequence[tuple[str, dict[str, str]]]) -> str:
    """Return the rows as a Markdown table."""
    formats = [*SOUNDS, ".png"]
    lines = [f"| | {' | '.join(one.removeprefix('.').upper() for one in formats)} |", f"|---|{'---|' * len(formats)}"]
    lines += [f"| {name} | {' | '.join(left.get(one, '') for one in formats)} |" for name, left in rows]
    return "\n".join(lines) + "\n"


def _after(
    files: dict[str, Path], folder: Path, change: Callable[[Path, Path], None], target: str | None = None
) -> dict[str, str]:
    left = {}
    for suffix, file in files.items():
        changed = folder / f"changed{target or suffix}"
        change(file, changed)
        found = read_mark(changed)
        left[suffix] = _WHOLE if found == MARK else _TYPE if SOURCE_TYPE.encode() in changed.read_bytes() else _LOST
    return left


def _sound() -> np.ndarray:
    return 0.3 * np.sin(np.arange(2 * RATE_HZ) / 30)[None].astype(np.float32)


def _transcode(source: Path, target: Path) -> None:
    """Re-encode as `ffmpeg -i SOURCE TARGET` does, which copies the metadata of the file and of its stream."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = written.add_stream(_CODECS[target.suffix], rate=RATE_HZ, layout="mono")
        written.metadata.update(read.metadata)
        stream.metadata.update(read.streams.audio[0].metadata)
        resampler = av.AudioResampler(stream.format, "mono", RATE_HZ, stream.frame_size or None)
        for frame in read.decode(audio=0):
            for piece in resampler.resample(frame):
                written.mux(stream.encode(piece))
        for piece in resampler.resample(None):
            written.mux(stream.encode(piece))
        written.mux(stream.encode(None))


def _trim(source: Path, target: Path, *, metadata: bool = True) -> None:
    """Keep the first second, as `ffmpeg -i SOURCE -t 1 -c copy TARGET`; without metadata as with `-map_metadata -1`."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        old = read.streams.audio[0]
        new = written.add_stream_from_template(old)
        if metadata:
            written.metadata.update(read.metadata)
            new.metadata.update(old.metadata)
        for packet in read.demux(old):
            if packet.dts is not None and packet.dts * packet.time_base < 1:
                packet.stream = new
                written.mux(packet)


def _rewrite(source: Path, target: Path) -> None:
    samples, rate_hz = soundfile.read(source, dtype="float32", always_2d=True)
    write_audio(target, samples.T, rate_hz)


def _encode(source: Path, target: Path) -> None:
    encode_file(source, target, load_preset("tiny"))


def _decode(source: Path, target: Path) -> None:
    decoded = decode_images([source])
    write_audio(target, decoded.wav, decoded.rate_hz, mark=decoded.mark)


def _crop(source: Path, target: Path) -> None:
    with PIL.Image.open(source) as image:
        image.crop((0, 0, image.width // 2, image.height)).save(target)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the table of a page. Returns the exit code."""

    def work() -> None:
        arguments = arguments_of(argv)
        check = "--check" in arguments
        files = [Path(one) for one in arguments if one != "--check"]
        if len(files) != 1 or not files[0].is_file():
            raise InputError("give one page to write the table into, with --check to compare only")
        text = files[0].read_text(encoding="utf-8")
        if _BEGIN not in text or _END not in text:
            raise InputError(f"{files[0]}: has no place for the table, between {_BEGIN.strip()} and {_END}")
        with tempfile.TemporaryDirectory(prefix="riffusion-") as folder:
            new = table(measure(Path(folder)))
        before, after = text.split(_BEGIN, 1)[0], text.split(_END, 1)[1]
        page = before + _BEGIN + new + _END + after
        if check and page != text:
            raise InputError(f"{files[0]}: its table is not what was measured; python -m benchmarks.marking {files[0]}")
        if not check:
            files[0].write_text(page, encoding="utf-8")

    return exit_code("marking", work)


if __name__ == "__main__":
    sys.exit(main())
