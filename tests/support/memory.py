"""`python -m support.memory AUDIO OUT …`: prepare tiny files, without a page, and print the largest memory of the processes.

The slices are of 30 ms, so that what is measured is what a track costs beside its sound. `python -m support.memory track
SECONDS FOLDER [SLICES]` cuts one long stereo FLAC file as a worker does, into at most so many slices of `hifi`. Of several
folders, or of `SECONDS,SECONDS`, each gets a line. They are of one process, which spares its start: a peak never falls, so
give the smallest first.
"""

import contextlib
import io
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import soundfile

RATE_HZ = 8000
CLIP_SAMPLES = 240


def write_tiny_files(folder: Path, count: int) -> Path:
    """Write `count` files of 30 ms of noise, all different, and one table with their captions. Returns the folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = ["file,caption,artist"]
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros(CLIP_SAMPLES), RATE_HZ, "PCM_16", format="WAV")
    samples_bytes = 2 * CLIP_SAMPLES
    head = silence.getvalue()[:-samples_bytes]
    for index in range(count):
        name = f"{index // 1000:03d}/{index:06d}.wav"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(head + rng.bytes(samples_bytes))  # in a tenth of the time that libsndfile takes
        lines.append(f'{name},"noise number {index}, of no use to anyone",band {index // 7}')
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def _peak_mb(process_id: int | str) -> float:
    """Return the peak memory of a process in MB; `getrusage` would give that of its parent, if that was larger."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _watch(peaks: list[float]) -> None:
    """Note the largest memory of the processes below this one."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(OSError, IndexError, psutil.Error):  # it has ended
                peaks.append(_peak_mb(process.pid))
        time.sleep(0.1)


def write_long_file(path: Path, seconds: int) -> Path:
    """Write a FLAC file of stereo at 44.1 kHz: a second of noise under a slow swell, over and over."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (44100, 2))
    with soundfile.SoundFile(path, "w", 44100, 2, "PCM_16") as file:
        for second in range(seconds):
            file.write(noise * (0.6 + 0.4 * np.sin(second / 7)))
    return path


def cut_long_files(folder: Path, lengths_s: Sequence[int], most_slices: int | None) -> Iterator[dict[str, float]]:
    """Cut a file of each length; yield its slices and the peak memory in MB until then."""
    from data_prep.tracks.track_store import TrackStore
    from data_prep.tracks.track_worker import CutParameters, TrackWorker
    from riffusion_train.config.prepare import PrepareConfig
    from riffusion_train.config.spectrogram import load_preset

    cut = CutParameters.from_config(
        PrepareConfig(audio="", out="", spectrogram=load_preset("hifi"), max_slices_per_track=most_slices)
    )
    worker = TrackWorker(cut, TrackStore(folder, cut.key))
    for seconds in lengths_s:
        result = worker(str(write_long_file(folder / f"long-{seconds}.flac", seconds)))
        assert result.reason is None, result
        yield {"slices": result.slices, "duration_s": result.duration_s or 0.0, "peak_mb": _peak_mb("self")}


def main() -> None:
    """Prepare in one worker process, and print MB of this process and of the worker as JSON; or cut long files."""
    if sys.argv[1] == "track":
        lengths_s, folder, *most = sys.argv[2:]
        seconds = [int(length_s) for length_s in lengths_s.split(",")]
        for figures in cut_long_files(Path(folder), seconds, int(most[0]) if most else None):
            print(json.dumps(figures))
        return
    from data_prep.pipeline import prepare
    from riffusion_train.config.prepare import PrepareConfig
    from riffusion_train.config.spectrogram import SpectrogramConfig

    tiny = SpectrogramConfig(
        name="tiny", rate_hz=RATE_HZ, hop_length=80, win_length=160, n_fft=256, n_mels=16, width_px=4, f_max_hz=4000.0,
        decode_rate_hz=RATE_HZ, decode_n_fft=160,
    )  # fmt: skip
    peaks: list[float] = []
    threading.Thread(target=_watch, args=(peaks,), daemon=True).start()
    for audio, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        peaks.clear()
        folder = prepare(PrepareConfig(audio=audio, out=out, spectrogram=tiny, num_workers=1, page=False))
        figures = {
            "tracks": folder.stats["totals"]["tracks"],
            "parent_mb": _peak_mb("self"),
            "worker_mb": max(peaks),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
