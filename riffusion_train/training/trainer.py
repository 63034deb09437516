"""The training loop."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from riffusion_train.runtime.errors import InputError, StoppedError
from riffusion_train.runtime.progress import ProgressReport
from riffusion_train.runtime.signals import StopRequest
from riffusion_train.training.distribution import (
    RankSync,
    gather,
    joined,
    like_weight,
    own_part,
    own_parts,
    prepare,
    whole,
)
from riffusion_train.training.optimizer import averaged_weights, averages, averages_itself, update_ema
from riffusion_train.training.state import Checkpoints, TrainingState, optimizer_tensors, restore_optimizer
from riffusion_train.training.throughput import count_flops
from riffusion_train.training.tracking import MetricsLog
from riffusion_train.training.validation import Validation

Batches = Callable[[int], Iterator[dict[str, Tensor]]]
"""From the first step to the endless, ordered forward batches of this rank."""


@dataclasses.dataclass
class Intervals:
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
        validation: Measures the held-out loss, with the averaged weights in place, and may end the run; or None.
        preview: Called with the step when a preview is due, with the averaged weights in place; with 0 before the first step.
        intervals: What is due when.
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
        validation: Validation | None,
        preview: Callable[[int], None],
        intervals: Intervals,
        global_batch_size: int,
    ) -> None:
        self.accelerator = accelerator
        self.schedule = schedule
        self.ema = ema
        self.batches = batches
        self.name_slice = name_slice
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.validation = validation
        self.preview = preview
        self.intervals = intervals
        self.global_batch_size = global_batch_size
        self.step = 0
        self._saved_step: int | None = None
        named = {name: weight for name, weight in objective.named_parameters() if weight.requires_grad}
        name_of = {id(weight): name for name, weight in named.items()}
        self.parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.names = [name_of[id(weight)] for weight in self.parameters]
        self._plain_optimizer = optimizer
        self.objective, self.optimizer = prepare(accelerator, objective, optimizer)
        self.agreement = RankSync(accelerator)

    def train(self) -> None:
        """Run to the last step, from the newest checkpoint where there is one.

        Raises:
            StoppedError: If asked to stop; the state is saved.
            InputError: If the loss or the gradient is not finite; the newest checkpoint stands.
        """
        self.restore()
        if averages_itself(self._plain_optimizer):
            self._plain_optimizer.train()  # type: ignore[attr-defined]
        batches = self.batches(self.step)
        self._preview_base()
        self.metrics.speed.restart()
        main = self.accelerator.is_main_process
        with StopRequest() as stop, self._progress(main) as progress:
            while not self._finished():
                fetched = self._fetch(batches)
                losses = self._backward(fetched, stop)
                stop_now = self._agree(losses, fetched)
                grad_norm = self._clip(fetched)
                self._update()
                self._validate_if_due()
                self._log_if_due(torch.stack(losses).mean(), grad_norm)
                self._preview_if_due()
                self._checkpoint_if_due()
                progress.update(self.step, self.metrics.figures())
                self._leave_if(stop.asked if self.accelerator.num_processes == 1 else stop_now)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averages in place of the trained weights for the length of a block."""
        with averaged_weights(own_parts(self.parameters), self.ema, self._plain_optimizer):
            yield

    def _progress(self, main: bool) -> ProgressReport:
        return ProgressReport("train", self.intervals.max_train_steps, done=self.step, enabled=main)

    def _fetch(self, batches: Iterator[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        device = self.accelerator.device
        with self.metrics.speed.waiting():
            fetched = [
                {key: value.to(device, non_blocking=True) for key, value in batch.items()}
                for batch in itertools.islice(batches, self.intervals.accumulation)
            ]
        if self.metrics.speed.flops_per_image is None:
            with self.metrics.speed.paused():
                plain = self.accelerator.unwrap_model(self.objective)  # no rank waits for another here
                self.metrics.speed.flops_per_image = count_flops(plain, fetched[0], self.accelerator.autocast)
        return fetched

    def _backward(self, fetched: list[dict[str, Tensor]], stop: StopRequest) -> list[Tensor]:
        """Run forward and backward passes over one step's batches; return their losses."""
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
        return losses

    def _agree(self, losses: list[Tensor], fetched: list[dict[str, Tensor]]) -> bool:
        """Return whether any rank was asked to stop; end the run, before a weight changes, where a loss is not finite."""
        finite, stop_now = self.agreement.receive()
        if not finite:
            self._refuse("loss", torch.stack(losses).isfinite().all(), fetched)
        return stop_now

    def _clip(self, fetched: list[dict[str, Tensor]]) -> Tensor:
        """Scale the gradients down to the allowed norm; return the norm they had.

        A norm that is not finite ends the run before a weight changes; on a GPU, which is not waited for, only in steps that
        are logged.
        """
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.intervals.max_grad_norm)
        grad_norm = whole(torch.as_tensor(norm))
        if self.accelerator.scaler is not None:  # it meets infinite gradients by leaving the step out
            return grad_norm
        if grad_norm.device.type == "cpu":
            finite = math.isfinite(grad_norm.numpy())
        else:
            finite = (self.step + 1) % self.intervals.logging_steps != 0 or bool(grad_norm.isfinite())
        if not finite:
            self._refuse("gradient", grad_norm.isfinite(), fetched)
        return grad_norm

    def _refuse(self, what: str, fine: Tensor, fetched: list[dict[str, Tensor]]) -> NoReturn:
        """End the run on every rank, naming the slices of those whose numbers are not finite."""
        indices = torch.cat([batch["slice_index"] for batch in fetched])
        told = self.accelerator.gather(torch.cat([fine.to(indices)[None], indices])[None])
        slices = [row[1:] for row in told.tolist() if not row[0]]
        names = ", ".join(self.name_slice(int(index)) for row in slices for index in row)
        raise InputError(
            f"the {what} of step {self.step} is not finite; no weight was changed, and the newest checkpoint stands. "
            f"Its slices: {names}. Lower optimizer.lr, or use mixed_precision=bf16 or no"
        )

    def _update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            update_ema(self.ema, own_parts(self.parameters))
        self.step += 1

    def _validate_if_due(self) -> None:
        if self.validation is None or not self.validation.due(self.step, last=self._finished()):
            return
        with self.metrics.speed.paused(), self.averaged_weights():
            improved = self.validation.measure(self.objective, self.step)
        if improved and self.validation.keep_best:
            self._save()
            if self.accelerator.is_main_process:
                self.checkpoints.keep_best(self.step)
        if self.validation.exhausted:
            self.accelerator.print(
                f"stopped at step {self.step}: the validation loss has not been below {self.validation.best_loss:.4f} since "
                f"step {self.validation.best_step}"
            )

    def _log_if_due(self, loss: Tensor, grad_norm: Tensor) -> None:
        self.metrics.add(loss)
        if self._due(self.intervals.logging_steps):
            self.metrics.write(self.step, float(self.schedule.get_last_lr()[0]), grad_norm)

    def _preview_base(self) -> None:
        """Let the preview show the model that training begins with, where it wants to."""
        if self.intervals.preview_steps and self.step == 0:
            self.preview(self.step)

    def _preview_if_due(self) -> None:
        if self.intervals.preview_steps and self._due(self.intervals.preview_steps):
            with self.metrics.speed.paused(), self.averaged_weights():
                self.preview(self.step)

    def _checkpoint_if_due(self) -> None:
        if self._due(self.intervals.checkpointing_steps):
            self._save()

    def _leave_if(self, stop_now: bool) -> None:
        """Stop all ranks together where any of them was asked to."""
        if self._finished() or not stop_now:
            return
        self._save()
        raise StoppedError(f"step {self.step} is saved; the same command with resume=auto goes on")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self._finished()

    def _finished(self) -> bool:
        exhausted = self.validation is not None and self.validation.exhausted
        return exhausted or self.step >= self.intervals.max_train_steps

    def _save(self) -> None:
        if self._saved_step == self.step:
            return
        with self.metrics.speed.paused():
            self.accelerator.wait_for_everyone()
            state = self._state()
            if self.accelerator.is_main_process:
                self.checkpoints.save(state)
            self.accelerator.wait_for_everyone()
        self._saved_step = self.step

    def _state(self) -> TrainingState:
        """Return the state, with whole tensors on the main process. All processes join: each may hold a part."""
        main = self.accelerator.is_main_process
        tensors, groups = optimizer_tensors(self._plain_optimizer, self.names)
        scaler = self.accelerator.scaler
        means = averages(own_parts(self.parameters), self.ema, self._plain_optimizer)
        return TrainingState(
            step=self.step,
            trained=gather(dict(zip(self.names, self.parameters, strict=True)), keep=main),
            ema=gather(dict(zip(self.names, joined(means, self.parameters), strict=False)), keep=main),
            optimizer=gather(tensors, keep=main),
            scalars={
                "optimizer_groups": groups,
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
                "scaler": None if scaler is None else scaler.state_dict(),
                "ema_step": 0 if self.ema is None else self.ema.optimization_step,
                "validation": None if self.validation is None else self.validation.state(),
            },
            global_batch_size=self.global_batch_size,
        )

    def restore(self) -> None:
        """Take the state of the newest checkpoint that is whole, where there is one.

        Raises:
            InputError: If it is of another run.
        """
        state, damaged = self.checkpoints.load_newest()
        for folder, problem in damaged.items():
            self.accelerator.print(f"warning: {folder} is damaged ({problem}); the one before it is taken")
        self.accelerator.wait_for_everyone()  # all have read before anything is moved
        if self.accelerator.is_main_process:
            self.checkpoints.set_aside(damaged)
        if state is None:
            return
        self._require_batch_size(state.global_batch_size)
        if set(state.trained) != set(self.names):
            raise InputError(f"{self.checkpoints.folder}: its checkpoints hold other weights than this run trains")
        with torch.no_grad():
            for name, weight in zip(self.names, self.parameters, strict=True):
                weight.copy_(like_weight(state.trained[name], weight))
        if self.ema is not None:
            self.ema.shadow_params = [
                own_part(like_weight(state.ema[name], weight))
                for name, weight in zip(self.names, self.parameters, strict=True)
            ]
            self.ema.optimization_step = state.scalars["ema_step"]
        restore_optimizer(self._plain_optimizer, self.names, state.optimizer, state.scalars["optimizer_groups"])
        self.schedule.load_state_dict({**self.schedule.state_dict(), **state.scalars["schedule"]})
        if self.accelerator.scaler is not None and state.scalars["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state.scalars["scaler"])
        if self.validation is not None and state.scalars.get("validation") is not None:
            self.validation.restore(state.scalars["validation"])
        self.step = self._saved_step = state.step
        self.metrics.resume_at(self.step)

    def _require_batch_size(self, before: int) -> None:
        """Refuse to go on with another number of slices in a step."""
        if before == self.global_batch_size:
            return
        forward = self.global_batch_size // self.intervals.accumulation
        mend = (
            f"take gradient_accumulation_steps={before // forward}"
            if before % forward == 0
            else f"{before} does not divide by train_batch_size x processes = {forward}, choose ones that it divides by"
        )
        raise InputError(f"the run has {before} slices in a step, this start {self.global_batch_size}; {mend}")
