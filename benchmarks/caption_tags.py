"""How often the tags of `captions=listen` are right, and from which score on they are used.

Labelled sounds are the 28 produced tracks of the package immich-memories-music, with the mood, instrumentation, tempo and key
that they were made for, and composed clips of 6 s whose truth is known (`data_prep.corpus.music`). For each tag, the sounds
that its label is known for are divided into two halves. The lowest score from which on a tag is right in at least `_FITTED` of
the cases in one half is tried on the other half, and the other way round: each sound is judged by a threshold that has not
seen it. The threshold in use is that of all sounds. It is tried once more on other composed clips. A tag that is right in fewer
than four of five cases in one of the two trials is not used.

The thresholds go to `data_prep/captions/thresholds.json`. What is heard is kept in `runs/benchmark-caption-tags`; the same
command continues it.
"""

import dataclasses
import functools
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
from data_prep.captions.listening import CAPTION_TAGS, KEY, TEMPO, Heard, score_of
from data_prep.corpus.music.clip import FLUID, Composer
from data_prep.tracks.measuring import EVIDENCE, HEARD_ATTRIBUTES, MEASURED_S, TrackListener, measure
from riffusion_train.audio.loudness import measure_lufs
from riffusion_train.audio.read import Samples, read_audio
from riffusion_train.config.prepare import PrepareConfig
from riffusion_train.listening.attributes import LONGEST_S
from riffusion_train.listening.captions import named_key, same_tempo
from riffusion_train.listening.embedder import Clip
from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.files import write_json

WORK = Path("runs/benchmark-caption-tags")
THRESHOLDS = Path(__file__).parent.parent / "data_prep" / "captions" / "thresholds.json"
_SEEDS, _CLIPS = (11, 12), 82
"""Of the composed clips: seeds, and clips of each."""
_FITTED, _RIGHT = 0.88, 0.8
"""Shares of right cases: where a threshold is fitted, with a margin, and where it is tried."""
_LEAST_NAMED = 5
"""Fewer cases in a half, or among the fresh clips, say nothing."""
_FRESH = ((13, 60), (14, 80))
"""Seeds and numbers of the composed clips on which the thresholds in use are tried."""

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
        max_clips: Number of composed clips of each seed.
    """
    torch.set_num_threads(1)
    ear = Ear(None if quick else WORK)
    examples = [] if quick else list(produced(ear))
    for seed in _SEEDS:
        examples += composed(ear, seed, 6 if quick else max_clips or _CLIPS)
    fitted = {name: fit_tag(scores, labels) for name, scores, labels in labelled(examples)}
    fresh = [example for seed, clips in _FRESH for example in composed(ear, seed, 6 if quick else clips)]
    used = tried_again({name: one for name, one in fitted.items() if one and one["precision"] >= _RIGHT}, fresh)
    if not quick:
        write_json(THRESHOLDS, {"made_by": "python -m benchmarks caption_tags", "tags": used})
    rows = [Row("tags that captions use", "tags", [float(len(used))])]
    for name, one in used.items():
        rows.append(
            Row(f"{name}: right where it is named", "share", [one["precision"]], (), Goal.ours_at_least, _RIGHT)
        )
        rows.append(Row(f"{name}: named where it is true", "share", [one["recall"]]))
    return rows


def fit_threshold(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> float | None:
    """Return the lowest score from which on a tag is right in `_FITTED` of the cases; None if there is none."""
    for candidate in sorted(set(scores)):
        named = scores >= candidate
        if named.sum() < _LEAST_NAMED:
            return None
        if labels[named].mean() >= _FITTED:
            return float(candidate)
    return None


def fit_tag(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.bool_]) -> dict[str, float] | None:
    """Return threshold, precision and recall of a tag; None if no threshold is right often enough.

    The threshold is that of all sounds. The figures are of each half with the threshold of the other one.

    Args:
        scores: Of each sound, in random order.
        labels: Whether the tag is true of it.
    """
    threshold = fit_threshold(scores, labels)
    if threshold is None:
        return None
    named, halves = np.zeros(len(scores), bool), np.arange(len(scores)) % 2 == 0
    for half in (halves, ~halves):
        other = fit_threshold(scores[~half], labels[~half])
        named[half] = scores[half] >= other if other is not None else False
    if named.sum() < 2 * _LEAST_NAMED:
        return None
    return {
        "threshold": round(threshold, 4),
        "precision": round(float(labels[named].mean()), 3),
        "recall": round(float(named[labels].mean()), 3),
        "named": int(named.sum()),
        "true": int(labels.sum()),
        "sounds": len(labels),
    }


def tried_again(fitted: Mapping[str, dict[str, float]], fresh: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Return the tags that are right on fresh sounds as well, or are named too seldom there to tell, with the figures.

    Args:
        fitted: What `fit_tag` returned for each tag.
        fresh: Labelled sounds that no threshold was fitted to.
    """
    used = {}
    known = {name: (scores, labels) for name, scores, labels in labelled(fresh)}
    for name, one in fitted.items():
        scores, labels = known.get(name, (np.zeros(0), np.zeros(0, bool)))
        named = scores >= one["threshold"]
        right = int(labels[named].sum())
        if named.sum() < _LEAST_NAMED or right >= _RIGHT * named.sum():
            used[name] = {**one, "fresh_right": right, "fresh_named": int(named.sum())}
    return used


_Labelled = tuple[str, npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""A tag, its score in each sound, and whether it is true of it."""


def labelled(examples: Sequence[Example]) -> Iterator[_Labelled]:
    """Yield each tag that is true of some sound, in an order of the sounds that depends on their names alone."""
    ordered = sorted(examples, key=lambda one: hashlib.sha256(one.name.encode()).digest())
    for tag in CAPTION_TAGS:
        pairs = [(score_of(tag, one.heard.track_scores), is_true(tag.name, one.truth)) for one in ordered]
        yield from _with_labels(tag.name, pairs)
    yield from _with_labels(TEMPO, [(one.heard.bpm_strength, _tempo_is_right(one)) for one in ordered])
    yield from _with_labels(KEY, [(one.heard.key_strength, _key_is_right(one)) for one in ordered])


def _with_labels(name: str, pairs: Sequence[tuple[float, bool | None]]) -> Iterator[_Labelled]:
    known = [(score, label) for score, label in pairs if label is not None]
    if any(label for _, label in known):
        yield name, np.array([score for score, _ in known]), np.array([label for _, label in known])


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
        quiet, lively = mood in ("calm", "tender"), mood == "energetic"
        return (quiet if tag == "calm" else lively) if quiet or lively else None
    if tag == "happy":
        return True if mood == "happy" else None if mood == "energetic" else False
    if tag in ("drums", "no drums"):
        return tag == "drums"
    if tag in ("slow", "fast"):
        limits = (bpm <= 84, bpm >= 105) if tag == "slow" else (bpm >= 120, bpm <= 100)
        return True if limits[0] else False if limits[1] else None
    return None


class Ear:
    """Hears labelled sounds as `prepare` hears tracks.

    Args:
        work: Where what was heard is kept; None keeps nothing.
        checks: Whether to gather the evidence that captions are checked against, as `check_captions=` does.
    """

    def __init__(self, work: Path | None, *, checks: bool = False) -> None:
        self._listener = TrackListener(PrepareConfig.listen_patches)
        self._work = work
        self._attributes = (*HEARD_ATTRIBUTES, EVIDENCE) if checks else HEARD_ATTRIBUTES
        self._longest_s = LONGEST_S if checks else MEASURED_S

    def hear(self, name: str, load: Callable[[], Clip]) -> Heard:
        """Return what is heard in a sound, which is loaded if it was not heard before."""
        path = None if self._work is None else self._work / f"{name}.json"
        if path is not None and path.is_file():
            return Heard.from_data(json.loads(path.read_text(encoding="utf-8")))
        wav, rate_hz = load()
        mono = wav.mean(axis=0, keepdims=True)
        lufs = measure_lufs(mono, rate_hz)
        measured = measure(mono, rate_hz, lufs, self._attributes, self._longest_s)
        heard = self._listener.hear(Samples.of(mono), rate_hz, measured, lufs, 0.0, [])
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, heard.as_data())
        return heard


def composed(ear: Ear, seed: int, clips: int) -> Iterator[Example]:
    """Yield the first composed clips of a seed."""
    composer = Composer(FLUID, seed=seed)

    def load(number: int) -> Clip:
        clip = composer.compose(number)
        return clip.wav, clip.rate_hz

    for number in range(clips):
        name = f"composed-{seed}-{number:05d}"
        heard = ear.hear(name, functools.partial(load, number))
        yield Example(name, dataclasses.asdict(composer.describe(number)[1]), heard)


_LINE = re.compile(r"^\s+(\S+)\.opus\s+(\d+) bpm\s+(\S+ (?:major|minor))\s+seed \d+\s+\[(\w+)\]$", re.MULTILINE)


def produced(ear: Ear) -> Iterator[Example]:
    """Yield the produced tracks."""
    for path, bpm, key, made in produced_tracks():
        heard = ear.hear(path.stem, functools.partial(read_audio, path))
        yield Example(path.stem, {"mood": path.stem.split("_")[0], "made": made, "bpm": bpm, "key": key}, heard)


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
