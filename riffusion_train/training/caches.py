"""What frozen networks give for every slice, computed once by all ranks together."""

from typing import Any

import torch
from torch import Tensor

from riffusion_train.config.progress import ProgressReport
from riffusion_train.dataset.latents import LatentCache
from riffusion_train.dataset.loading import Moments, SliceTable
from riffusion_train.model.components import Components, fingerprint
from riffusion_train.training.objective import encode_moments

_CACHE_BATCH = 8


def latent_cache(components: Components, table: SliceTable) -> LatentCache:
    """Return the cache of a dataset's latents under the model's VAE, whether or not it is there yet."""
    vae, scale, size = components.vae, components.downsampling, table.folder.spectrogram
    shape = (2 * int(vae.config.latent_channels), size.n_mels // scale, size.width_px // scale)
    return LatentCache(table, f"{table.folder.fingerprint[:16]}-{fingerprint(vae)[:16]}", shape)


def cached_moments(components: Components, table: SliceTable, accelerator: Any) -> Moments:
    """Open the latent cache; let all ranks build it together where it is missing."""
    cache = latent_cache(components, table)
    there = cache.exists()
    accelerator.wait_for_everyone()
    if not there:
        if accelerator.is_main_process:
            cache.create()
        accelerator.wait_for_everyone()
        _fill_cache(cache, components.vae, accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            cache.finish()
        accelerator.wait_for_everyone()
    return cache.open()


def _fill_cache(cache: LatentCache, vae: Any, accelerator: Any) -> None:
    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return encode_moments(vae, pixels.to(accelerator.device))

    rank, world_size = accelerator.process_index, accelerator.num_processes
    share = len(range(rank, cache.shape[0], world_size))
    with ProgressReport("encode latents", share, enabled=accelerator.is_main_process) as progress:
        cache.fill(
            encode,
            batch_size=_CACHE_BATCH,
            rank=rank,
            world_size=world_size,
            report=lambda done, total: progress.update(done),
        )
