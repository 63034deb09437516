"""The training loop."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from riffusion_train.config.errors import InputError, StoppedError
from riffusion_train.config.progress import ProgressReport
from riffusion_train.training.agreement import Agreement
from riffusion_train.training.checkpoint import (
    Checkpoints,
    TrainingState,
    like_weight,
    optimizer_tensors,
    restore_optimizer,
)
from riffusion_train.training.flops import count_flops
from riffusion_train.training.metrics import MetricsLog
from riffusion_train.training.stop import StopRequest

Batches = Callable[[int], Iterator[dict[str, Tensor]]]
"""From the first step to the endless, ordered forward batches of this rank."""


@dataclasses.dataclass
class Rhythm:
    """How long a run is, and what is due when. All in optimizer steps."""

    max_train_steps: int
    checkpointing_steps: int
    logging_steps: int
    preview_steps: int
    accumulation: int
    max_grad_norm: float


class Trainer:
    """Trains one objective. Every rank runs the same loop; what only one rank may do is decided inside the parts.

    Args:
        accelerator: Accelerate's `Accelerator`.
        objective: A network from batch to scalar loss.
        optimizer: Over the objective's trainable weights.
        schedule: Its learning rate, stepped once an optimizer step.
        ema: diffusers' `EMAModel` over the trainable weights, or None.
        batches: The data.
        name_slice: From a slice's index to its name, for messages.
        checkpoints: Where state is saved.
        metrics: Where metrics go.
        preview: Called with the step when a preview is due, with the averaged weights in place; with 0 before the first step.
        rhythm: What is due when.
        global_batch_size: Slices in one optimizer step over all ranks.
    """

    def __init__(
        self,
        *,
        accelerator: Any,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        ema: Any | None,
        batches: Batches,
        name_slice: Callable[[int], str],
        checkpoints: Checkpoints,
        metrics: MetricsLog,
        preview: Callable[[int], None],
        rhythm: Rhythm,
        global_batch_size: int,
    ) -> None:
        self.accelerator = accelerator
        self.schedule = schedule
        self.ema = ema
        self.batches = batches
        self.name_slice = name_slice
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.preview = preview
        self.rhythm = rhythm
        self.global_batch_size = global_batch_size
        self.step = 0
        named = {name: weight for name, weight in objective.named_parameters() if weight.requires_grad}
        name_of = {id(weight): name for name, weight in named.items()}
        self.parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.names = [name_of[id(weight)] for weight in self.parameters]
        self._plain_optimizer = optimizer
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.agreement = Agreement(accelerator)

    def train(self) -> None:
        """Run to the last step, from the newest checkpoint where there is one.

        Raises:
            StoppedError: If asked to stop; the state is saved.
            InputError: If the loss is not finite; the newest checkpoint stands.
        """
        self.restore()
        batches = self.batches(self.step)
        self._preview_base()
        self.metrics.speed.restart()
        main = self.accelerator.is_main_process
        with StopRequest() as stop, self._progress(main) as progress:
            while self.step < self.rhythm.max_train_steps:
                fetched = self._fetch(batches)
                loss = self._backward(fetched, stop)
                stop_now = self._agree(fetched)
                grad_norm = self._clip()
                self._update()
                self._log_if_due(loss, grad_norm)
                self._preview_if_due()
                self._checkpoint_if_due()
                progress.update(self.step, self.metrics.figures())
                self._leave_if(stop.asked if self.accelerator.num_processes == 1 else stop_now)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the moving average in place of the trained weights for the length of a block."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    def _progress(self, main: bool) -> ProgressReport:
        return ProgressReport("train", self.rhythm.max_train_steps, done=self.step, enabled=main)

    def _fetch(self, batches: Iterator[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        device = self.accelerator.device
        with self.metrics.speed.waiting():
            fetched = [
                {key: value.to(device, non_blocking=True) for key, value in batch.items()}
                for batch in itertools.islice(batches, self.rhythm.accumulation)
            ]
        if self.metrics.speed.flops_per_image is None:
            with self.metrics.speed.paused():
                self.metrics.speed.flops_per_image = count_flops(self.objective, fetched[0], self.accelerator.autocast)
        return fetched

    def _backward(self, fetched: list[dict[str, Tensor]], stop: StopRequest) -> Tensor:
        """Run forward and backward passes over one step's batches; return their mean loss."""
        losses: list[Tensor] = []
        for index, batch in enumerate(fetched):
            last = index == len(fetched) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective):
                with self.accelerator.autocast():
                    loss = self.objective(batch)
                losses.append(loss.detach())
                if last:
                    self.agreement.send(losses, stop_asked=stop.asked)
                self.accelerator.backward(loss / len(fetched))
        return torch.stack(losses).mean()

    def _agree(self, fetched: list[dict[str, Tensor]]) -> bool:
        """Return whether any rank was asked to stop; end the run, before a weight changes, where a loss is not finite."""
        finite, stop_now = self.agreement.receive()
        if not finite:
            slices = [self.name_slice(int(index)) for batch in fetched for index in batch["slice_index"]]
            raise InputError(
                f"the loss of step {self.step} is not finite; no weight was changed. Slices of this rank: "
                f"{', '.join(slices)}. Lower optimizer.lr, or use mixed_precision=bf16 or no"
            )
        return stop_now

    def _clip(self) -> Tensor:
        """Scale the gradients down to the allowed norm; return the norm they had."""
        return torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, self.rhythm.max_grad_norm))

    def _update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.parameters)
        self.step += 1

    def _log_if_due(self, loss: Tensor, grad_norm: Tensor) -> None:
        self.metrics.add(loss)
        if self._due(self.rhythm.logging_steps):
            self.metrics.write(self.step, float(self.schedule.get_last_lr()[0]), grad_norm)

    def _preview_base(self) -> None:
        """Let the preview show the model that training begins with, where it wants to."""
        if self.rhythm.preview_steps and self.step == 0:
            self.preview(self.step)

    def _preview_if_due(self) -> None:
        if self.rhythm.preview_steps and self._due(self.rhythm.preview_steps):
            with self.metrics.speed.paused(), self.averaged_weights():
                self.preview(self.step)

    def _checkpoint_if_due(self) -> None:
        if self._due(self.rhythm.checkpointing_steps):
            self._save()

    def _leave_if(self, stop_now: bool) -> None:
        """Stop all ranks together where any of them was asked to."""
        if self.step == self.rhythm.max_train_steps or not stop_now:
            return
        self._save()
        raise StoppedError(f"step {self.step} is saved; the same command with resume=auto goes on")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.rhythm.max_train_steps

    def _save(self) -> None:
        with self.metrics.speed.paused():
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process and not self._saved_already():
                self.checkpoints.save(self._state())
            self.accelerator.wait_for_everyone()

    def _saved_already(self) -> bool:
        steps = self.checkpoints.steps()
        return bool(steps) and steps[-1].name == f"step-{self.step:06d}"

    def _state(self) -> TrainingState:
        tensors, groups = optimizer_tensors(self._plain_optimizer, self.names)
        scaler = self.accelerator.scaler
        averages = [] if self.ema is None else self.ema.shadow_params
        return TrainingState(
            step=self.step,
            trained=dict(zip(self.names, self.parameters, strict=True)),
            ema=dict(zip(self.names, averages, strict=False)),
            optimizer=tensors,
            scalars={
                "optimizer_groups": groups,
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
                "scaler": None if scaler is None else scaler.state_dict(),
                "ema_step": 0 if self.ema is None else self.ema.optimization_step,
            },
            global_batch_size=self.global_batch_size,
        )

    def restore(self) -> None:
        """Take the state of the newest checkpoint, where there is one.

        Raises:
            InputError: If it is of another run.
        """
        state, complaints = self.checkpoints.load_newest()
        for complaint in complaints:
            self.accelerator.print(f"warning: {complaint}")
        if state is None:
            return
        if state.global_batch_size != self.global_batch_size:
            raise InputError(
                f"the run has {state.global_batch_size} slices in a step, this start {self.global_batch_size}; keep "
                "train_batch_size x gradient_accumulation_steps x processes the same"
            )
        if set(state.trained) != set(self.names):
            raise InputError(f"{self.checkpoints.folder}: its checkpoints hold other weights than this run trains")
        with torch.no_grad():
            for name, weight in zip(self.names, self.parameters, strict=True):
                weight.copy_(state.trained[name])
        if self.ema is not None:
            self.ema.shadow_params = [
                like_weight(state.ema[name], weight) for name, weight in zip(self.names, self.parameters, strict=True)
            ]
            self.ema.optimization_step = state.scalars["ema_step"]
        restore_optimizer(self._plain_optimizer, self.names, state.optimizer, state.scalars["optimizer_groups"])
        self.schedule.load_state_dict({**self.schedule.state_dict(), **state.scalars["schedule"]})
        if self.accelerator.scaler is not None and state.scalars["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state.scalars["scaler"])
        self.step = state.step
        self.metrics.resume_at(self.step)
