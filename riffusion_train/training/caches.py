"""What frozen networks give for every slice and caption, computed once by all ranks together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.train import MethodName, TrainConfig
from riffusion_train.dataset.cache import (
    CachedRows,
    CachedTexts,
    Encode,
    RowCache,
    cached_captions,
    latent_cache,
    text_cache,
)
from riffusion_train.dataset.spectrograms import Moments, SpectrogramDataset, Texts, make_tokenize
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.tokenizer import tokenizer_fingerprint
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.signals import StopRequest
from riffusion_train.training.objective import encode_moments


@dataclasses.dataclass(frozen=True)
class CacheWork:
    """A cache, and how its rows are computed."""

    title: str
    """What is done, for the bar."""
    cache: RowCache
    encode: Encode


@dataclasses.dataclass(frozen=True)
class Caches:
    """What a run reads instead of computing it; None where it computes."""

    moments: Moments | None = None
    texts: Texts | None = None


def caches_latents(config: TrainConfig) -> bool:
    """Whether a run reads its latents from a cache: not where the VAE is what is trained."""
    return config.cache_latents and config.method.name is not MethodName.vae


def caches_texts(config: TrainConfig) -> bool:
    """Whether a run reads its hidden states from a cache: not where the text encoder is trained, or none is used."""
    return (
        config.cache_text_embeddings
        and config.method.name is not MethodName.vae
        and not config.method.train_text_encoder
    )


def open_caches(config: TrainConfig, components: Components, dataset: SpectrogramDataset, accelerator: Any) -> Caches:
    """Open the caches that a run reads; let all ranks fill together what is missing of them.

    Raises:
        InputError: If a cache is there that does not fit or is stale, if there is no room for a new one, or if a slice or
            caption gives no finite numbers. The same on every rank.
        StoppedError: If asked to stop; the rows that are done stand.
    """
    moments = texts = None
    if caches_latents(config):
        moments = _opened(latent_work(components, dataset, accelerator.device), accelerator)
    if caches_texts(config):
        captions = cached_captions(dataset.all_captions())
        rows = _opened(text_work(components, dataset, accelerator.device, captions), accelerator)
        texts = CachedTexts(captions, rows)
        components.text_encoder.to("cpu")  # half a gibibyte of a card; a preview borrows it back
    return Caches(moments, texts)


def planned_caches(
    config: TrainConfig, components: Components, dataset: SpectrogramDataset, device: Any
) -> list[CacheWork]:
    """Return the caches that a run of this config reads, whether or not they are there yet."""
    works = [latent_work(components, dataset, device)] if caches_latents(config) else []
    if caches_texts(config):
        works.append(text_work(components, dataset, device, cached_captions(dataset.all_captions())))
    return works


def latent_work(components: Components, dataset: SpectrogramDataset, device: Any) -> CacheWork:
    """Return the cache of a dataset's latents under the model's VAE, and the encoder of its slices."""
    vae = components.vae
    channels, height, width = components.latent_shape(dataset.folder.spectrogram)

    @torch.no_grad()
    def encode(slices: range) -> Tensor:
        return encode_moments(vae, torch.stack([dataset.pixels(index) for index in slices]).to(device))

    cache = latent_cache(dataset, fingerprint(vae), (2 * channels, height, width))
    return CacheWork("encode latents", cache, encode)


def text_work(components: Components, dataset: SpectrogramDataset, device: Any, captions: list[str]) -> CacheWork:
    """Return the cache of the captions' hidden states under the model's text encoder, and the encoder of its rows."""
    tokenizer, text_encoder = components.tokenizer, components.text_encoder
    tokenize = make_tokenize(tokenizer)

    @torch.no_grad()
    def encode(rows: range) -> Tensor:
        ids = torch.stack([tokenize(captions[row]) for row in rows])
        return text_encoder(ids.to(device)).last_hidden_state

    cache = text_cache(
        dataset.folder,
        captions,
        text_encoder=fingerprint(text_encoder),
        tokenizer=tokenizer_fingerprint(tokenizer),
        shape=(tokenizer.model_max_length, int(text_encoder.config.hidden_size)),
    )
    return CacheWork("encode captions", cache, encode)


def _opened(work: CacheWork, accelerator: Any) -> CachedRows:
    cache = work.cache
    together(cache.refuse_stale)
    # One answer for all: a rank that sees the file a moment later than the others would wait for them without end.
    if not _from_main(cache.exists, accelerator):
        together(lambda: _begin(cache, accelerator))
        together(lambda: _fill(work, accelerator))
        together(cache.finish if accelerator.is_main_process else lambda: None)
    opened: list[CachedRows] = []
    together(lambda: opened.append(cache.open()))
    return opened[0]


def _begin(cache: RowCache, accelerator: Any) -> None:
    if not accelerator.is_main_process:
        return
    others = cache.others()
    if others is not None:
        print(f"note: {others}: of another {cache.kind.key}, so a cache is made anew; delete what you need no more")
    cache.allocate()


def _fill(work: CacheWork, accelerator: Any) -> None:
    cache, rank, world_size = work.cache, accelerator.process_index, accelerator.num_processes
    share = sum(len(group) for group in cache.groups(rank=rank, world_size=world_size))
    missing = cache.missing(rank=rank, world_size=world_size)
    before = share - sum(len(group) for group in missing)
    with (
        StopRequest() as stop,
        ProgressReport(work.title, share, done=before, enabled=accelerator.is_main_process) as progress,
    ):

        def report(done: int) -> None:
            progress.update(before + done)
            if stop.asked:
                raise StoppedError(
                    f"{work.title}: {before + done} of this process's {share} are done; the same command with resume=auto "
                    "goes on"
                )

        cache.fill(missing, work.encode, report)


def together(work: Callable[[], None]) -> None:
    """Do this rank's part, and end every rank with the first problem that any of them met: none waits for one that left."""
    from accelerate.utils import gather_object

    problem: Exception | None = None
    try:
        work()
    except (InputError, StoppedError) as error:
        problem = error
    for found in gather_object([problem]):
        if found is not None:
            raise found


def _from_main(ask: Callable[[], bool], accelerator: Any) -> bool:
    from accelerate.utils import broadcast_object_list

    answer = [ask()]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]
