"""`riffusion spectrogram encode | decode | inspect | compare`: the codec by hand."""

import dataclasses
import enum
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_train.cli.arguments import HELP_FLAGS, Arguments, Command, field_kinds
from riffusion_train.config.compose import group_options
from riffusion_train.config.spectrogram import (
    CompareConfig,
    DecodeConfig,
    EncodeConfig,
    InspectConfig,
    Level,
    find_preset,
)
from riffusion_train.runtime.errors import InputError

if TYPE_CHECKING:
    from riffusion_train.audio.compare import SoundDistance
    from riffusion_train.audio.image_file import LoadedImage

_NOTES = """
encode   writes one image as wide as the audio is long; slices=true (or width=) writes a folder of images of the preset's
         width, or of that width, that share overlap= columns with their neighbours.
decode   takes the preset from the image if it carries one. Several images, or a folder of them, become one sound: slices
         that encode wrote by their places, others by their names, sharing overlap= columns.
inspect  says what an image or an audio file holds.
compare  prints how far the sound B is from the sound A, and draws both and their difference into OUT.png. An image stands
         for the sound it decodes to. level=keep counts a difference in loudness too.

PATH is a spectrogram.json, or a folder that holds one (a dataset, an exported model). Docs: docs/codec.md
riffusion spectrogram ACTION --help lists its keys."""


def _command(action: str, root: type, files: str) -> Command[Any]:
    name = f"spectrogram {action}"
    return Command(name=name, root=root, usage=files, takes_positionals=True, has_presets=False)


_ACTIONS = {
    "encode": _command("encode", EncodeConfig, "AUDIO IMAGE.png|FOLDER"),
    "decode": _command("decode", DecodeConfig, "IMAGE|FOLDER… AUDIO"),
    "inspect": _command("inspect", InspectConfig, "FILE"),
    "compare": _command("compare", CompareConfig, "A B [OUT.png]"),
}
_NUM_FILES = {"encode": (2, 2), "decode": (2, None), "inspect": (1, 1), "compare": (2, 3)}
"""The least and the largest number of files of each action."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb.

    Raises:
        InputError: If the arguments or the files cannot be used.
    """
    if not arguments:
        raise InputError(f"no action; choose from: {', '.join(_ACTIONS)}; see riffusion spectrogram --help")
    action, *rest = arguments
    if action in HELP_FLAGS:
        print(_help())
        return
    if action not in _ACTIONS:
        raise InputError(f"unknown action '{action}'; choose from: {', '.join(_ACTIONS)}")
    parsed = _ACTIONS[action].parse(rest)
    if parsed is None:
        return
    files = [Path(name) for name in parsed.positionals]
    least, most = _NUM_FILES[action]
    if len(files) < least or (most is not None and len(files) > most):
        given = ", ".join(parsed.positionals) or "nothing"
        raise InputError(f"usage: riffusion spectrogram {action} {_ACTIONS[action].usage} [key=value …]; got {given}")
    runs: dict[str, Callable[[Sequence[Path], Arguments[Any]], None]]
    runs = {"encode": _encode, "decode": _decode, "inspect": _inspect, "compare": _compare}
    runs[action](files, parsed)


def _help() -> str:
    rows: list[str] = []
    for action, command in _ACTIONS.items():
        options = " ".join(f"[{key}={_values(key, kind)}]" for key, kind in field_kinds(command.root).items())
        rows.append(
            f"{'       ' if rows else 'usage: '}riffusion spectrogram {action} {command.usage} {options}".rstrip()
        )
    return "\n".join([*rows, _NOTES])


def _values(key: str, kind: type) -> str:
    if key == "preset":
        return "|".join([*group_options("spectrogram"), "PATH"])
    if issubclass(kind, enum.Enum):
        return "|".join(kind.__members__)
    return "true" if kind is bool else "PX"


def _encode(files: Sequence[Path], parsed: Arguments[EncodeConfig]) -> None:
    from riffusion_train.audio.convert import encode_file, encode_slices

    (audio, out), options = files, parsed.config
    config = find_preset(options.preset)
    config = dataclasses.replace(
        config,
        channels=config.channels if options.channels is None else options.channels,
        width_px=config.width_px if options.width is None else options.width,
    )
    if options.slices or options.width is not None:
        encoded = encode_slices(audio, out, config, overlap_px=options.overlap)
    else:
        encoded = encode_file(audio, out, config)
    _warn(encoded.warnings)
    print(f"wrote {encoded.summary} for {encoded.duration_s:.2f} s of audio, preset {config.name}")


def _decode(files: Sequence[Path], parsed: Arguments[DecodeConfig]) -> None:
    from riffusion_train.audio.convert import decode_images
    from riffusion_train.audio.write import FORMATS, write_audio

    *sources, audio = files
    options = parsed.config
    if audio.suffix.lower() not in FORMATS:  # known before the work is done, not after it
        raise InputError(f"{audio}: cannot write '{audio.suffix}' audio; choose from: {', '.join(FORMATS)}")
    decoded = decode_images(
        sources,
        preset=options.preset,
        quality=options.quality,
        inverter=options.inverter,
        overlap_px=options.overlap,
    )
    _warn(decoded.warnings)
    write_audio(audio, decoded.wav, decoded.rate_hz, mark=decoded.mark)
    duration_s = decoded.wav.shape[1] / decoded.rate_hz
    print(f"wrote {audio}: {duration_s:.2f} s at {decoded.rate_hz} Hz from {decoded.summary}")


def _compare(files: Sequence[Path], parsed: Arguments[CompareConfig]) -> None:
    from riffusion_train.audio.compare import compare_files

    first, second, *images = files
    options = parsed.config
    if images and images[0].suffix.lower() != ".png":
        raise InputError(f"{images[0]}: the image must be a .png")
    match_level = options.level is Level.match
    comparison = compare_files(
        first,
        second,
        match_level=match_level,
        preset=options.preset,
        quality=options.quality,
        inverter=options.inverter,
    )
    _warn(comparison.warnings)
    print(_table(first, second, comparison.distance, match_level))
    if images:
        from riffusion_train.audio.plots import draw_comparison, write_image

        a, b = comparison.first, comparison.second
        gain = 10 ** (comparison.distance.gain_db / 20)
        drawing = draw_comparison(a.wav, a.rate_hz, b.wav * gain, b.rate_hz, (first.name, second.name))
        write_image(images[0], drawing)
        print(f"wrote {images[0]}")


def _inspect(files: Sequence[Path], parsed: Arguments[InspectConfig]) -> None:
    from riffusion_train.audio.convert import IMAGE_SUFFIXES
    from riffusion_train.audio.image_file import load_image

    (path,) = files
    if path.suffix.lower() in IMAGE_SUFFIXES:
        loaded = load_image(path, use_description=False)
        _warn(f"{path}: {warning}" for warning in loaded.warnings)
        print(_describe_image(path, loaded))
    else:
        print(_describe_audio(path))


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"riffusion spectrogram: warning: {warning}", file=sys.stderr)


def _table(first: Path, second: Path, distance: "SoundDistance", match_level: bool) -> str:
    from riffusion_train.audio.compare import BAND_EDGES_HZ

    level = f"{first.name} is {distance.gain_db:+.2f} dB louder, evened out" if match_level else "levels kept"
    rows = [
        ("log-mel error, 0-16 kHz", f"{distance.log_mel_db:.3f} dB"),
        ("log-mel error, 0-10 kHz", f"{distance.log_mel_10k_db:.3f} dB"),
        ("spectral convergence", f"{distance.spectral_convergence:.4f}"),
        ("multi-resolution STFT", f"{distance.multi_resolution_stft:.4f}"),
    ]
    if distance.coherence_error is not None:
        rows.append(("inter-channel coherence error", f"{distance.coherence_error:.4f}"))
    lines = [f"{second} against {first} ({level})", *(f"  {name:<32}{value}" for name, value in rows)]
    lines.append(f"  {'band':<20}{'log-mel error':>16}{'level':>12}")
    bands = zip(
        BAND_EDGES_HZ[:-1], BAND_EDGES_HZ[1:], distance.band_log_mel_db, distance.band_level_db, strict=True
    )  # fmt: skip
    for low, high, error_db, level_db in bands:
        lines.append(f"  {f'{low}-{high} Hz':<20}{error_db:>13.3f} dB{level_db:>+9.2f} dB")
    return "\n".join(lines)


def _describe_image(path: Path, loaded: "LoadedImage") -> str:
    height, width = loaded.image.shape[:2]
    kind = "grey" if loaded.image.ndim == 2 else "colour"
    lines = [f"{path}: {width}x{height} px, {kind}"]
    if loaded.config is None:
        lines.append("names no codec")
    else:
        duration_s = (width - 1) * loaded.config.hop_length / loaded.config.rate_hz
        lines.append(f"{duration_s:.2f} s of audio")
        values = dataclasses.asdict(loaded.config).items()
        lines += [f"{name}={getattr(value, 'value', value)}" for name, value in values]
    if loaded.max_value is not None:
        lines.append(f"max_value={loaded.max_value:g}")
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in loaded.texts.items())])


def _describe_audio(path: Path) -> str:
    from riffusion_train.audio.read import load_audio
    from riffusion_train.audio.write import read_tags

    loaded = load_audio(path)
    _warn(f"{path}: {warning}" for warning in loaded.warnings)
    channels, samples = loaded.wav.shape
    duration_s, plural = samples / loaded.rate_hz, "s" if channels > 1 else ""
    peak = abs(loaded.wav).max()
    lines = [f"{path}: {duration_s:.2f} s, {loaded.rate_hz} Hz, {channels} channel{plural}, peak {peak:.3f}"]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in read_tags(path).items())])
