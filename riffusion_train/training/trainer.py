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
from riffusion_train.runtime.progress import ProgressReport, StopRequest
from riffusion_train.training.distribution import Distribution
from riffusion_train.training.objective import Adversary
from riffusion_train.training.optimizer import (
    averaged_weights,
    averages,
    averages_itself,
    optimizer_tensors,
    restore_optimizer,
    restore_schedule,
    update_ema,
)
from riffusion_train.training.run_folder import Checkpoints, TrainingState
from riffusion_train.training.step_data import BatchCopy
from riffusion_train.training.tracking import MetricsLog, count_flops
from riffusion_train.training.validation import Validation

Batches = Callable[[int], Iterator[dict[str, Tensor]]]
"""From the first step to the endless, ordered forward batches of this rank."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How long a run is, and what is due when. All in optimizer steps."""

    max_train_steps: int
    checkpointing_steps: int
    logging_steps: int
    preview_steps: int
    """0 is never."""


@dataclasses.dataclass(frozen=True)
class Learning:
    """What is trained, on what, and how a step changes it."""

    objective: nn.Module
    """From a batch to a scalar loss."""
    optimizer: torch.optim.Optimizer
    """Over the objective's trainable weights."""
    schedule: torch.optim.lr_scheduler.LRScheduler
    """Its learning rate, stepped once an optimizer step."""
    ema: Any | None
    """diffusers' `EMAModel` over the trainable weights; None where no average is kept."""
    batches: Batches
    """The data."""
    slice_name: Callable[[int], str]
    """From a slice's index to its name, for messages."""
    global_batch_size: int
    """Slices in one optimizer step over all ranks."""
    accumulation: int
    """Forward passes of each rank in one optimizer step."""
    max_grad_norm: float
    """Gradients are scaled down to this norm."""
    adversary: Adversary | None = None
    """What the objective is trained against, with an optimizer of its own; None for most."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a run writes besides its final model."""

    checkpoints: Checkpoints
    metrics: MetricsLog
    validation: Validation | None
    """Measures the held-out loss, with the averaged weights in place, and may end the run."""
    preview: Callable[[int], None]
    """Called with the step when a preview is due, with the averaged weights in place; with 0 before the first step."""


class Trainer:
    """Trains one objective. Every rank runs the same loop; what differs between ranks is inside `Distribution`.

    Args:
        distribution: The processes that train together.
        learning: What is trained.
        outputs: What is written.
        intervals: What is due when.
    """

    def __init__(self, distribution: Distribution, learning: Learning, outputs: Outputs, intervals: Intervals) -> None:
        self.distribution = distribution
        self.learning = learning
        self.ema = learning.ema
        self.adversary = learning.adversary
        self.schedule = learning.schedule
        self.checkpoints = outputs.checkpoints
        self.metrics = outputs.metrics
        self.validation = outputs.validation
        self.preview = outputs.preview
        self.intervals = intervals
        self._copy = BatchCopy(distribution.device)
        self.step = 0
        self._saved_step: int | None = None
        objective, optimizer = learning.objective, learning.optimizer
        name_of = {id(weight): name for name, weight in objective.named_parameters() if weight.requires_grad}
        self.parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.names = [name_of[id(weight)] for weight in self.parameters]
        self._plain_optimizer = optimizer
        self.objective, self.optimizer = distribution.prepare(objective, optimizer)

    def train(self) -> None:
        """Run to the last step, from the newest checkpoint where there is one.

        Raises:
            StoppedError: If asked to stop; the state is saved.
            InputError: If the loss or the gradient is not finite; the newest checkpoint stands.
        """
        self.restore()
        if averages_itself(self._plain_optimizer):
            self._plain_optimizer.train()  # type: ignore[attr-defined]
        batches = self.learning.batches(self.step)
        self._preview_base()
        self.metrics.speed.restart()
        with StopRequest() as stop, self._progress() as progress:
            while not self._finished():
                fetched = self._fetch(batches)
                losses = self._backward(fetched, stop)
                self._require_finite_losses(losses, fetched)
                grad_norm = self._clip(fetched)
                self._update()
                self._validate_if_due()
                self._log_if_due(torch.stack(losses).mean(), grad_norm)
                self._preview_if_due()
                self._checkpoint_if_due()
                progress.update(self.step, self.metrics.figures())
                self._stop_if_asked(stop)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Use the averages as the weights for the length of a block."""
        with averaged_weights(self._local_parameters(), self.ema, self._plain_optimizer):
            yield

    def _local_parameters(self) -> list[nn.Parameter]:
        return self.distribution.local_parameters(self.parameters)

    def _progress(self) -> ProgressReport:
        return self.distribution.progress("train", self.intervals.max_train_steps, done=self.step)

    def _fetch(self, batches: Iterator[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Return the forward batches of one step, on the device; count the FLOPs of the first one of a start."""
        with self.metrics.speed.waiting():
            fetched = [self._copy(batch) for batch in itertools.islice(batches, self.learning.accumulation)]
        if self.metrics.speed.flops_per_image is None:
            with self.metrics.speed.paused():
                plain = self.distribution.unwrap(self.objective)  # DDP would wait for the other ranks
                sharded = self.distribution.is_sharded(plain)
                self.metrics.speed.flops_per_image = count_flops(
                    plain, fetched[0], self.distribution.autocast, sharded=sharded
                )
        return fetched

    def _backward(self, fetched: list[dict[str, Tensor]], stop: StopRequest) -> list[Tensor]:
        """Run forward and backward passes over one step's batches; return their losses, scalars."""
        losses: list[Tensor] = []
        if self.adversary is not None:
            self.adversary.begin(self.step)
        for index, batch in enumerate(fetched):
            last = index == len(fetched) - 1
            with self.distribution.gradient_sync(self.objective, wanted=last):
                with self.distribution.autocast():
                    loss = self.objective(batch)
                losses.append(loss.detach())
                if last:
                    self.distribution.send_flags(losses, stop_asked=stop.asked)
                self.distribution.backward(loss / len(fetched))
        return losses

    def _require_finite_losses(self, losses: list[Tensor], fetched: list[dict[str, Tensor]]) -> None:
        """End the run, before a weight changes, where a loss of any rank is not finite."""
        if not self.distribution.receive_flags():
            self._refuse("loss", torch.stack(losses).isfinite().all(), fetched)

    def _clip(self, fetched: list[dict[str, Tensor]]) -> Tensor:
        """Scale the gradients down to the allowed norm; return the norm they had, a scalar.

        A norm that is not finite ends the run before a weight changes; on a GPU, which is not waited for, only in steps that
        are logged.
        """
        grad_norm = self.distribution.clip_gradients(self.parameters, self.learning.max_grad_norm)
        if self.distribution.scaler is not None:  # it meets infinite gradients by leaving the step out
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
        # A row of each rank: whether its numbers are fine, then its slices.
        rows = self.distribution.gather_rows(torch.cat([fine.to(indices)[None], indices]))
        slices = [row[1:] for row in rows.tolist() if not row[0]]
        names = ", ".join(self.learning.slice_name(int(index)) for row in slices for index in row)
        raise InputError(
            f"the {what} of step {self.step} is not finite; no weight was changed, and the newest checkpoint stands. "
            f"Its slices: {names}. Lower optimizer.lr, or use mixed_precision=bf16 or no"
        )

    def _update(self) -> None:
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            update_ema(self.ema, self._local_parameters())
        if self.adversary is not None:
            self.adversary.update(self.distribution.mean)
        self.step += 1

    def _validate_if_due(self) -> None:
        if self.validation is None or not self.validation.due(self.step, last=self._finished()):
            return
        # Other shapes than those of training: nothing is compiled for them.
        with self.metrics.speed.paused(), self.averaged_weights(), torch.compiler.set_stance("force_eager"):
            improved = self.validation.measure(self.objective, self.step)
        if improved and self.validation.keep_best:
            self._save()
            self.distribution.on_main(lambda: self.checkpoints.keep_best(self.step))
        if self.validation.exhausted:
            self.distribution.print(f"stopped at step {self.step}: {self.validation.stop_reason()}")

    def _log_if_due(self, loss: Tensor, grad_norm: Tensor) -> None:
        self.metrics.add(loss)
        if self._due(self.intervals.logging_steps):
            others = {} if self.adversary is None else self.adversary.last
            self.metrics.write(self.step, float(self.schedule.get_last_lr()[0]), grad_norm, others)

    def _preview_base(self) -> None:
        """Preview the model that training begins with."""
        if self.intervals.preview_steps and self.step == 0:
            self.preview(self.step)

    def _preview_if_due(self) -> None:
        if self.intervals.preview_steps and self._due(self.intervals.preview_steps):
            with self.metrics.speed.paused(), self.averaged_weights():
                self.preview(self.step)

    def _checkpoint_if_due(self) -> None:
        if self._due(self.intervals.checkpointing_steps):
            self._save()

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Stop all ranks together where any of them was asked to."""
        if self._finished() or not self.distribution.stops_now(stop_asked=stop.asked):
            return
        self._save()
        raise StoppedError(f"step {self.step} is saved; the same command with resume=auto continues")

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self._finished()

    def _finished(self) -> bool:
        exhausted = self.validation is not None and self.validation.exhausted
        return exhausted or self.step >= self.intervals.max_train_steps

    def _save(self) -> None:
        if self._saved_step == self.step:
            return
        with self.metrics.speed.paused():
            self.distribution.wait()
            state = self._state()
            self.distribution.on_main(lambda: self.checkpoints.save(state))
        self._saved_step = self.step

    def _state(self) -> TrainingState:
        """Return the state, with whole tensors on the first rank. All ranks join: each may hold a shard."""
        tensors, groups = optimizer_tensors(self._plain_optimizer, self.names)
        scaler = self.distribution.scaler
        means = averages(self._local_parameters(), self.ema, self._plain_optimizer)
        adversary, adversary_scalars = ({}, {}) if self.adversary is None else self.adversary.state()
        return TrainingState(
            step=self.step,
            trained=self.distribution.collect(dict(zip(self.names, self.parameters, strict=True))),
            ema=self.distribution.collect_shards(self.names, means, self.parameters),
            optimizer=self.distribution.collect(tensors),
            scalars={
                "optimizer_groups": groups,
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
                "scaler": None if scaler is None else scaler.state_dict(),
                "ema_step": 0 if self.ema is None else self.ema.optimization_step,
                "validation": None if self.validation is None else self.validation.state(),
                **({} if self.adversary is None else {"adversary": adversary_scalars}),
            },
            adversary=adversary,
            global_batch_size=self.learning.global_batch_size,
        )

    def restore(self) -> None:
        """Restore the newest checkpoint that is whole, where there is one.

        Raises:
            InputError: If it is of another run, or if `best.json` is damaged.
        """
        self.checkpoints.best()
        state, damaged = self.checkpoints.load_newest(self._take)
        self.distribution.run_together(lambda: self._require_same_step(0 if state is None else state.step))
        for folder, problem in damaged.items():
            self.distribution.print(f"warning: {folder} is damaged ({problem}); the one before it is used")
        self.distribution.wait()  # all have read before anything is moved
        self.distribution.on_main(lambda: self.checkpoints.set_aside(damaged))
        if state is None:
            return
        self.step = self._saved_step = state.step
        self.metrics.resume_at(self.step)

    def _require_same_step(self, step: int) -> None:
        """Refuse to continue where this rank has read another checkpoint than the first one."""
        first = self.distribution.from_main(lambda: step)
        if step != first:
            raise InputError(
                f"{self.checkpoints.folder}: rank {self.distribution.rank} can read step {step}, rank 0 step {first}; see "
                "whether all machines have the same disk"
            )

    def _take(self, state: TrainingState) -> None:
        """Continue from a state. What it leaves half done, the state of another checkpoint overwrites.

        Raises:
            ValueError: If something in it does not fit.
            InputError: If it is of another run.
        """
        try:
            self._require_batch_size(state.global_batch_size)
            if set(state.trained) != set(self.names):
                raise InputError(f"{self.checkpoints.folder}: its checkpoints hold other weights than this run trains")
            self._take_tensors(state)
            self._take_scalars(state.scalars)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            raise ValueError(f"it does not fit this run: {type(error).__name__}: {error}") from error

    def _take_tensors(self, state: TrainingState) -> None:
        like_weight = self.distribution.like_weight
        with torch.no_grad():
            for name, weight in zip(self.names, self.parameters, strict=True):
                weight.copy_(like_weight(state.trained[name], weight))
        if self.ema is not None:
            self.ema.shadow_params = [
                self.distribution.local_like(state.ema[name], weight)
                for name, weight in zip(self.names, self.parameters, strict=True)
            ]
        groups = state.scalars["optimizer_groups"]
        restore_optimizer(self._plain_optimizer, self.names, state.optimizer, groups, like_weight=like_weight)
        if self.adversary is not None:
            self.adversary.restore(state.adversary, state.scalars["adversary"])

    def _take_scalars(self, scalars: dict[str, Any]) -> None:
        if self.ema is not None:
            self.ema.optimization_step = int(scalars["ema_step"])
        planned, rate = restore_schedule(self.schedule, scalars["schedule"])
        if self.distribution.scaler is not None and scalars["scaler"] is not None:
            self.distribution.scaler.load_state_dict(scalars["scaler"])
        if self.validation is not None and scalars.get("validation") is not None:
            self.validation.restore(scalars["validation"])
        if rate != planned:
            self.distribution.print(
                "note: the learning rate depends on max_train_steps, which has grown: from here on it follows the longer "
                f"schedule, with {rate:.3g} instead of {planned:.3g}"
            )
        if self.validation is not None and self.validation.exhausted:
            self.distribution.print("note: validation.patience is used up; give a larger one, or null, to train longer")

    def _require_batch_size(self, before: int) -> None:
        """Refuse to continue with another number of slices in a step."""
        if before == self.learning.global_batch_size:
            return
        forward = self.learning.global_batch_size // self.learning.accumulation
        fix = (
            f"take gradient_accumulation_steps={before // forward}"
            if before % forward == 0
            else f"{before} does not divide by train_batch_size x processes = {forward}, choose ones that it divides by"
        )
        raise InputError(f"the run has {before} slices in a step, this start {self.learning.global_batch_size}; {fix}")
