"""The latent cache: mean and log-variance of every slice under a frozen VAE, encoded once by all ranks together."""

from riffusion_train.dataset.loading import SliceTable
from riffusion_train.dataset.row_cache import CacheKind, RowCache

LATENTS = CacheKind(name="latents", contents="latents", network="VAE", key="VAE", option="cache_latents")


def latent_cache(table: SliceTable, vae: str, shape: tuple[int, int, int]) -> RowCache:
    """Return the cache of a split's moments, whether or not it is there yet: float32 (slices, 2 * C, h, w).

    Moments are kept and not samples, so that every step draws latents of its own, as without a cache.

    Args:
        table: The slices.
        vae: Fingerprint of the VAE.
        shape: Of the moments of a slice, (2 * C, h, w).
    """
    return RowCache(table.folder, LATENTS, network=vae, shape=(len(table), *shape), name_row=table.where)
