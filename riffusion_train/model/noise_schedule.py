"""The noise schedule that a model is trained on, as the scheduler config that travels with its weights."""

from typing import Any


def trained_scheduler(scheduler: Any, *, prediction_type: str, rescale_betas_zero_snr: bool) -> Any:
    """Return a scheduler whose config says what was trained, so that nobody samples with another target or schedule.

    A terminal signal-to-noise ratio of zero (Lin et al. 2024, arXiv:2305.08891) is DDIM's to say: the scheduler that Stable
    Diffusion 1.5 ships knows no such key. Its timesteps are `trailing`, since a sampler that leaves out the last timestep never
    starts from the pure noise that was trained.

    Args:
        scheduler: The base model's diffusers scheduler.
        prediction_type: `epsilon` or `v_prediction`.
        rescale_betas_zero_snr: Whether the last timestep is pure noise.
    """
    from diffusers import DDIMScheduler

    config = dict(scheduler.config)
    was_rescaled = bool(config.get("rescale_betas_zero_snr"))
    if rescale_betas_zero_snr:
        return DDIMScheduler.from_config(
            config,
            prediction_type=prediction_type,
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
        )
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if was_rescaled:
        changes |= {"rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    return type(scheduler).from_config(config, **changes)
