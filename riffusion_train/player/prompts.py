"""The prompt queue of a session, which says what the next clip is; and the prompts that the page suggests."""

import dataclasses
import itertools
from typing import Any

from riffusion_train.player.settings import MOMENT, ClipSpec, Settings
from riffusion_train.runtime.errors import InputError

_MAX_STARTED = 50
"""Prompts that are remembered once they have started."""
_NEAR = 1e-4


@dataclasses.dataclass
class QueuedPrompt:
    """A prompt that plays, has played, or waits.

    Attributes:
        id: Its name.
        prompt: Its text.
        from_segment: The first segment in which it can be heard; while it waits, a forecast.
    """

    id: str
    prompt: str
    from_segment: int | None = None


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a session had come with a segment: what is planned next follows from it and from the settings.

    Attributes:
        prompt: The prompt that plays, or that the transition comes from.
        noise: How far the noise has moved from the seed, in seeds.
        alpha: How far the transition has come.
        target: The prompt that the transition leads to.
        started: The prompts that have started, the oldest first.
    """

    prompt: str
    noise: float
    alpha: float
    target: QueuedPrompt | None
    started: tuple[QueuedPrompt, ...]


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """The next clip of a session.

    Attributes:
        spec: The clip.
        share: Settings that restore the moment, except for the clip before it.
        progress: How far the session has come with it.
    """

    spec: ClipSpec
    share: Settings
    progress: Progress


class PromptQueue:
    """Plans the clips of a session, one by one.

    A prompt alone moves from the noise of one seed to that of the next, in `clips` segments. While another prompt waits, the
    noise stands still and the transition to that prompt takes `clips` segments.

    Args:
        settings: What the session begins with; with `prompt_to` and `alpha` it begins in the middle of a transition.
        max_waiting: Prompts that may wait.
    """

    def __init__(self, settings: Settings, *, max_waiting: int = 20) -> None:
        self.settings = settings
        self._max_waiting = max_waiting
        self._ids = map(str, itertools.count(1))
        self._noise = settings.place
        """How far the noise has moved from the seed, in seeds."""
        self._alpha = settings.alpha
        self._started: list[QueuedPrompt] = [self._new(settings.prompt, 0)]
        self._waiting: list[QueuedPrompt] = []
        self._target: QueuedPrompt | None = None
        """The prompt that the present transition leads to."""
        self._now: QueuedPrompt | None = None
        """A prompt that replaces the present one with the next clip."""
        self._noise_jump: float | None = None
        """Where the noise goes with the next clip, if somebody has asked for it."""
        self._granted: list[tuple[int, QueuedPrompt | None, float | None]] = []
        """What was asked for and has been planned, with the segment it was planned for: it may have to be planned again."""
        if settings.prompt_to is not None and settings.prompt_to != settings.prompt:
            self._target = self._new(settings.prompt_to, 0)
            self._started.append(self._target)
        self.next_index = 0
        """The segment that is planned next, which is the first one in which a change is heard."""

    def next(self) -> PlannedClip:
        """Plan the next clip."""
        if self.next_index:
            self._advance()
        elif self._now is not None:
            self._replace_prompt()
        self.next_index += 1
        return self.planned()

    def turn(self) -> PlannedClip:
        """Plan a change that is heard before the clip that plays ends: nothing moves on but what was asked for."""
        if self._now is not None:
            self._replace_prompt()
        elif self._target is None and self._waiting:
            self._start(self._waiting.pop(0))
            self._move_on()
        if self._noise_jump is not None:
            self._jump()
        self.next_index += 1
        return self.planned()

    def rewind(self, progress: Progress, next_index: int) -> None:
        """Go back to how far the session had come with a segment; what was planned after it is thrown away.

        Args:
            progress: Of that segment.
            next_index: The segment that is planned next.
        """
        undone = [granted for granted in self._granted if granted[0] >= next_index]
        self._granted = [granted for granted in self._granted if granted[0] < next_index]
        for _, now, noise in undone:
            self._now = now if self._now is None else self._now
            self._noise_jump = noise if self._noise_jump is None else self._noise_jump
        at_once = [now for _, now, _ in undone]
        again = [one for one in self._started if one not in progress.started and one not in at_once]
        for queued in again:
            queued.from_segment = None
        self._started, self._waiting = list(progress.started), [*again, *self._waiting]
        self.settings = self.settings.model_copy(update={"prompt": progress.prompt})
        self._noise, self._alpha, self._target = progress.noise, progress.alpha, progress.target
        self.next_index = next_index

    def begins_after(self, progress: Progress) -> bool:
        """Whether the only prompt that waits could begin right after a segment."""
        nothing_started = all(queued in progress.started for queued in self._started)
        return progress.target is None and nothing_started and len(self._waiting) == 1

    def planned(self) -> PlannedClip:
        """Return the clip that was planned last."""
        moment = {
            "prompt_to": self.settings.prompt if self._target is None else self._target.prompt,
            "alpha": 0.0 if self._target is None else self._alpha,
            "place": self._noise,
        }
        nothing_before = {name: Settings.model_fields[name].default for name in MOMENT if name not in moment}
        share = self.settings.model_copy(update={**nothing_before, **moment})
        progress = Progress(self.settings.prompt, self._noise, self._alpha, self._target, tuple(self._started))
        return PlannedClip(share.clip(), share, progress)

    def change(self, settings: Settings) -> None:
        """Use other settings from the next clip on; the prompt stays, which only `add` can change."""
        if (settings.seed, settings.place) != (self.settings.seed, self.settings.place):
            self._noise_jump = settings.place if settings.place != self.settings.place else 0.0
        self.settings = settings.model_copy(update={"prompt": self.settings.prompt})

    def add(self, prompt: str) -> QueuedPrompt:
        """Add a prompt at the end.

        Raises:
            InputError: If it is empty, or too many wait already.
        """
        if not prompt:
            raise InputError("prompt: is empty; write what you want to hear next")
        if len(self._waiting) >= self._max_waiting:
            raise InputError(f"prompt: {self._max_waiting} are waiting already; remove one or wait")
        queued = self._new(prompt, None)
        self._waiting.append(queued)
        return queued

    def replace(self, prompt: str) -> None:
        """Let a prompt be heard instead of the present one, from the next clip or change on.

        Raises:
            InputError: If it is empty.
        """
        if not prompt:
            raise InputError("now: is empty; write what you want to hear")
        self._now = self._new(prompt, None)

    def remove(self, id: str) -> None:
        """Remove a prompt that waits.

        Raises:
            InputError: If it does not wait.
        """
        self._waiting.remove(self._find(id))

    def put_first(self, id: str) -> None:
        """Let a prompt be the next one; errors as of `remove`."""
        queued = self._find(id)
        self._waiting.remove(queued)
        self._waiting.insert(0, queued)

    def rows(self, playing_index: int) -> list[dict[str, Any]]:
        """Return the prompts that have played, play and wait, as the interface shows them.

        Args:
            playing_index: The segment that is heard.
        """
        self._forecast()
        heard = [queued for queued in self._started if (queued.from_segment or 0) <= playing_index]
        current = heard[-1] if heard else self._started[0]
        rows, is_past, is_next = [], True, True
        for queued in [*self._started, *([] if self._now is None else [self._now]), *self._waiting]:
            if queued is current:
                state, is_past = "playing", False
            elif is_past:
                state = "past"
            else:
                state, is_next = ("next" if is_next else "waiting"), False
            rows.append({**dataclasses.asdict(queued), "state": state})
        return rows

    def _advance(self) -> None:
        """Go one segment further: in the transition to a prompt, or else from noise to noise."""
        if self._now is not None:
            self._replace_prompt()
        elif self._target is None and self._waiting:
            self._start(self._waiting.pop(0))
        if self._noise_jump is not None:
            self._jump()
        elif self._target is None:
            self._noise = _snapped(self._noise + 1 / self.settings.clips)
        if self._target is not None:
            self._move_on()

    def _move_on(self) -> None:
        """Go one step further in the transition."""
        assert self._target is not None
        self._alpha = min(_snapped(self._alpha + 1 / self.settings.clips), 1.0)
        if self._alpha == 1.0:
            self.settings = self.settings.model_copy(update={"prompt": self._target.prompt})
            self._target, self._alpha = None, 0.0

    def _jump(self) -> None:
        """Let the noise be where it was asked to go."""
        assert self._noise_jump is not None
        self._granted = [*self._granted, (self.next_index, None, self._noise_jump)][-_MAX_STARTED:]
        self._noise, self._noise_jump = self._noise_jump, None

    def _replace_prompt(self) -> None:
        """Let the prompt that is to be heard at once be the present one."""
        assert self._now is not None
        queued, self._now = self._now, None
        self._granted = [*self._granted, (self.next_index, queued, None)][-_MAX_STARTED:]
        queued.from_segment = self.next_index
        if self.next_index == 0:
            self._started = []
        self._started = [*self._started, queued][-_MAX_STARTED:]
        self._target, self._alpha = None, 0.0
        self.settings = self.settings.model_copy(update={"prompt": queued.prompt})

    def _start(self, queued: QueuedPrompt) -> None:
        queued.from_segment = self.next_index
        self._target, self._alpha = queued, 0.0
        self._started = [*self._started, queued][-_MAX_STARTED:]

    def _forecast(self) -> None:
        """Note when each waiting prompt will be heard, if nothing else changes."""
        clips = self.settings.clips
        if self._now is not None:
            self._now.from_segment = self.next_index
        left = 0 if self._target is None else round((1 - self._alpha) * clips)
        for position, queued in enumerate(self._waiting):
            queued.from_segment = self.next_index + left + position * clips

    def _find(self, id: str) -> QueuedPrompt:
        for queued in self._waiting:
            if queued.id == id:
                return queued
        raise InputError("no prompt with that id waits; it may be playing already")

    def _new(self, prompt: str, from_segment: int | None) -> QueuedPrompt:
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
"""Prompts of which the page suggests one at random."""

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
"""Parts from which the page puts a prompt together."""

SEED_IMAGE_TEXTS = {
    "beats": ("Beat", "Two bars of four beats, which everything follows."),
    "half_time": ("Half time", "A slow drum with an echo in between."),
    "plucked": ("Plucked", "Sixteen plucked notes, up and down."),
    "pad": ("Pad", "A held chord whose voices swell one after the other."),
}
"""Name and description of each built-in seed image."""
