"""Fill and open the caches of a dataset: what frozen networks give for every slice and caption.

A run opens them for a stretch of its steps at a time, and computes then what these steps need and no file has. The first
stretches are short, so that a run of three steps costs three batches, and a long one does not wait for the whole dataset.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from riffusion_train.config.train import CacheDtype, TrainConfig
from riffusion_train.dataset.cache import KEY_BYTES, CacheKind, Encode, JoinedRows, RowCache, text_cache
from riffusion_train.dataset.captions import CaptionDraws
from riffusion_train.dataset.order import AddressedBatches, Order
from riffusion_train.dataset.spectrograms import (
    Moments,
    SliceKeys,
    SpectrogramDataset,
    Texts,
    make_tokenize,
    slice_keys,
)
from riffusion_train.dataset.store import Prefetch
from riffusion_train.model.components import Components, fingerprint, tokenizer_fingerprint
from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.progress import StopRequest
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.objective import encode_moments
from riffusion_train.training.step_data import Caches, CaptionRows, HeldRows, SliceRows

_FIRST_STRETCH, _LONGEST_STRETCH, _GROWTH = 1024, 65536, 4
"""Items of the stretches of steps for which caches are opened."""

LATENTS = CacheKind(name="latents", contents="latents", network="VAE", key="VAE", option="cache_latents")


def latent_cache(
    dataset: SpectrogramDataset,
    keys: np.ndarray,
    vae: str,
    shape: tuple[int, int, int],
    slices: Sequence[int] | None = None,
    **options: Any,
) -> RowCache:
    """Return the cache of the moments of slices, whether or not it exists yet: (slices, 2 * C, h, w).

    Moments are kept rather than samples, so that every step draws its own latents, as without a cache.

    Args:
        dataset: The slices.
        keys: What `slice_keys` returns.
        vae: Fingerprint of the VAE.
        shape: Of the moments of a slice, (2 * C, h, w).
        slices: Which slices; None is all of the split.
        options: `directory` and `dtype` of `RowCache`.
    """

    def name(row: int) -> str:
        return dataset.slice_name(row if slices is None else slices[row])

    return RowCache(dataset.folder, LATENTS, network=vae, keys=keys, shape=shape, name_row=name, **options)


@dataclasses.dataclass(frozen=True)
class CacheWork:
    """A cache, and how its rows are computed."""

    title: str
    """What is done, for the progress bar."""
    cache: RowCache
    encode: Encode
    scale: float = 1.0
    """How many times as many rows the run needs as are in the cache, where only some of its slices were looked at."""


class StepCaches:
    """The caches of a run, opened for a stretch of steps at a time; all ranks fill together what is missing.

    Args:
        distribution: The processes of the run.
        components: The model, with frozen VAE and text encoder where they are cached.
        dataset: The slices.
        latents: Whether the run reads its latents from a cache.
        texts: What is drawn about captions, where it reads their hidden states from a cache; the text encoder is on the CPU
            then but for the filling.
        order: In which order the run meets the slices.
        global_batch_size: Items of a step.
        directory: Where the files are; None is `.cache` in the dataset folder.
        dtype: How rows are stored.
    """

    def __init__(
        self,
        distribution: Distribution,
        components: Components,
        dataset: SpectrogramDataset,
        *,
        latents: bool,
        texts: CaptionDraws | None,
        order: Order,
        global_batch_size: int,
        directory: Path | None = None,
        dtype: str = "fp32",
    ) -> None:
        self._distribution, self._components, self._dataset = distribution, components, dataset
        self.device, self.dtype = distribution.device, dtype
        self._latents, self._texts = latents, texts
        self._order, self._batch = order, global_batch_size
        self._options: dict[str, Any] = {"directory": directory, "dtype": dtype}
        self._noted: set[str] = set()
        self._last: tuple[tuple[int, int], Caches] | None = None

    def stretches(self, first_step: int, last_step: int) -> Iterator[tuple[int, int]]:
        """Yield the first step of each stretch, and the one after its last."""
        items = _FIRST_STRETCH if self._latents or self._texts is not None else last_step * self._batch
        while first_step < last_step:
            stop = min(last_step, first_step + max(1, items // self._batch))
            yield first_step, stop
            first_step, items = stop, min(_LONGEST_STRETCH, _GROWTH * items)

    def open(self, first_step: int, last_step: int) -> Caches:
        """Open the caches for the steps from the first to before the last. All ranks join.

        Raises:
            InputError: If a file of a cache is damaged, if there is too little disk space for a new one, or if a slice or
                caption gives no finite numbers. The same on every rank.
            StoppedError: If asked to stop; the rows that are done are kept.
        """
        if first_step == last_step or not (self._latents or self._texts is not None):
            return Caches()
        if self._last is None or self._last[0] != (first_step, last_step):
            numbers = np.arange(first_step * self._batch, last_step * self._batch)
            slices = self._order.slice_indices(numbers)
            moments = self._open_latents(np.unique(slices)) if self._latents else None
            texts = None if self._texts is None else self._open_texts(self._drawn(numbers, slices))
            self._last = (first_step, last_step), Caches(moments, texts)
        return self._last[1]

    def fill(self, part: int, num_parts: int) -> None:
        """Fill the caches for all slices and captions of the dataset, or for one of equal parts of it. All ranks join.

        Args:
            part: Which part, from 1.
            num_parts: How many parts there are.
        """
        count = len(self._dataset)
        first, stop = ((number * count) // num_parts for number in (part - 1, part))
        for start in range(first, stop, _LONGEST_STRETCH):
            slices = np.arange(start, min(stop, start + _LONGEST_STRETCH))
            if self._latents:
                self._open_latents(slices)
            if self._texts is not None:
                captions = self._dataset.captions_of(slices.tolist(), self._texts.weights)
                self._open_texts(self._texts.texts(captions))

    def _drawn(self, numbers: np.ndarray, slices: np.ndarray) -> list[str]:
        """Return the texts that steps train with, each once."""
        draws, dataset = self._texts, self._dataset
        assert draws is not None
        drawn: dict[str, None] = {}

        def draw() -> None:
            steps, positions = np.divmod(numbers, self._batch)
            of_slice = np.argsort(slices, kind="stable")  # row group by row group
            with fetched_ahead(dataset, _batched(slices[of_slice]), images=False) as advance:
                found = {}
                for place, item in enumerate(of_slice.tolist()):
                    if place % _READ_AT_ONCE == 0:
                        advance()
                    captions = dataset.captions(int(slices[item]))
                    found[item] = draws.draw(captions, int(steps[item]), int(positions[item]))
            drawn.update(dict.fromkeys(found[item] for item in sorted(found)))

        self._distribution.run_together(draw if self._distribution.is_main else lambda: None)
        return self._distribution.from_main(lambda: list(drawn))

    def _open_latents(self, slices: np.ndarray) -> Moments:
        keys = self._keys(slices)
        work = latent_work(
            self._components, self._dataset, self._distribution.device, keys, slices.tolist(), **self._options
        )
        return SliceRows(slices, self._open(work))

    def _open_texts(self, captions: list[str]) -> Texts:
        self._components.text_encoder.to(self._distribution.device)
        work = text_work(self._components, self._dataset, self._distribution.device, captions, **self._options)
        rows = self._open(work)
        self._components.text_encoder.to("cpu")  # half a gibibyte of GPU memory; a preview moves it back for a while
        return CaptionRows(captions, rows)

    def _keys(self, slices: np.ndarray) -> np.ndarray:
        """Return the keys of slices, uint8 (n, 16); each rank reads a share of the images whose keys are not known."""
        distribution, known = self._distribution, SliceKeys(self._dataset, self._options["directory"])
        keys = distribution.from_main(lambda: known.known(slices.tolist()))
        new = np.flatnonzero(~keys.any(axis=1))
        if not len(new):
            return keys
        share = -(-len(new) // distribution.world_size)
        own = np.zeros((share, KEY_BYTES), np.uint8)
        mine = new[distribution.rank * share : (distribution.rank + 1) * share]

        def compute() -> None:
            with fetched_ahead(self._dataset, _batched(slices[mine]), images=True) as advance:
                for place, row in enumerate(mine):
                    if place % _READ_AT_ONCE == 0:
                        advance()
                    own[place] = known.compute(int(slices[row]))

        distribution.run_together(compute)
        gathered = distribution.gather_rows(torch.from_numpy(own).to(distribution.device)).cpu().numpy()
        keys[new] = gathered.reshape(-1, KEY_BYTES)[: len(new)]
        distribution.on_main(lambda: known.keep(slices[new].tolist(), keys[new]))
        return keys

    def _open(self, work: CacheWork) -> JoinedRows:
        distribution, cache = self._distribution, work.cache
        missing: list[int] = []
        distribution.run_together(lambda: missing.extend(cache.find_missing()) if distribution.is_main else None)
        # One answer for all: a rank that sees a file a moment later than the others would wait for them without end.
        cache.plan(distribution.from_main(lambda: missing))
        if cache.rows:
            distribution.run_together(lambda: self._allocate(cache))
            distribution.run_together(lambda: _fill(work, distribution))
            distribution.run_together(cache.finish if distribution.is_main else lambda: None)
        opened: list[JoinedRows] = []
        distribution.run_together(lambda: opened.append(cache.open()))
        return opened[0]

    def _allocate(self, cache: RowCache) -> None:
        if not self._distribution.is_main:
            return
        if cache.kind.name not in self._noted:  # at the first stretch of a start
            self._noted.add(cache.kind.name)
            unused = cache.unused()
            if unused is not None and self._options["directory"] is None:
                print(
                    f"note: {unused}: made with another {cache.kind.key}, or from what the dataset held before; delete what "
                    "you no longer need"
                )
            if cache.num_kept:
                print(f"note: {cache.num_kept} cached {cache.kind.contents} are used again, {len(cache.rows)} are new")
        cache.allocate()


_READ_AT_ONCE = 64
"""Slices between two looks at what is fetched ahead."""
_LOOKED_AT = 4096
"""Slices of a dataset that a check looks at."""


def _batched(slices: np.ndarray) -> Iterator[list[int]]:
    for start in range(0, len(slices), _READ_AT_ONCE):
        yield slices[start : start + _READ_AT_ONCE].tolist()


@contextlib.contextmanager
def fetched_ahead(dataset: SpectrogramDataset, batches: Any, *, images: bool) -> Iterator[Any]:
    """Fetch what batches need ahead of them, for the length of a block, if the dataset is in a store.

    Args:
        dataset: The slices.
        batches: The slices of each batch.
        images: Whether batches need images, or captions alone.

    Yields:
        A function to be called as each batch is used.
    """
    if not dataset.folder.is_remote:
        yield lambda: None
        return
    limit_bytes = dataset.folder.cache_bytes // 2
    prefetch = Prefetch(dataset.rows, batches, images=images, limit_bytes=limit_bytes)
    try:
        yield prefetch.advance
    finally:
        prefetch.close()


def make_batches(
    caches: StepCaches,
    items: Callable[[Caches], Dataset[Any]],
    dataset: SpectrogramDataset,
    order: Order,
    *,
    workers: int,
    hold: bool,
    last_step: int,
    **shares: int,
) -> Callable[[int], Iterator[dict[str, Tensor]]]:
    """Return the function from a first step to this rank's forward batches, a stretch of steps after the other.

    Args:
        caches: Opened for each stretch.
        items: From what is open to the items, looked up by address.
        dataset: The slices.
        order: In which order the run meets them.
        workers: Processes that load.
        hold: Whether cached rows are held on the device, where they fit.
        last_step: The step to end before.
        shares: `batch_size`, `accumulation`, `rank` and `world_size` of `AddressedBatches`.
    """
    on_gpu, held = caches.device.type == "cuda", HeldRows(caches.device, caches.dtype)

    def batches(first_step: int) -> Iterator[dict[str, Tensor]]:
        for first, stop in caches.stretches(first_step, last_step):
            opened = caches.open(first, stop)
            loaded_from = held.hold(opened) if hold else opened
            sampler = AddressedBatches(order, first_step=first, last_step=stop, **shares)
            slices = ([address.slice_index for address in batch] for batch in sampler)
            loader: DataLoader[Any] = DataLoader(
                items(loaded_from), batch_sampler=sampler, num_workers=workers, pin_memory=on_gpu
            )
            loaded = _with_plain_errors(iter(loader))  # forks the workers, which must be before other threads start
            with fetched_ahead(dataset, slices, images=opened.moments is None) as advance:
                for batch in loaded:
                    advance()
                    yield held.put_rows(batch)

    return batches


def _with_plain_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; wrong input that a worker process finds is one line, without the traceback that torch adds."""
    try:
        yield from batches
    except InputError as error:
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None


def cache_options(config: TrainConfig) -> dict[str, Any]:
    """Return where the caches of a run are, and how they store numbers, as arguments of `RowCache`."""
    directory = None if config.cache_dir is None else Path(config.cache_dir).expanduser()
    return {"directory": directory, "dtype": (config.cache_dtype or CacheDtype.fp16).value}


def planned_caches(
    components: Components,
    dataset: SpectrogramDataset,
    device: torch.device,
    *,
    latents: bool,
    texts: CaptionDraws | None,
    num_items: int,
    **options: Any,
) -> list[CacheWork]:
    """Return the caches that a run needs, each with its missing rows planned: of a large dataset, those of some slices.

    Args:
        components: As of `StepCaches`.
        dataset: The same.
        device: Where to encode.
        latents: As of `StepCaches`.
        texts: The same.
        num_items: Items of the whole run.
        options: `directory` and `dtype` of `RowCache`.

    Raises:
        InputError: If a file of a cache is damaged.
    """
    looked_at = min(_LOOKED_AT, len(dataset))
    slices = [number * len(dataset) // looked_at for number in range(looked_at)]
    scale = min(len(dataset), num_items) / looked_at
    works = []
    if latents:
        keys = slice_keys(dataset, slices, options.get("directory"), keep=False)
        works.append(latent_work(components, dataset, device, keys, slices, **options))
    if texts is not None:
        captions = texts.texts(dataset.captions_of(slices, texts.weights))
        works.append(text_work(components, dataset, device, captions, **options))
    for work in works:
        work.cache.plan(work.cache.find_missing())
        if not work.cache.rows:
            work.cache.open()
    return [dataclasses.replace(work, scale=scale) for work in works]


def latent_work(
    components: Components,
    dataset: SpectrogramDataset,
    device: torch.device,
    keys: np.ndarray,
    slices: Sequence[int],
    **options: Any,
) -> CacheWork:
    """Return the cache of the latents of slices under the model's VAE, and the encoder of its rows."""
    vae = components.vae
    channels, height, width = components.latent_shape(dataset.folder.spectrogram)

    @torch.no_grad()
    def encode(rows: list[int]) -> Tensor:
        return encode_moments(vae, torch.stack([dataset.pixels(slices[row]) for row in rows]).to(device))

    cache = latent_cache(dataset, keys, fingerprint(vae), (2 * channels, height, width), slices, **options)
    return CacheWork("encode latents", cache, _alone_on_cpu(encode, device))


def text_work(
    components: Components, dataset: SpectrogramDataset, device: torch.device, captions: list[str], **options: Any
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
        **options,
    )
    return CacheWork("encode captions", cache, _alone_on_cpu(encode, device))


def _alone_on_cpu(encode: Encode, device: torch.device) -> Encode:
    """Return an encoder that takes rows one by one on a CPU, so that a row does not depend on which others are with it.

    There the last bits of a convolution or product follow the size of the batch, and ten steps would not be five and five.
    """
    if device.type != "cpu":
        return encode
    return lambda rows: torch.cat([encode([row]) for row in rows])


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
