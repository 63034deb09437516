"""Asking a captioner about the tracks without a caption: several at a time, each file once, and continued after a stop."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from data_prep.captions.captioner import Answer, Captioner
from data_prep.inputs.fetch import open_input
from data_prep.inputs.tracks import Sources
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.signals import StopRequest

CAPTIONER = "the captioner"
"""`Track.caption_source` of its captions."""
CAPTIONER_FAILED = "captioner failed"
"""The warning of a track that the captioner had no caption for."""
_MOST_FAILURES = 8
"""Failures without a single caption after which nothing more is asked."""


class CaptionCache:
    """The answers of one captioner, by the hash of the audio file: lines of JSON that are only ever added to.

    Args:
        folder: Where the files of all captioners are; it is made when the first answer comes.
        key: The `key` of the captioner.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / f"{key}.jsonl"

    def read(self) -> dict[str, tuple[str, ...]]:
        """Return the captions by the file's hash; a line that a killed run left incomplete is skipped."""
        known: dict[str, tuple[str, ...]] = {}
        if not self._path.is_file():
            return known
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                known[str(entry["file_hash"])] = tuple(str(caption) for caption in entry["captions"])
        return known

    def add(self, file_hash: str, captions: Sequence[str]) -> None:
        """Add an answer."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"file_hash": file_hash, "captions": list(captions)}, ensure_ascii=False)
        with self._path.open("ab+") as file:
            if file.tell() and not _ends_a_line(self._path):
                file.write(b"\n")
            file.write(line.encode() + b"\n")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def ask_captioner(
    sources: Sources, file_hashes: Sequence[str], captioner: Captioner, folder: Path
) -> tuple[Sources, int]:
    """Return the sources with the captioner's captions of tracks that have none, and the number of those it failed at.

    Args:
        sources: All tracks.
        file_hashes: The hash of each file; empty for tracks that are rejected.
        captioner: What is asked.
        folder: Folder of the cache.

    Raises:
        InputError: If the captioner cannot answer at all.
        StoppedError: On SIGINT or SIGTERM; the answers so far are kept.
    """
    cache = CaptionCache(folder, captioner.key)
    known = cache.read()
    without = {
        file_hash: track.locator
        for track, file_hash in zip(sources.tracks, file_hashes, strict=True)
        if file_hash and not track.captions and track.rejection is None
    }
    problems: dict[str, str] = {}
    asked = {file_hash: locator for file_hash, locator in without.items() if file_hash not in known}
    if asked:
        for file_hash, answer in _answers(asked, captioner, reused=len(without) - len(asked)):
            if answer.captions:
                known[file_hash] = answer.captions
                cache.add(file_hash, answer.captions)
            else:
                problems[file_hash] = answer.problem
    print(f"captioner: {len(without) - len(problems)} of {len(without)} tracks without a caption have one now")
    tracks = list(sources.tracks)
    for index, file_hash in enumerate(file_hashes):
        if file_hash not in without or tracks[index].captions:
            continue
        if file_hash in known:
            tracks[index] = dataclasses.replace(tracks[index], captions=known[file_hash], caption_source=CAPTIONER)
        else:
            problem = problems[file_hash]
            warnings = tracks[index].warnings | {CAPTIONER_FAILED: problem}
            lacking = f"the captioner failed ({problem}); run the same command again"
            tracks[index] = dataclasses.replace(tracks[index], warnings=warnings, lacking=lacking)
    return dataclasses.replace(sources, tracks=tracks), len(problems)


def _answers(asked: dict[str, str], captioner: Captioner, reused: int) -> Iterator[tuple[str, Answer]]:
    """Yield the answer about each file (locators by hash) as it comes."""
    keys, size = list(asked), captioner.paths_per_call
    batches = iter([keys[start : start + size] for start in range(0, len(keys), size)])
    pool = ThreadPoolExecutor(captioner.calls_at_a_time)
    running: dict[Future[list[Answer]], list[str]] = {}
    captioned = failed = 0
    with StopRequest() as stop, ProgressReport("caption tracks", len(keys) + reused, done=reused) as progress:
        try:
            while True:
                free = 0 if stop.asked else 2 * captioner.calls_at_a_time - len(running)
                for batch in itertools.islice(batches, free):
                    locators = [asked[key] for key in batch]
                    running[pool.submit(_ask, captioner, locators, lambda: stop.asked)] = batch
                if not running:
                    break
                for future in wait(running, timeout=0.2, return_when=FIRST_COMPLETED).done:
                    for file_hash, answer in zip(running.pop(future), future.result(), strict=True):
                        captioned += bool(answer.captions)
                        failed += not answer.captions and not stop.asked
                        yield file_hash, answer
                        if failed == _MOST_FAILURES and not captioned:
                            raise InputError(f"captioner: the first {failed} tracks all failed: {answer.problem}")
                    progress.update(reused + captioned + failed, f"{failed} failed" if failed else "")
                if stop.asked:  # what is being asked is awaited, since it is paid for
                    running = {future: batch for future, batch in running.items() if not future.cancel()}
        finally:
            pool.shutdown(cancel_futures=True)
    if captioned + failed < len(keys):
        raise StoppedError(f"{captioned} of {len(keys)} tracks are captioned; the same command continues")


def _ask(captioner: Captioner, locators: Sequence[str], stopped: Callable[[], bool]) -> list[Answer]:
    """Fetch the files that are not local, and ask about them; one that cannot be fetched does not fail the others."""
    answers: dict[int, Answer] = {}
    paths: dict[int, Path] = {}
    with contextlib.ExitStack() as stack:
        for index, locator in enumerate(locators):
            try:
                paths[index] = stack.enter_context(open_input(locator))
            except InputError as error:
                answers[index] = Answer(problem=one_line(error))
        if paths:
            answers |= zip(paths, captioner.ask(list(paths.values()), stopped), strict=False)
    return [answers.get(index, Answer(problem="stopped")) for index in range(len(locators))]
