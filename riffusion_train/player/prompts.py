"""The prompt queue of a session: which clip comes next; and prompts to begin with."""

import dataclasses
import itertools
from typing import Any

from riffusion_train.player.settings import ClipSpec, Settings
from riffusion_train.runtime.errors import InputError

_MOST_PAST = 50
_NEAR = 1e-4


@dataclasses.dataclass
class QueuedPrompt:
    """A prompt on the way.

    Attributes:
        id: Its name.
        prompt: Its text.
        from_segment: The first segment in which it can be heard; of one that waits, a forecast.
    """

    id: str
    prompt: str
    from_segment: int | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One clip of the way.

    Attributes:
        spec: The clip.
        share: Settings that restore the moment, but for the clip before it.
    """

    spec: ClipSpec
    share: Settings


class PromptQueue:
    """Plans the clips of a session, one by one.

    Args:
        settings: What the session begins with; at `prompt_to` and `alpha` it begins in the middle of a transition.
        most_waiting: Prompts that may wait.
    """

    def __init__(self, settings: Settings, *, most_waiting: int = 20) -> None:
        self.settings = settings
        self._most_waiting = most_waiting
        self._ids = map(str, itertools.count(1))
        self._place = settings.place
        self._alpha = settings.alpha
        self._past: list[QueuedPrompt] = [self._station(settings.prompt, 0)]
        self._waiting: list[QueuedPrompt] = []
        self._target: QueuedPrompt | None = None
        self._jump: float | None = None  # where the noise goes with the next clip, when somebody asked for it
        if settings.prompt_to is not None and settings.prompt_to != settings.prompt:
            self._target = self._station(settings.prompt_to, 0)
            self._past.append(self._target)
        self.index = 0
        """The segment that is planned next."""

    def next(self) -> Step:
        """Return the next clip and move on."""
        if self.index:
            self._advance()
        self.index += 1
        return self.here()

    def here(self) -> Step:
        """Return the clip that was planned last."""
        settings = self.settings
        to = self._target.prompt if self._target is not None else settings.prompt
        alpha = self._alpha if self._target is not None else 0.0
        shown = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ClipSpec)}
        spec = ClipSpec(**{**shown, "prompt_to": to, "alpha": alpha, "place": self._place})
        return Step(spec, dataclasses.replace(settings, prompt_to=to, alpha=alpha, place=self._place, before=None))

    def change(self, settings: Settings) -> None:
        """Take other settings from the next clip on; the prompt stays, which is changed by `queue` alone."""
        if (settings.seed, settings.place) != (self.settings.seed, self.settings.place):
            self._jump = settings.place if settings.place != self.settings.place else 0.0
        self.settings = dataclasses.replace(settings, prompt=self.settings.prompt)

    def queue(self, prompt: str) -> QueuedPrompt:
        """Let a prompt follow the others.

        Raises:
            InputError: If there are too many already, or there is nothing in it.
        """
        if not prompt:
            raise InputError("prompt: is empty; write what you want to hear next")
        if len(self._waiting) >= self._most_waiting:
            raise InputError(f"prompt: {self._most_waiting} are waiting already; remove one or wait")
        station = self._station(prompt, None)
        self._waiting.append(station)
        return station

    def remove(self, id: str) -> None:
        """Take a prompt that waits off the queue.

        Raises:
            InputError: If it does not wait.
        """
        self._waiting.remove(self._find(id))

    def put_first(self, id: str) -> None:
        """Let a prompt be the next one; errors as of `remove`."""
        station = self._find(id)
        self._waiting.remove(station)
        self._waiting.insert(0, station)

    def stations(self, playing: int) -> list[dict[str, Any]]:
        """Return the prompts of past, present and future.

        Args:
            playing: The segment that is heard.
        """
        self._forecast()
        begun = [station for station in self._past if (station.from_segment or 0) <= playing]
        current = begun[-1] if begun else self._past[0]
        rows, is_past, is_next = [], True, True
        for station in [*self._past, *self._waiting]:
            if station is current:
                state, is_past = "playing", False
            elif is_past:
                state = "past"
            else:
                state, is_next = ("next" if is_next else "waiting"), False
            rows.append({**dataclasses.asdict(station), "state": state})
        return rows

    @property
    def next_effect(self) -> int:
        """The segment from which a change is heard."""
        return self.index

    def _advance(self) -> None:
        """Go one step: on the way to a prompt, or else from noise to noise."""
        clips = self.settings.clips
        if self._target is None and self._waiting:
            self._set_out(self._waiting.pop(0))
        if self._jump is not None:
            self._place, self._jump = self._jump, None
        elif self._target is None:
            self._place = _snapped(self._place + 1 / clips)
        if self._target is not None:
            self._alpha = min(_snapped(self._alpha + 1 / clips), 1.0)
            if self._alpha == 1.0:
                self.settings = dataclasses.replace(self.settings, prompt=self._target.prompt)
                self._target, self._alpha = None, 0.0

    def _set_out(self, station: QueuedPrompt) -> None:
        station.from_segment = self.index
        self._target, self._alpha = station, 0.0
        self._past = [*self._past, station][-_MOST_PAST:]

    def _forecast(self) -> None:
        """Say when each prompt that waits would be heard, if nothing else changes."""
        clips = self.settings.clips
        left = 0 if self._target is None else round((1 - self._alpha) * clips)
        for place, station in enumerate(self._waiting):
            station.from_segment = self.index + left + place * clips

    def _find(self, id: str) -> QueuedPrompt:
        for station in self._waiting:
            if station.id == id:
                return station
        raise InputError("no prompt of that id waits; it may be playing already")

    def _station(self, prompt: str, from_segment: int | None) -> QueuedPrompt:
        return QueuedPrompt(next(self._ids), prompt, from_segment)


def _snapped(value: float) -> float:
    """Return a value of few digits, so that it comes back the same from a link; whole where it nearly is."""
    return float(round(value)) if abs(value - round(value)) < _NEAR else round(value, 6)


DICE = (
    "a slow piano in an empty house, rain outside",
    "acoustic folk fiddle solo over a warm drone",
    "afrobeat drums with bright guitars",
    "ambient choir, long echoes, a cold morning",
    "baroque harpsichord at a brisk walk",
    "bluegrass banjo and double bass, fast and joyful",
    "bossa nova guitar, soft shaker, late evening",
    "brass band in a narrow street",
    "chiptune with a cheerful melody",
    "church bells over a deep electronic bass",
    "cinematic strings, growing tension",
    "cumbia with accordion and hand drums",
    "deep house, round bass, sparse chords",
    "desert blues guitar, handclaps",
    "detuned synthesizer pads, tape wobble",
    "drum and bass with jazz chords",
    "dub reggae, spring reverb on the snare",
    "dusty hip hop beat with a jazz piano loop",
    "female voices singing in parallel fifths",
    "flamenco guitar and palmas",
    "funk with slapped bass and tight drums",
    "gamelan, shimmering and slow",
    "glass harmonica, music box, moonlight",
    "klezmer clarinet, a wedding getting faster",
    "lo-fi beat to study to, vinyl crackle",
    "marimba patterns that drift apart",
    "minimal techno in a large hall",
    "modal jazz with a muted trumpet",
    "morning raga on sitar with tanpura",
    "orchestral waltz, a little drunk",
    "post-rock guitars, slow build, huge drums",
    "ragtime on an old upright piano",
    "shoegaze, walls of guitar, distant voice",
    "solo cello, close, breathing",
    "soul with organ and hand claps",
    "steel drums by the sea",
    "surf rock with tremolo guitar",
    "synthwave, night drive, gated snare",
    "taiko drums and bamboo flute",
    "trip hop, upright bass, dark strings",
)

BUILDER = {
    "genre": (
        "ambient", "blues", "classical", "country", "disco", "drum and bass", "electronic", "folk", "funk", "hip hop",
        "house", "jazz", "latin", "lo-fi", "metal", "pop", "reggae", "rock", "soul", "techno",
    ),
    "mood": (
        "calm", "cheerful", "dark", "dreamy", "energetic", "epic", "gentle", "hopeful", "melancholic", "mysterious",
        "nostalgic", "playful", "romantic", "sad", "tense", "warm",
    ),
    "instrument": (
        "accordion", "acoustic guitar", "bass", "bells", "cello", "choir", "drums", "electric guitar", "flute", "harp",
        "marimba", "organ", "piano", "saxophone", "strings", "synthesizer", "trumpet", "violin",
    ),
    "tempo": ("very slow", "slow", "medium tempo", "fast", "very fast"),
}  # fmt: skip

SEED_IMAGE_WORDS = {
    "beats": ("Beat", "Two bars of four beats: everything keeps to it."),
    "half_time": ("Half time", "A slow drum with an echo in between."),
    "plucked": ("Plucked", "Sixteen plucked notes, up and down."),
    "pad": ("Pad", "A held chord whose voices swell one after the other."),
}
"""What our seed images are called, and what they do."""
