"""The final captions of each track: its own, or composed from fields of tables, sidecars, names, tags and measurements.

Tracks without a caption can be given to a captioner: several at a time, each file once, and continued after a stop. In the
end all captions can be checked against the sound: what contradicts it is warned of, taken out of the caption, or rejected.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from data_prep.captions.captioner import Answer, Captioner
from data_prep.captions.checking import Contradiction, Kind, contradictions, corrected
from data_prep.captions.listening import Heard, HeardFile, listened_captions
from data_prep.captions.text import CaptionTemplate, PathTemplate, Value, clean_captions
from data_prep.inputs.sources import TAG_COLUMNS, find_sources, read_tags
from data_prep.inputs.storage import open_input
from data_prep.inputs.tracks import Rejection, Sources, Track, with_columns
from riffusion_train.config.prepare import CaptionCheck, CaptionSource, PrepareConfig, TemplateUse
from riffusion_train.dataset.layout import COLUMNS
from riffusion_train.runtime.errors import InputError, StoppedError, one_line
from riffusion_train.runtime.files import write_atomically
from riffusion_train.runtime.progress import ProgressReport, StopRequest

LISTENING = "listening"
"""`Track.caption_source` of tracks that were captioned by listening."""
_TAG_TEMPLATE = "{comment|genre}"
"""Template of captions=tags without caption_template: comments and genres describe a sound better than titles."""


def captions_need_audio(config: PrepareConfig) -> bool:
    """Return whether captions depend on the sound of the files, or on what the workers read or measure in them."""
    return bool(config.measure or config.captioner) or config.captions is CaptionSource.tags


def add_path_fields(sources: Sources, config: PrepareConfig) -> Sources:
    """Return the sources with the fields that `path_template` reads from their paths as columns.

    Raises:
        InputError: If the template cannot be used, or matches no file.
    """
    if config.path_template is None:
        return sources
    template = PathTemplate(config.path_template)
    for name in template.fields:
        if name in COLUMNS:
            raise InputError(f"path_template: '{name}' is a name that the dataset itself uses; rename the field")
    fields_of = [template.read(track.source) for track in sources.tracks]
    if not any(fields_of):
        raise InputError(f"path_template={template.text} matches no file; the first is {sources.tracks[0].source}")
    return with_columns(sources, [fields or {} for fields in fields_of], template.fields)


def check_fields(sources: Sources, config: PrepareConfig, later: Collection[str]) -> list[str]:
    """Check that the columns that templates and the balance name can exist, before any audio is decoded.

    Args:
        sources: The tracks as they were found.
        config: The run's config.
        later: Columns that are read or measured in the audio only later.

    Returns:
        The columns in `caption_template` that do not exist and can be done without.

    Raises:
        InputError: If `caption_template` or `balance_column` cannot be used.
    """
    known = {*sources.extra_types, *later}
    column = config.balance_column
    if column is not None and column not in known:
        have = ", ".join(sorted(known)) or "none"
        raise InputError(f"balance_column={column}: no such column; there are: {have}")
    return CaptionTemplate(config.caption_template).check(known) if config.caption_template else []


def listens(config: PrepareConfig) -> bool:
    """Return whether tracks without a caption are captioned by listening."""
    return config.captions in (CaptionSource.auto, CaptionSource.listen)


def tracks_to_hear(sources: Sources, config: PrepareConfig, later: Collection[str]) -> frozenset[str]:
    """Return the locators of the tracks that the workers must hear: those for which nothing else gives a caption.

    Args:
        sources: All tracks.
        config: The run's config.
        later: Columns that are read or measured in the audio only later: a template that names one of them will find it.
    """
    if not listens(config):
        return frozenset()
    template = _make_template(config)
    known_later = dict.fromkeys(later, "known")
    return frozenset(
        track.locator
        for track in sources.tracks
        if not track.captions
        and track.rejection is None
        and config.default_caption is None
        and not (template and template.fill({**known_later, **_known(track)}))
    )


def _known(track: Track) -> dict[str, Value]:
    return {name: value for name, value in track.columns.items() if value is not None}


def finish_captions(sources: Sources, config: PrepareConfig, files: Sequence[HeardFile] | None = None) -> Sources:
    """Return the sources with their final captions: compose them, add the trigger, reject tracks without any.

    Args:
        sources: The tracks as they were found.
        config: The run's config.
        files: What was heard in each track; None before the tracks are cut. Those to be captioned by listening are then left as
            they are.
    """
    template = _make_template(config)
    if files is None:
        finished = [_captioned(track, template, config) for track in sources.tracks]
    else:
        finished = [
            # Those with captions were finished before the tracks were cut.
            track if track.captions and not captions_need_audio(config) else _captioned(track, template, config, file)
            for track, file in zip(sources.tracks, files, strict=True)
        ]
    return dataclasses.replace(sources, tracks=finished)


def _make_template(config: PrepareConfig) -> CaptionTemplate | None:
    text = config.caption_template or (_TAG_TEMPLATE if config.captions is CaptionSource.tags else None)
    return CaptionTemplate(text) if text else None


def _captioned(
    track: Track, template: CaptionTemplate | None, config: PrepareConfig, file: HeardFile | None = None
) -> Track:
    captions, source = track.captions, track.caption_source
    slice_captions: tuple[tuple[str, ...], ...] = ()
    if template and (not captions or config.template_use is TemplateUse.add):
        composed = clean_captions([template.fill(track.columns) or ""])
        source = source or ("the template" if config.caption_template else "tags" if composed else "")
        captions = clean_captions([*captions, *composed])
    if not captions and config.default_caption:
        captions, source = clean_captions([config.default_caption]), "default_caption"
    if not captions and file is not None and file.heard is not None and listens(config):
        captions, slice_captions = listened_captions(file.heard, f"{config.seed} {file.file_hash}")
        source = LISTENING
    if config.trigger:
        captions = _with_trigger(captions, config.trigger)
        slice_captions = tuple(_with_trigger(own, config.trigger) for own in slice_captions)
    rejection = track.rejection
    will_be_heard = listens(config) and file is None
    if not captions and rejection is None and not will_be_heard:
        composed_none = ", and caption_template finds nothing to compose one of" if template else ""
        fix = "or give default_caption=, or set captions=listen"
        rejection = Rejection("no caption", f"{track.lacking}{composed_none}, {fix}")
    return dataclasses.replace(
        track,
        captions=captions,
        caption_source=source if captions else "",
        slice_captions=slice_captions,
        rejection=rejection,
    )


def _with_trigger(captions: Iterable[str], trigger: str) -> tuple[str, ...]:
    return clean_captions(f"{trigger}, {caption}" for caption in captions)


def review_path(config: PrepareConfig) -> Path:
    """Return the path of the table to edit: `table=`, or else beside the dataset folder."""
    out = Path(config.out)
    return Path(config.table) if config.table else out.with_name(f"{out.name}.captions.csv")


def write_review(config: PrepareConfig, path: Path) -> str:
    """Write the table of captions=review: a row per caption with all columns; the caption is empty if there is none.

    Returns:
        A message for the user.
    """
    sources = add_path_fields(find_sources(config), config)
    check_fields(sources, config, TAG_COLUMNS)
    tags = [read_tags(Path(track.locator)) if Path(track.locator).is_file() else {} for track in sources.tracks]
    sources = finish_captions(with_columns(sources, tags) if any(tags) else sources, config)
    tracks = [track for track in sources.tracks if track.rejection is None or track.rejection.reason == "no caption"]
    write_atomically(path, _table(Sources(tracks, sources.extra_types)))
    without = sum(not track.captions for track in tracks)
    return f"{path}: {len(tracks)} files, {without} without a caption; edit it, then run the same command again"


def _table(sources: Sources) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["file", "caption", *sources.extra_types])
    for track in sources.tracks:
        values = [track.columns.get(name) for name in sources.extra_types]
        writer.writerows([track.source, caption, *values] for caption in track.captions or ("",))
    return b"\xef\xbb\xbf" + sink.getvalue().encode()  # without the byte-order mark, spreadsheets assume Latin-1


_CAPTIONER = "the captioner"
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
            tracks[index] = dataclasses.replace(tracks[index], captions=known[file_hash], caption_source=_CAPTIONER)
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


_CAPTION_FIXED = "caption corrected"
CHECK_WARNINGS = (*(f"{kind.value} contradicted" for kind in Kind), _CAPTION_FIXED)
"""The warnings of checked tracks."""
_CONTRADICTED = "caption contradicted"
"""The reason for which check_captions=drop rejects a track."""


def check_sources(sources: Sources, files: Sequence[HeardFile], check: CaptionCheck) -> Sources:
    """Return the sources with the final captions checked, except those that were made by listening.

    Args:
        sources: All tracks, with their captions.
        files: What was heard in each; captions of tracks that were not heard are not checked.
        check: What happens to false statements.
    """
    if check is CaptionCheck.off:
        return sources
    tracks, checked, false = list(sources.tracks), 0, 0
    for index, (track, file) in enumerate(zip(sources.tracks, files, strict=True)):
        if file.heard is not None and track.rejection is None and track.caption_source != LISTENING:
            tracks[index] = _checked(track, file.heard, check)
            checked, false = checked + 1, false + (tracks[index] is not track)
    print(f"captions of {checked} tracks are checked against the sound: {false} state something false")
    return dataclasses.replace(sources, tracks=tracks)


def _checked(track: Track, heard: Heard, check: CaptionCheck) -> Track:
    false = {caption: found for caption in track.captions if (found := contradictions(caption, heard))}
    if not false:
        return track
    every = [one for found in false.values() for one in found]
    if check is CaptionCheck.drop:
        detail = f"{_text(every)}; correct the caption, or set check_captions=warn"
        return dataclasses.replace(track, rejection=Rejection(_CONTRADICTED, detail))
    if check is not CaptionCheck.fix:
        kinds = dict.fromkeys(one.statement.kind for one in every)
        warnings = {
            f"{kind.value} contradicted": _text([one for one in every if one.statement.kind is kind]) for kind in kinds
        }
        return dataclasses.replace(track, warnings=track.warnings | warnings)
    captions = dict.fromkeys(corrected(caption, heard) if caption in false else caption for caption in track.captions)
    left = tuple(caption for caption in captions if caption)
    if not left:
        detail = f"{_text(every)}, and nothing else is in the caption; correct it, or set check_captions=warn"
        return dataclasses.replace(track, captions=(), rejection=Rejection(_CONTRADICTED, detail))
    return dataclasses.replace(track, captions=left, warnings=track.warnings | {_CAPTION_FIXED: _text(every)})


def _text(found: Sequence[Contradiction]) -> str:
    return "; ".join(dict.fromkeys(f"'{one.statement.text}': {one.measured}" for one in found))
