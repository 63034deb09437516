"""Fill and open the caches of a dataset: what frozen networks give for every slice and caption."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from riffusion_train.dataset.cache import (
    CachedTexts,
    Encode,
    JoinedRows,
    RowCache,
    latent_cache,
    slice_keys,
    text_cache,
)
from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.spectrograms import Moments, SpectrogramDataset, Texts, make_tokenize
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.model.tokenizer import tokenizer_fingerprint
from riffusion_train.runtime.errors import StoppedError
from riffusion_train.runtime.signals import StopRequest
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.objective import encode_moments


@dataclasses.dataclass(frozen=True)
class CacheWork:
    """A cache, and how its rows are computed."""

    title: str
    """What is done, for the progress bar."""
    cache: RowCache
    encode: Encode


@dataclasses.dataclass(frozen=True)
class Caches:
    """What a run reads instead of computing it; None where it computes."""

    moments: Moments | None = None
    texts: Texts | None = None


def open_caches(
    distribution: Distribution,
    components: Components,
    dataset: SpectrogramDataset,
    *,
    latents: bool,
    texts: CaptionDraws | None,
) -> Caches:
    """Open the caches that a run reads; all ranks fill together what is missing of them.

    Args:
        distribution: The processes of the run.
        components: The model, with frozen VAE and text encoder where they are cached.
        dataset: The slices.
        latents: Whether the run reads its latents from a cache.
        texts: What is drawn about captions, where it reads the hidden states of all that can be from a cache; the text
            encoder moves to the CPU then.

    Raises:
        InputError: If a file of a cache is damaged, if there is too little disk space for a new one, or if a
            slice or caption gives no finite numbers. The same on every rank.
        StoppedError: If asked to stop; the rows that are done are kept.
    """
    moments = states = None
    if latents:
        own = slice_keys(dataset, keep=True) if distribution.is_main else None
        keys = distribution.from_main(lambda: own)
        assert keys is not None  # the first rank has them
        moments = _open(latent_work(components, dataset, distribution.device, keys), distribution)
    if texts is not None:
        captions = texts.texts(dataset.all_captions(texts.weights))
        rows = _open(text_work(components, dataset, distribution.device, captions), distribution)
        states = CachedTexts(captions, rows)
        components.text_encoder.to("cpu")  # half a gibibyte of GPU memory; a preview moves it back for a while
    return Caches(moments, states)


def planned_caches(
    components: Components,
    dataset: SpectrogramDataset,
    device: torch.device,
    *,
    latents: bool,
    texts: CaptionDraws | None,
) -> list[CacheWork]:
    """Return the caches that a run reads, each with its missing rows planned; arguments as of `open_caches`.

    Raises:
        InputError: If a file of a cache is damaged.
    """
    works = [latent_work(components, dataset, device, slice_keys(dataset, keep=False))] if latents else []
    if texts is not None:
        captions = texts.texts(dataset.all_captions(texts.weights))
        works.append(text_work(components, dataset, device, captions))
    for work in works:
        work.cache.plan(work.cache.find_missing())
        if not work.cache.rows:
            work.cache.open()
    return works


def latent_work(
    components: Components, dataset: SpectrogramDataset, device: torch.device, keys: np.ndarray
) -> CacheWork:
    """Return the cache of a dataset's latents under the model's VAE, and the encoder of its slices."""
    vae = components.vae
    channels, height, width = components.latent_shape(dataset.folder.spectrogram)

    @torch.no_grad()
    def encode(slices: list[int]) -> Tensor:
        return encode_moments(vae, torch.stack([dataset.pixels(index) for index in slices]).to(device))

    cache = latent_cache(dataset, keys, fingerprint(vae), (2 * channels, height, width))
    return CacheWork("encode latents", cache, encode)


def text_work(
    components: Components, dataset: SpectrogramDataset, device: torch.device, captions: list[str]
) -> CacheWork:
    """Return the cache of the captions' hidden states under the model's text encoder, and the encoder of its rows."""
    tokenizer, text_encoder = components.tokenizer, components.text_encoder
    tokenize = make_tokenize(tokenizer)

    @torch.no_grad()
    def encode(rows: list[int]) -> Tensor:
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


def _open(work: CacheWork, distribution: Distribution) -> JoinedRows:
    cache = work.cache
    missing: list[int] = []
    distribution.run_together(lambda: missing.extend(cache.find_missing()) if distribution.is_main else None)
    # One answer for all: a rank that sees a file a moment later than the others would wait for them without end.
    cache.plan(distribution.from_main(lambda: missing))
    if cache.rows:
        distribution.run_together(lambda: _allocate(cache, distribution))
        distribution.run_together(lambda: _fill(work, distribution))
        distribution.run_together(cache.finish if distribution.is_main else lambda: None)
    opened: list[JoinedRows] = []
    distribution.run_together(lambda: opened.append(cache.open()))
    return opened[0]


def _allocate(cache: RowCache, distribution: Distribution) -> None:
    if not distribution.is_main:
        return
    unused = cache.unused()
    if unused is not None:
        print(
            f"note: {unused}: made with another {cache.kind.key}, or from what the dataset held before; delete what you no "
            "longer need"
        )
    if cache.num_kept:
        print(f"note: {cache.num_kept} cached {cache.kind.contents} are used again, {len(cache.rows)} are new")
    cache.allocate()


def _fill(work: CacheWork, distribution: Distribution) -> None:
    """Compute this rank's rows that are missing."""
    cache, rank, world_size = work.cache, distribution.rank, distribution.world_size
    share = sum(len(group) for group in cache.groups(rank=rank, world_size=world_size))
    missing = cache.missing(rank=rank, world_size=world_size)
    before = share - sum(len(group) for group in missing)
    with StopRequest() as stop, distribution.progress(work.title, share, done=before) as progress:

        def report(done: int) -> None:
            progress.update(before + done)
            if stop.asked:
                raise StoppedError(
                    f"{work.title}: {before + done} of this process's {share} are done; the same command with resume=auto "
                    "continues"
                )

        cache.fill(missing, work.encode, report)
