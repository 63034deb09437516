"""Tags of audio files: title, comment and the like, of any length and in any script.

libsndfile writes the tags of FLAC, Ogg Vorbis and Opus correctly. In WAV it drops texts beyond 2 kB, and in MP3 it writes
UTF-8 marked as Latin-1, so those two are written here. Mutagen does not support the INFO list of WAV files, and drops dates in
MP3 files that are not timestamps.
"""

import struct
from pathlib import Path

from riffusion_train.audio.marking import add_id3_frames, id3_frame
from riffusion_train.runtime.errors import InputError

# Name of each tag in ID3v2.4 (https://id3.org/id3v2.4.0-frames) and in the INFO list of RIFF files.
_FRAMES = {
    "title": ("TIT2", "INAM"),
    "artist": ("TPE1", "IART"),
    "comment": ("COMM", "ICMT"),
    "copyright": ("TCOP", "ICOP"),
    "album": ("TALB", "IPRD"),
    "genre": ("TCON", "IGNR"),
    "date": ("TDRC", "ICRD"),
}
TAGS = tuple(_FRAMES)
"""The tags that every format can carry."""

_UTF_8 = b"\x03"


def add_id3_tags(path: Path, tags: dict[str, str]) -> None:
    """Put an ID3v2.4 tag in front of an MP3 file."""
    frames = b""
    for name, text in tags.items():
        body = _UTF_8 + (b"eng\0" if name == "comment" else b"") + text.encode()
        frames += id3_frame(_FRAMES[name][0].encode(), body)
    add_id3_frames(path, frames)


def add_riff_tags(path: Path, tags: dict[str, str]) -> None:
    """Put an INFO list at the end of a WAV file."""
    body = b"INFO"
    for name, text in tags.items():
        value = text.encode() + b"\0"
        body += _FRAMES[name][1].encode() + struct.pack("<I", len(value)) + value + b"\0" * (len(value) % 2)
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        file.write(b"\0" * (end % 2) + b"LIST" + struct.pack("<I", len(body)) + body)
        total = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", total - 8))


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of an audio file by name, of `TAGS`.

    Raises:
        InputError: If the file cannot be read.
    """
    import av  # reading alone needs it

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            metadata = dict(container.metadata)
            for stream in container.streams.audio:  # where Ogg has its tags
                metadata |= stream.metadata
    except (av.FFmpegError, ValueError, OSError):
        raise InputError(f"{path}: cannot be read as audio") from None
    lowered = {name.lower(): text for name, text in metadata.items()}
    return {name: lowered[name] for name in TAGS if name in lowered}
