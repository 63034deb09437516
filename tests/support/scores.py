"""Pages of scores of synthetic clips, made without a model: tones and noise, with figures that were made up."""

from pathlib import Path

import numpy as np
from support.auditions import EVIL, write_clip
from support.nano import write_dataset

from riffusion_train.audio.read import read_audio
from riffusion_train.dataset.spectrograms import load_dataset
from riffusion_train.evaluation.checkpoints import CheckpointScores, RunPage, choose
from riffusion_train.evaluation.checkpoints import write_page as write_page_of_run
from riffusion_train.evaluation.clips import ClipFile
from riffusion_train.evaluation.report import ScorePage, write_page
from riffusion_train.evaluation.results import (
    Evaluation,
    ResultRow,
    ScoredClip,
    rows_of_scores,
    rows_of_sounds,
    write_scores,
)
from riffusion_train.listening.copies import Nearest
from riffusion_train.listening.embedder import Heard
from riffusion_train.listening.heard import HeardClips, measure_sound
from riffusion_train.listening.judge import ClipScores, ScoreRow, Scores

CLIPS = 8
CAPTIONS = ("slow piano, no drums", EVIL, "a fast band with a caption that is rather long and goes on, and on, and on")


def heard_clips(clips: int, seed: int = 0) -> HeardClips:
    """Return random embeddings, and the measures of tones of different levels."""
    rng = np.random.default_rng(seed)
    heard = HeardClips(names=[f"{number}" for number in range(clips)], tracks=[""] * clips, captions=[()] * clips)
    for number in range(clips):
        embedding = rng.normal(seed, 1, 6).astype(np.float32)
        heard.heard.append(Heard(embedding, embedding[None], {}, np.zeros((1, 0), np.float32)))
        level = 0.05 * (number + 1) / clips
        heard.sounds.append(measure_sound(rng.normal(0, level, (1, 40000)).astype(np.float32), 16000))
    return heard


def write_score_page(folder: Path, title: str = f"Scores {EVIL}") -> Path:
    """Write a whole page of eight clips, two of which are copies; return its path."""
    trained = load_dataset(write_dataset(folder / "dataset", 6, 1))
    scored = []
    for number in range(CLIPS):
        write_clip(folder / "clips", f"clip #{number}", level_db=-12.0 - number, seed=number)
        stem = folder / "clips" / f"clip #{number}"
        audio, image = stem.with_name(f"{stem.name}.wav"), stem.with_name(f"{stem.name}.png")
        nearest = Nearest(
            number % 6, "t", 0.9 - number / 20, 1 - number / 20, number < 2, 0.7 * (number % 2), number % 3
        )
        file = ClipFile(audio.name, audio, image if number % 2 else None, (CAPTIONS[number % len(CAPTIONS)],))
        scored.append(
            ScoredClip(
                file, measure_sound(*read_audio(audio)), ClipScores(audio.name, number / 9, 1 - number / 9, nearest)
            )
        )
    scores = [
        ScoreRow("kid", "squared distance of embeddings", 0.0213, 0.0181, 0.0249, 0.0004, note="lower is better"),
        ScoreRow("kad", "100 x squared distance of embeddings", None, needed=40, note=EVIL),
        ScoreRow("coverage", "share of real clips", 0.41, 0.32, 0.5, 0.97),
        ScoreRow("agreement", "balanced share of words", 0.71, 0.64, 0.78, 0.5),
        ScoreRow("retrieval", "share of clips", 0.25, 0.2, 0.3, 0.06),
        ScoreRow("copies", "share of clips", 0.25, 0.1, 0.5, 0.01),
    ]
    generated, real = heard_clips(CLIPS), heard_clips(20, seed=1)
    rows = rows_of_scores(Scores(scores, [])) + rows_of_sounds([clip.sound for clip in scored], real.sounds)
    about = {"clips": EVIL, "num_clips": CLIPS, "real": "a dataset", "num_real": 20, "slices_searched": 6}
    about |= {"embedder": "musicnn", "embedder_source": None}
    evaluation = Evaluation(folder, rows, scored, ["1 of 8 clips are silent; they count as they are", EVIL], about)
    write_scores(evaluation, "riffusion evaluate score")
    return write_page(ScorePage(evaluation, title, f"riffusion {EVIL}", generated, real, trained, list(range(6))))


def write_run_page(folder: Path, title: str = f"Checkpoints {EVIL}") -> Path:
    """Write the page of a run with five checkpoints, one of whose clips are gone; return its path."""
    scored, played = [], []
    for number in range(5):
        step, kid = 500 * (number + 1), 0.02 + 0.1 / (number + 1) + 0.01 * (number == 4)
        rows = [
            ResultRow("kid", "squared distance of embeddings", kid, kid - 0.01, kid + 0.01, 0.001),
            ResultRow("agreement", "balanced share of words", 0.6 + number / 20, 0.5, 0.9, 0.5),
            ResultRow("coverage", "share of real clips", 0.2 + number / 10, 0.1, 0.9, 0.97),
            ResultRow("copies", "share of clips", 0.01 * number, 0.0, 0.08, 0.01),
            ResultRow("fad_infinity", "squared distance of embeddings", None, None, None, None, needed=200),
        ]
        scored.append(CheckpointScores(str(step), step, "ema", f"{number}", "", rows, loss=0.1 + 0.01 * number))
        for prompt in range(2):
            write_clip(folder / "clips", f"{step} #{prompt}", level_db=-12.0 - number, seed=number + prompt)
        sounds = [folder / "clips" / f"{step} #{prompt}.wav" for prompt in range(2)]
        played.append([sounds[0], None if number == 1 else sounds[1]])
    about = {
        "run": EVIL,
        "weights": "ema",
        "num_clips": 100,
        "real": "a dataset",
        "num_real": 256,
        "embedder": "musicnn",
    }
    about["prompts"] = [CAPTIONS[2], EVIL]
    page = RunPage(folder, title, f"riffusion evaluate run {EVIL}", about, scored, choose(scored), played)
    return write_page_of_run(page)
