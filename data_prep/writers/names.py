"""Names of picture files: readable, the same wherever the slice stands, and good on every file system."""

import hashlib
import re
import unicodedata

_LONGEST = 48
"""Letters of the track that are shown; with all that follows a name stays below the 100 that an old tar header holds."""


def slice_name(track_id: str, start_s: float) -> str:
    """Return the name of a slice's files, without a suffix: `albums-blue-sun-3f9c2a1b7d-00005108700`.

    It is made of small letters, digits and hyphens, so it fits every file system, and has no dot, at which WebDataset would
    end it. Ten hex digits of a hash tell tracks apart that read alike; the last figure is the start in microseconds,
    which tells any two samples apart. Adding tracks to a dataset renames no picture.

    Args:
        track_id: The track.
        start_s: Start of the slice, in seconds.
    """
    plain = unicodedata.normalize("NFKD", track_id).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_LONGEST].strip("-")
    digest = hashlib.sha256(track_id.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return "-".join(part for part in (words, digest, f"{round(start_s * 1e6):011d}") if part)
