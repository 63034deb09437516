"""What the types of `PrepareConfig` cannot say about its values."""

import math
import re

from riffusion_train.config.errors import InputError
from riffusion_train.config.prepare import CaptionSource, Engine, PrepareConfig, Tail, TemplateUse


def check_prepare(config: PrepareConfig) -> None:
    """Check what the types cannot say.

    Raises:
        InputError: With the first key whose value cannot be used.
    """
    clip_s = config.spectrogram.clip_s
    if config.stride_s is not None and not (math.isfinite(config.stride_s) and config.stride_s >= 0.01):
        raise InputError(f"stride_s={config.stride_s}: it is a number of seconds from 0.01 up")
    if config.min_clip_s is not None and not 0 < config.min_clip_s <= clip_s:
        raise InputError(f"min_clip_s={config.min_clip_s}: it lies between 0 and the clip's {clip_s:.2f} s")
    if config.min_clip_s is not None and config.tail is not Tail.pad:
        tail = config.tail.value
        raise InputError(
            f"min_clip_s= has no meaning with tail={tail}, which keeps full clips only; leave out one of them"
        )
    for key in ("validation_ratio", "test_ratio"):
        if not 0 <= getattr(config, key) < 1:
            raise InputError(f"{key}={getattr(config, key)}: it is a share from 0 to below 1")
    if config.validation_ratio + config.test_ratio >= 1:
        raise InputError("validation_ratio and test_ratio leave nothing to train on; their sum must be below 1")
    if config.peak_ceiling_dbfs > 0:
        raise InputError(f"peak_ceiling_dbfs={config.peak_ceiling_dbfs}: a peak above 0 dBFS clips; use 0 or below")
    if config.target_lufs is not None and not -70 <= config.target_lufs <= 0:
        raise InputError(f"target_lufs={config.target_lufs}: it lies between -70 and 0, or is null")
    if config.num_workers is not None and config.num_workers < 0:
        raise InputError(f"num_workers={config.num_workers}: it is 0 or more, or null for one a core")
    if config.engine is Engine.ray and config.num_workers == 0:
        raise InputError("num_workers=0 works in this process; with engine=ray it is 1 or more, or null for all cores")
    if config.ray_address is not None and config.engine is not Engine.ray:
        raise InputError(f"ray_address={config.ray_address} has no meaning without engine=ray")
    if config.shard_size_mb < 1:
        raise InputError(f"shard_size_mb={config.shard_size_mb}: it is at least 1")
    if config.captions is CaptionSource.sidecar and config.table is not None:
        raise InputError("captions=sidecar reads no table; leave out table= or say captions=table")
    if not 0.7 <= config.near_duplicate_similarity <= 1:
        raise InputError(f"near_duplicate_similarity={config.near_duplicate_similarity}: it lies between 0.7 and 1")
    if config.max_clipped is not None and not 0 <= config.max_clipped < 1:
        raise InputError(f"max_clipped={config.max_clipped}: it is a share from 0 to below 1, or null")
    if config.random_crops < 0:
        raise InputError(f"random_crops={config.random_crops}: it is 0 or more")
    if config.max_slices_per_track is not None and config.max_slices_per_track < 1:
        raise InputError(f"max_slices_per_track={config.max_slices_per_track}: it is 1 or more, or null")
    if not (math.isfinite(config.balance_ratio) and config.balance_ratio >= 1):
        raise InputError(f"balance_ratio={config.balance_ratio}: it is 1 or more")
    if config.template_use is TemplateUse.add and config.caption_template is None:
        raise InputError("template_use=add needs a caption_template=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", config.license):
        raise InputError(f"license={config.license}: write it as the Hub does, such as cc-by-4.0 or cc0-1.0, or other")
    if config.part is not None:
        parse_part(config.part)
        if config.push_to_hub is not None:
            raise InputError("push_to_hub= with part=: a part is no dataset; riffusion prepare merge pushes the whole")


def parse_part(text: str) -> tuple[int, int]:
    """Return number and count of `part=3/8`: (3, 8).

    Raises:
        InputError: If it is no part.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"part={text}: write number and count, from 1/8 to 8/8")
    return number, count
