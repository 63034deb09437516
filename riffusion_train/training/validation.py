"""What is measured while training, comparable from step to step and from run to run: when it is best, and when to stop."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from riffusion_train.dataset.order import normal, spread
from riffusion_train.dataset.spectrograms import SpectrogramDataset, Tokenize
from riffusion_train.runtime.errors import InputError
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.run_folder import append_line

TIMESTEP_FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The timesteps of the measurement, as parts of all training timesteps."""

_SEED = 0
"""Not the run's: runs of different seeds are measured with the same noise."""

Encode = Callable[[Tensor], Tensor]
"""Pixels (B, 3, H, W) to moments (B, 2 * C, h, w), or token ids (B, 77) to hidden states (B, 77, D), on the CPU."""


class HeldOutBatches(Protocol):
    """The slices that are measured. `names` are the loss's parts; a batch has one row for each of them."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of slices."""
        ...

    def batch(self, number: int) -> dict[str, Tensor]:
        """Return the batch of a slice, by its number among the chosen ones."""
        ...


class HeldOutNoise:
    """Held-out slices under fixed noise at five timesteps, with their first caption; frozen networks encode them once.

    Args:
        dataset: The split.
        num_slices: The most slices to take, spread over the split.
        tokenize: Caption to token ids.
        encode: The VAE's encoder.
        encode_text: The text encoder; None where it is trained, and so part of what is measured.
        latent_shape: (C, h, w).
        num_train_timesteps: Timesteps of the noise schedule.
    """

    def __init__(
        self,
        dataset: SpectrogramDataset,
        num_slices: int,
        *,
        tokenize: Tokenize,
        encode: Encode,
        encode_text: Encode | None,
        latent_shape: tuple[int, int, int],
        num_train_timesteps: int,
    ) -> None:
        self.names = tuple(f"validation_loss_t{fraction:g}" for fraction in TIMESTEP_FRACTIONS)
        self.timesteps = [int(fraction * num_train_timesteps) for fraction in TIMESTEP_FRACTIONS]
        self._dataset = dataset
        self._chosen = spread(len(dataset), num_slices)
        self._tokenize = tokenize
        self._encode = encode
        self._encode_text = encode_text
        self._latent_shape = latent_shape
        self._encoded: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Return a slice at each timestep, each with noise of its own: five rows."""
        index, rows = self._chosen[number], len(self.timesteps)
        if number not in self._encoded:
            self._encoded[number] = self._encode_slice(index)
        noise = [normal(_SEED, "validation noise", self._latent_shape, index, row) for row in range(rows)]
        latent_noise = torch.from_numpy(normal(_SEED, "validation latent", self._latent_shape, index))
        return {
            **{key: value.expand(rows, *value.shape[1:]) for key, value in self._encoded[number].items()},
            "latent_noise": latent_noise.expand(rows, -1, -1, -1),
            "noise": torch.from_numpy(np.stack(noise)),
            "timestep": torch.tensor(self.timesteps),
        }

    def _encode_slice(self, index: int) -> dict[str, Tensor]:
        """Return what is the same at every timestep and every measurement, one row each."""
        moments = self._encode(self._dataset.pixels(index)[None])
        ids = self._tokenize(self._dataset.captions(index)[0])[None]
        if self._encode_text is None:
            return {"input_ids": ids, "moments": moments}
        return {"hidden_states": self._encode_text(ids), "moments": moments}


class HeldOutImages:
    """Held-out slices for the VAE, one row each."""

    names: tuple[str, ...] = ("validation_loss",)

    def __init__(self, dataset: SpectrogramDataset, num_slices: int, *, latent_shape: tuple[int, int, int]) -> None:
        self._dataset = dataset
        self._chosen = spread(len(dataset), num_slices)
        self._latent_shape = latent_shape

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, number: int) -> dict[str, Tensor]:
        """Return a slice's pixels and the noise that samples its latents."""
        index = self._chosen[number]
        noise = normal(_SEED, "validation latent", self._latent_shape, index)
        return {"latent_noise": torch.from_numpy(noise)[None], "pixels": self._dataset.pixels(index)[None]}


@dataclasses.dataclass(frozen=True)
class Monitored:
    """A measurement that can say whether a model has become better."""

    key: str
    """Its name in `metrics.jsonl`."""
    label: str
    """Its name in messages."""
    higher_is_better: bool = False

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best one so far."""
        return best is None or (value > best if self.higher_is_better else value < best)


LOSS = "validation_loss"
KID, AGREEMENT, COPIES = "validation_kid", "validation_agreement", "validation_copies"
MONITORED = {
    "loss": Monitored(LOSS, "the validation loss"),
    "kid": Monitored(KID, "KID"),
    "agreement": Monitored(AGREEMENT, "the agreement with the captions", higher_is_better=True),
}
_COPIES_RISE = 0.05
"""From this rise of the share of copies on, it is named as a reason to stop."""


class Validation:
    """Measures at intervals, writes what it measured, and remembers the best.

    Args:
        held_out: The slices that the loss is measured on.
        distribution: Shares the work between the ranks; every rank gets the same numbers.
        metrics_file: `metrics.jsonl`.
        every_steps: Measure every so many steps.
        patience: Measurements without a better one until `exhausted`; None is never.
        keep_best: Whether the checkpoint of the best measurement is to be kept.
        judge: Samples clips and returns their figures by name in `metrics.jsonl`, the same on every rank; None judges none.
        monitor: What decides, a key of `MONITORED`.
    """

    def __init__(
        self,
        held_out: HeldOutBatches,
        distribution: Distribution,
        metrics_file: Path,
        *,
        every_steps: int,
        patience: int | None,
        keep_best: bool,
        judge: Callable[[int], dict[str, float]] | None = None,
        monitor: str = "loss",
    ) -> None:
        self.held_out = held_out
        self.distribution = distribution
        self.metrics_file = metrics_file
        self.every_steps = every_steps
        self.patience = patience
        self.keep_best = keep_best
        self.judge = judge
        self.monitored = MONITORED[monitor]
        self.best_value: float | None = None
        self.best_step = 0
        self.best_copies: float | None = None
        self.copies: float | None = None
        self.without_improvement = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing has improved for as long as `patience` allows."""
        return self.patience is not None and self.without_improvement >= self.patience

    def due(self, step: int, *, last: bool) -> bool:
        """Whether to measure at a step."""
        return step % self.every_steps == 0 or (last and step > self.every_steps)

    def measure(self, objective: nn.Module, step: int) -> bool:
        """Measure and write. Return whether it is the best measurement so far. Called by all ranks together.

        Raises:
            InputError: If what `monitor` names cannot be measured.
        """
        parts = self._losses(objective).double().mean(dim=0).tolist()
        values = {LOSS: sum(parts) / len(parts), **dict(zip(self.held_out.names, parts, strict=True))}
        if self.judge is not None:
            values |= self.judge(step)
        if self.distribution.is_main:
            append_line(self.metrics_file, {"step": step, **values})
        self.distribution.log(values, step)
        value = values.get(self.monitored.key)
        if value is None:
            raise InputError(
                f"validation.monitor: {self.monitored.label} cannot be measured with these clips and captions; give more "
                "validation.num_clips, or take validation.monitor=loss"
            )
        self.copies = values.get(COPIES)
        improved = self.monitored.improves(value, self.best_value)
        if improved:
            self.best_value, self.best_step, self.best_copies, self.without_improvement = value, step, self.copies, 0
        else:
            self.without_improvement += 1
        return improved

    def stop_reason(self) -> str:
        """Return why the run stops, once `exhausted`."""
        label, least = self.monitored.label, "above" if self.monitored.higher_is_better else "below"
        reason = f"{label} has not been {least} {self.best_value:.4g} since step {self.best_step}"
        if self.copies is not None and self.best_copies is not None and self.copies - self.best_copies >= _COPIES_RISE:
            reason += (
                f", while copies of training slices rose from {self.best_copies:.0%} to {self.copies:.0%} of the clips"
            )
        return reason

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain JSON data."""
        return {
            "monitored": self.monitored.key,
            "best": self.best_value,
            "best_step": self.best_step,
            "best_copies": self.best_copies,
            "copies": self.copies,
            "without_improvement": self.without_improvement,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, or what version 0.1.0 did; with another monitor, only the new one counts."""
        if state.get("monitored", LOSS) != self.monitored.key:
            return
        self.best_value = state["best"] if "best" in state else state["best_loss"]
        self.best_step = state["best_step"]
        self.best_copies, self.copies = state.get("best_copies"), state.get("copies")
        self.without_improvement = state["without_improvement"]

    @torch.no_grad()
    def _losses(self, objective: nn.Module) -> Tensor:
        """Return the losses of all slices, (slices, parts): slice k is measured by rank k % world size."""

        def losses(number: int) -> Tensor:
            with self.distribution.autocast():
                return slice_losses(objective, self.held_out, number, self.distribution.device)

        with evaluation_mode(objective):
            return self.distribution.map_shared(losses, len(self.held_out))


def slice_losses(objective: nn.Module, held_out: HeldOutBatches, number: int, device: torch.device) -> Tensor:
    """Return the parts of the loss of one held-out slice, (parts,)."""
    batch = {key: value.to(device) for key, value in held_out.batch(number).items()}
    losses: Tensor = objective(batch, each=True).float()
    return losses


@torch.no_grad()
def held_out_loss(objective: nn.Module, held_out: HeldOutBatches, device: torch.device) -> float:
    """Return the mean loss on all held-out slices in one process, as `Validation` measures it."""
    with evaluation_mode(objective):
        losses = [slice_losses(objective, held_out, number, device) for number in range(len(held_out))]
    return float(torch.stack(losses).double().mean())


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Use evaluation mode, without dropout, for the length of a block."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
