"""Pick one of several continuations, then go on from it: composing together with the model, as Jukebox's users did."""

import dataclasses
from pathlib import Path

from riffusion_train.runtime.errors import InputError
from riffusion_train.sampling.modes.base import SourceFile
from riffusion_train.sampling.modes.extend import ExtendRequest
from riffusion_train.sampling.sampler import Sampler


def pick_and_extend(sampler: Sampler, request: ExtendRequest, stem: Path, candidates: int, audio_format: str) -> Path:
    """Make candidates, ask which one to go on with, and extend that one, until the answer is q.

    Each round's candidates lie in `<stem>-round-N/`; everyone of them is a clip with its own settings.

    Args:
        sampler: The model.
        request: What to extend, and how.
        stem: Where to write.
        candidates: How many in each round; their seeds count up.
        audio_format: The format of the files.

    Returns:
        The sound that was chosen last, or the source where none was.

    Raises:
        InputError: If the source cannot be used.
    """
    chosen = Path(request.source.path)
    turn = 0
    while True:
        turn += 1
        folder = stem.with_name(f"{stem.name}-round-{turn}")
        sounds = []
        for index in range(candidates):
            seed = request.seed + (turn - 1) * candidates + index
            clip = sampler.make(dataclasses.replace(request, source=SourceFile.of(chosen), seed=seed))
            sounds.append(clip.save(folder / f"{index + 1}", audio_format)[0])
            print(f"{index + 1}: {sounds[-1]}")
        answer = _answer(candidates)
        if answer is None:
            print(f"ends with {chosen}")
            return chosen
        if answer:
            chosen = sounds[answer - 1]


def _answer(candidates: int) -> int | None:
    """Ask until the answer is a number, n for other candidates (0), or q for the end (None)."""
    while True:
        try:
            text = input(f"go on with 1-{candidates}, n for new ones, q to end: ").strip().lower()
        except EOFError:
            return None
        if text in ("q", "n"):
            return None if text == "q" else 0
        if text.isdecimal() and 1 <= int(text) <= candidates:
            return int(text)
        print(InputError(f"'{text}' is none of them"))
