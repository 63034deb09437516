"""How often the tags of `captions=listen` are right, and from which score on they are used.

Labelled sounds are the 28 produced tracks of the package immich-memories-music, with the mood, instrumentation, tempo and key
that they were made for, and composed clips of 12 s whose truth is known (`data_prep.corpus.music`). For each tag, the sounds
that its label is known for are divided into two halves. Its threshold is the lowest score from which on it is right in at least
`_FITTED` of the cases in one half; the other half, which no threshold has seen, says how often it is right and how often it is
found. A tag that is right there in fewer than four of five cases is not used. The thresholds go to
`data_prep/captions/thresholds.json`. What is heard is kept in `runs/benchmark-caption-tags`; the same command continues it.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.report import Goal, Row
from data_prep.captions.heard import Heard
from data_prep.captions.listening import KEY, TEMPO, score_of
from data_prep.captions.phrases import CAPTION_TAGS
from data_prep.corpus.music.clip import FLUID, Composer
from data_prep.tracks.hearing import ATTRIBUTES, TrackListener
from data_prep.tracks.measuring import measure
from riffusion_train.audio.io.loudness import measure_lufs
from riffusion_train.audio.io.read import read_audio, resample
from riffusion_train.listening.words import named_key, same_tempo
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_json

WORK = Path("runs/benchmark-caption-tags")
THRESHOLDS = Path(__file__).parent.parent / "data_prep" / "captions" / "thresholds.json"
_RATE_HZ, _CLIP_S, _SEED = 44100, 12.0, 11
_CLIPS = 400
_FITTED, _RIGHT = 0.88, 0.8
"""Shares of right cases: in the half that is fitted, with a margin, and in the other one."""
_LEAST_FOUND = 5
"""Fewer cases in either half say nothing."""

_Truth = Mapping[str, Any]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ELECTRONIC = {"house", "techno", "drum and bass", "trap", "synthwave", "chiptune"}
_CALM = _words("relaxed mellow sleepy gentle romantic laid-back easygoing intimate dreamy peaceful floating wistful")
_LIVELY = _words(
    "energetic frantic intense aggressive furious heavy driving anthemic festive fiery lively groovy upbeat danceable"
)
_HAPPY = _words("uplifting playful upbeat sunny cheerful joyful festive happy")
_NOT_HAPPY = _words("dark menacing moody furious aggressive solemn wistful hypnotic heavy")
_WORDS_OF: dict[str, str] = {
    "piano": "piano", "guitar": "guitar", "strings": "strings|violin|viola|cello|fiddle", "violin": "violin|fiddle",
    "cello": "cello", "flute": "flute|piccolo|whistle", "harp": r"harp\b", "harpsichord": "harpsichord", "sitar": "sitar",
    "synthesizer": "synth|lead|pad", "choir": "choir|voice",
}  # fmt: skip
"""Which instruments of a composed piece make a tag true, as patterns of their names."""
_STYLES: dict[str, tuple[set[str], set[str]]] = {
    "electronic": (_ELECTRONIC, {"ambient", "lo-fi hip hop", "disco"}),
    "techno": ({"techno"}, {"house"}),
    "house": ({"house"}, {"techno", "disco"}),
    "dance": ({"house", "techno", "disco", "drum and bass"}, {"synthwave", "funk", "latin", "trap"}),
    "rock": ({"rock", "metal"}, {"funk", "synthwave"}),
    "metal": ({"metal"}, set()),
    "jazz": ({"jazz"}, {"bossa nova", "lo-fi hip hop", "funk", "gospel"}),
    "classical": ({"orchestral", "waltz"}, {"ambient"}),
    "ambient": ({"ambient"}, {"lo-fi hip hop"}),
    "folk": ({"folk"}, set()),
    "country": (set(), {"folk"}),
    "hip hop": ({"lo-fi hip hop", "trap"}, set()),
    "funk": ({"funk"}, {"disco"}),
    "soul": ({"gospel"}, {"funk"}),
    "blues": (set(), {"rock", "jazz", "gospel"}),
    "pop": (set(), {"disco", "synthwave", "rock"}),
    "acoustic": ({"folk", "waltz", "orchestral", "bossa nova"}, {"jazz", "gospel", "latin"}),
}
"""Styles of composed pieces for which a tag is true, and those for which it is a matter of taste, which are left out."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A labelled sound, and what was heard in it."""

    name: str
    truth: _Truth
    """Attributes of a composed piece, or `mood`, `made`, `bpm` and `key` of a produced track."""
    heard: Heard


def run(*, quick: bool = False, max_clips: int | None = None) -> list[Row]:
    """Hear the sounds, fit the thresholds, and write them unless `quick`.

    Args:
        quick: Few sounds, to show that it runs.
        max_clips: Number of composed clips.
    """
    torch.set_num_threads(1)
    clips = 12 if quick else max_clips or _CLIPS
    listener = TrackListener(8)
    examples = [] if quick else list(_produced(listener))
    examples += _composed(listener, clips, None if quick else WORK)
    fitted = {name: fit_tag(scores, labels) for name, scores, labels in _labelled(examples)}
    used = {name: one for name, one in fitted.items() if one is not None and one["precision"] >= _RIGHT}
    if not quick:
        write_json(THRESHOLDS, {"made_by": "python -m benchmarks caption_tags", "tags": used})
    rows = [Row("tags that captions use", "tags", [float(len(used))])]
    for name, one in used.items():
        rows.append(
            Row(f"{name}: right where it is named", "share", [one["precision"]], (), Goal.ours_at_least, _RIGHT)
        )
        rows.append(Row(f"{name}: named where it is true", "share", [one["recall"]]))
    return rows


def fit_tag(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> dict[str, float] | None:
    """Return threshold, precision and recall of a tag; None if no threshold is right often enough.

    Args:
        scores: Of each sound, in random order: the first half is fitted, the second half is what the figures are of.
        labels: Whether the tag is true of it.
    """
    half = len(scores) // 2
    threshold = None
    for candidate in sorted(set(scores[:half])):
        named = scores[:half] >= candidate
        if named.sum() < _LEAST_FOUND:
            break
        if labels[:half][named].mean() >= _FITTED:
            threshold = float(candidate)
            break
    if threshold is None:
        return None
    named, true = scores[half:] >= threshold, labels[half:]
    if named.sum() < _LEAST_FOUND:
        return None
    return {
        "threshold": round(threshold, 4),
        "precision": round(float(true[named].mean()), 3),
        "recall": round(float(named[true].mean()), 3),
        "named": int(named.sum()),
        "true": int(true.sum()),
        "sounds": len(true),
    }


def _labelled(examples: Sequence[Example]) -> Iterator[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    """Yield each tag with its scores and labels, in an order that depends on the names of the sounds alone."""
    ordered = sorted(examples, key=lambda one: hashlib.sha256(one.name.encode()).digest())
    scored: dict[str, tuple[Callable[[Heard], float], Callable[[Example], bool | None]]] = {
        tag.name: (
            lambda heard, tag=tag: score_of(tag, heard.track_scores),
            lambda one, name=tag.name: is_true(name, one.truth),
        )
        for tag in CAPTION_TAGS
    }  # type: ignore[misc]
    scored[TEMPO] = (lambda heard: heard.bpm_strength, _tempo_is_right)
    scored[KEY] = (lambda heard: heard.key_strength, _key_is_right)
    for name, (score, label) in scored.items():
        known = [(score(one.heard), right) for one in ordered if (right := label(one)) is not None]
        if any(right for _, right in known):
            yield name, np.array([value for value, _ in known]), np.array([right for _, right in known])


def _tempo_is_right(one: Example) -> bool | None:
    return None if one.heard.bpm is None else same_tempo(one.heard.bpm, float(one.truth["bpm"]))


def _key_is_right(one: Example) -> bool | None:
    return None if one.heard.key is None else named_key(f"in {one.truth['key']}") == one.heard.key


def is_true(tag: str, truth: _Truth) -> bool | None:
    """Return whether a tag is true of a sound; None if its labels do not say."""
    if "made" in truth:
        return _is_true_of_produced(tag, truth)
    instruments = [truth[part] for part in ("lead", "chords", "bass", "pad") if truth[part] != "none"]
    moods = {truth["mood"]}
    if tag in _WORDS_OF:
        return any(re.search(_WORDS_OF[tag], name) for name in instruments)
    if tag in _STYLES:
        certain, doubtful = _STYLES[tag]
        return None if truth["style"] in doubtful else truth["style"] in certain
    if tag in ("drums", "no drums"):
        return bool((truth["drums"] != "none") == (tag == "drums"))
    if tag in ("slow", "fast"):
        return bool(truth["tempo"] == tag)
    if tag in ("calm", "energetic"):
        right, wrong = (_CALM, _LIVELY) if tag == "calm" else (_LIVELY, _CALM)
        return True if moods & right else False if moods & wrong else None
    if tag == "happy":
        return True if moods & _HAPPY else False if moods & _NOT_HAPPY else None
    return None  # nothing here is sung, and no mood is called sad or strange


def _is_true_of_produced(tag: str, truth: _Truth) -> bool | None:
    mood, bpm = truth["mood"], float(truth["bpm"])
    if tag in ("electronic", "acoustic"):
        return bool(truth["made"] == tag)
    if tag in ("calm", "energetic"):
        right, wrong = ("calm", "tender"), ("energetic",)
        right, wrong = (right, wrong) if tag == "calm" else (wrong, right)
        return True if mood in right else False if mood in wrong else None
    if tag == "happy":
        return True if mood == "happy" else None if mood == "energetic" else False
    if tag in ("drums", "no drums"):
        return tag == "drums"
    if tag in ("slow", "fast"):
        limits = (bpm <= 84, bpm >= 105) if tag == "slow" else (bpm >= 120, bpm <= 100)
        return True if limits[0] else False if limits[1] else None
    return None


def _hear(listener: TrackListener, wav: npt.NDArray[np.float32], rate_hz: int) -> Heard:
    mono = resample(wav.mean(axis=0, keepdims=True), rate_hz, _RATE_HZ)
    lufs = measure_lufs(mono, _RATE_HZ)
    return listener.hear(mono, _RATE_HZ, measure(mono, _RATE_HZ, lufs, ATTRIBUTES), lufs, 0.0, [])


def _composed(listener: TrackListener, clips: int, work: Path | None) -> Iterator[Example]:
    composer = Composer(FLUID, seed=_SEED, clip_s=_CLIP_S, rate_hz=_RATE_HZ)
    for number in range(clips):
        path = None if work is None else work / f"{number:05d}.json"
        if path is not None and path.is_file():
            heard = Heard.from_data(json.loads(path.read_text(encoding="utf-8")))
            truth = composer.describe(number)[1]
        else:
            clip = composer.compose(number)
            heard, truth = _hear(listener, clip.wav, clip.rate_hz), clip.attributes
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, heard.as_data())
        yield Example(f"composed {number}", dataclasses.asdict(truth), heard)


_LINE = re.compile(r"^\s+(\S+)\.opus\s+(\d+) bpm\s+(\S+ (?:major|minor))\s+seed \d+\s+\[(\w+)\]$", re.MULTILINE)


def _produced(listener: TrackListener) -> Iterator[Example]:
    for path, bpm, key, made in produced_tracks():
        truth = {"mood": path.stem.split("_")[0], "made": made, "bpm": bpm, "key": key}
        yield Example(path.stem, truth, _hear(listener, *read_audio(path)))


def produced_tracks() -> Iterator[tuple[Path, float, str, str]]:
    """Yield file, tempo, key and instrumentation of each produced track.

    Raises:
        InputError: If their package is not installed.
    """
    try:
        package = importlib.metadata.distribution("immich-memories-music")
    except importlib.metadata.PackageNotFoundError:
        raise InputError("the benchmark's music is missing: pip install 'riffusion-train[dev]'") from None
    labels = package.read_text("licenses/LICENSE-MUSIC") or ""
    paths = {Path(str(file)).stem: Path(str(file.locate())) for file in package.files or () if file.suffix == ".opus"}
    for name, bpm, key, made in _LINE.findall(labels):
        yield paths[name], float(bpm), key, made
