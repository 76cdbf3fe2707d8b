"""One trial from config to metrics, epoch by epoch, resumable after each; independent of Ray.

A trial holds no random state: initial weights, order, crops and attacks are drawn from generators seeded by the trial's
seed and the position in the run. So a resumed trial continues bit for bit on equal hardware, threads and workers.

Shapes: V views, B images of a minibatch, b of one worker, C/H/W channels/height/width.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.memory import peak_memory_bytes, reset_peak_memory
from cfamc_ray.cost.work import training_flops
from cfamc_ray.data.splits import Splits
from cfamc_ray.evaluation.attacks import AttackInvalid
from cfamc_ray.evaluation.classifier import save_heads
from cfamc_ray.evaluation.scores import Scores, search_scores
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.perturbation import size_of
from cfamc_ray.training.checkpoint import read_checkpoint, save_checkpoint, unreadable
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.generators import ATTACK, make_generator
from cfamc_ray.training.minibatches import Minibatches
from cfamc_ray.training.precision import device_name
from cfamc_ray.training.trainer import Trainer

NO_SCORES = Scores((), validation_images=0, attacked_images=0)
"""Scores of an epoch without an evaluation."""


class TrialFailed(Exception):  # noqa: N818 (an outcome, not an error of the program)
    """The trial cannot continue; the message is the reason in the study's tables."""


class OutOfTime(TrialFailed):
    """The trial exceeded its time limit."""


class Trial:
    """A trial in progress.

    Args:
        config: config of the trial.
        splits: images from `load_splits`.
        context: context of this worker; with several workers the process group must exist.
        seconds: time limit over all epochs, including those before a resume; None for no limit.
        on_minibatch: called after each minibatch, for a progress bar.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits,
        *,
        context: DistributedContext | None = None,
        seconds: float | None = None,
        on_minibatch: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.context, self.seconds = config, context or DistributedContext(), seconds
        self.on_minibatch = on_minibatch
        self._idle_since = time.perf_counter()
        stage, context = config.at_epoch(1), self.context
        self.trainer = Trainer(stage, context)
        self.minibatches = Minibatches(stage, splits.pretrain, context, dtype=self.trainer.weight_type)
        self.splits = splits
        self.rows: list[TrialMetrics] = []
        self.heads: Sequence[nn.Linear] = ()
        """Linear probes of the last epoch, one per operating point; empty where it was not evaluated."""
        # Communication between hosts must not wait for the GPU.
        hosts = dist.new_group(backend="gloo") if context.world_size > 1 and context.device.type == "cuda" else None
        self._hosts = cast(dist.ProcessGroup | None, hosts)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch == self.config.pretraining.epochs

    def __iter__(self) -> Iterator[TrialMetrics]:
        """Train to the end, and yield a row after each epoch."""
        while not self.finished:
            yield self.run_epoch()

    def run_epoch(self) -> TrialMetrics:
        """Train one epoch, and evaluate if that is due; otherwise the accuracies are NaN.

        Workers share the evaluation too, and all get its scores.

        Raises:
            OutOfTime: on all workers, after the minibatch in which the first worker exceeds the time limit.
            TrialFailed: if the loss or the encoder's features are no longer finite.
        """
        reset_peak_memory(self.context.device)
        if (stage := self.config.at_epoch(self.epoch + 1)) != self.trainer.config:
            state = self.trainer.state()
            self._build(stage, self.epoch)
            self.trainer.enter(state)
        # On GPUs: choose the fastest kernels for these shapes, and do not round the stem's input to TF32.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            if not self.trainer.rehearsed:
                self.trainer.rehearse(self.minibatches.crops(self.minibatches.order(self.epoch), self.epoch, 0))
            started = time.perf_counter()
            losses = self._train_epoch(started)
        # Each worker's batch norms have the statistics of its own share; a checkpoint holds those of the first.
        self.context.as_first(self.trainer.encoder.buffers())
        loss = losses.mean().item()  # waits for the device, so the time includes its work
        trained = time.perf_counter()
        if not math.isfinite(loss):
            raise TrialFailed(f"diverged: the loss is {loss} in epoch {self.epoch + 1}")
        scores = self._evaluate() if self.config.evaluates(self.epoch + 1) else NO_SCORES
        self.heads = scores.heads
        evaluated = time.perf_counter()
        self.rows.append(self._row(loss, scores, trained - started, evaluated - trained, started - self._idle_since))
        self._idle_since = evaluated
        return self.rows[-1]

    def _build(self, stage: TrialConfig, epochs: int) -> None:
        """Build the trainer of a stage that begins after `epochs` epochs."""
        del self.trainer  # first, since a GPU may not hold two
        self.trainer = Trainer(stage, self.context, epochs=epochs)
        self.minibatches.config = stage

    def _row(
        self, loss: float, scores: Scores, train_seconds: float, eval_seconds: float, overhead_seconds: float
    ) -> TrialMetrics:
        config, stage, epoch = self.config, self.trainer.config, self.epoch + 1
        before = self.rows[-1] if self.rows else None
        terms = (self.trainer.terms_T / stage.updates_per_epoch).tolist()
        clipped = self.trainer.optimizer.clipped_share
        delta, perturbation = self.trainer.delta_VbCHW, stage.perturbation
        size, border = size_of(delta, perturbation.radii_norm), max(perturbation.radii(stage.crops.views)) * (1 - 1e-6)
        return TrialMetrics(
            epoch=epoch,
            done=epoch == config.pretraining.epochs,
            **scores.metrics(),
            loss=loss,
            loss_terms=dict(zip(stage.loss.terms, terms, strict=True)),
            learning_rate=float(self.trainer.scheduler.get_last_lr()[0]),
            clipped_share=None if clipped is None else clipped.item(),
            delta_mean=delta.abs().mean().item(),
            delta_border_share=((size > 0) & (size >= border)).double().mean().item(),
            crop_passes=config.crop_passes_until(epoch),
            flops=training_flops(config, epoch),
            train_seconds=(before.train_seconds if before else 0.0) + train_seconds,
            eval_seconds=(before.eval_seconds if before else 0.0) + eval_seconds,
            overhead_seconds=(before.overhead_seconds if before else 0.0) + overhead_seconds,
            peak_memory_bytes=max(peak_memory_bytes(self.context.device), before.peak_memory_bytes if before else 0),
            crop_passes_per_second=stage.crop_passes_per_epoch / train_seconds,
            precision=str(self.trainer.autocast or self.trainer.weight_type).removeprefix("torch."),
            device=device_name(self.context.device),
        )

    def _train_epoch(self, started: float) -> Tensor:
        config = self.config
        self.trainer.encoder.train()
        self.trainer.terms_T.zero_()
        spent = self.rows[-1].train_seconds + self.rows[-1].eval_seconds if self.rows else 0.0
        order_n = self.minibatches.order(self.epoch)
        losses = []
        for step in range(config.minibatches_per_epoch):
            labels_B = self.minibatches.labels(order_n, step) if config.loss.needs_labels else None
            losses.append(self.trainer.update(self.minibatches.crops(order_n, self.epoch, step), labels_B))
            self.on_minibatch()
            if self._out_of_time(spent + time.perf_counter() - started):
                assert self.seconds is not None
                raise OutOfTime(
                    f"time limit of {self.seconds / 60:g} minutes reached in epoch {self.epoch + 1} "
                    f"of {config.pretraining.epochs}"
                )
        return torch.cat(losses)

    def last_crops(self, images: int) -> tuple[Tensor, Tensor]:
        """Crops and perturbations of the first images of the last minibatch, for display.

        Args:
            images: number of images; fewer if this worker has fewer.

        Returns:
            crops_VbCHW in [0, 1] and delta_VbCHW, in float32 on the CPU.
        """
        epoch, step, share = self.epoch - 1, self.config.minibatches_per_epoch - 1, self.minibatches.share
        shown = slice(share.start, min(share.start + images, share.stop))
        crops_VbCHW = self.minibatches.crops(self.minibatches.order(epoch), epoch, step, shown)
        return crops_VbCHW.float().cpu(), self.trainer.delta_VbCHW[:, : crops_VbCHW.shape[1]].float().cpu()

    def _out_of_time(self, seconds: float) -> bool:
        return self.seconds is not None and self.broadcast_from_rank0(seconds > self.seconds)

    def broadcast_from_rank0(self, truth: bool) -> bool:
        """Broadcast a decision of the first worker, because all workers must stop together."""
        if self.context.world_size == 1:
            return truth
        shared = torch.tensor(truth)
        dist.broadcast(shared, src=0, group=self._hosts)
        return bool(shared)

    def _evaluate(self) -> Scores:
        try:
            return search_scores(
                self.trainer.encoder,
                self.splits.probe,
                self.splits.validation,
                classes=self.splits.classes,
                config=self.config.evaluation,
                generator=make_generator(self.config.seed, ATTACK, self.epoch),
                last=self.epoch + 1 == self.config.pretraining.epochs,
                workers=self.context,
            )
        except FloatingPointError as error:  # all workers have the same features
            raise TrialFailed(f"diverged: {error} after epoch {self.epoch + 1}") from None
        except AttackInvalid as error:
            raise TrialFailed(f"robust accuracy is invalid after epoch {self.epoch + 1}: {error}") from None

    def save(self, path: Path) -> None:
        """Write a checkpoint (`save_checkpoint`); called by all workers."""
        save_checkpoint(path, self.trainer, self.rows, fingerprint=self.config.fingerprint_until(self.epoch))

    def load(self, path: Path) -> None:
        """Set the trial to the state of a checkpoint.

        Raises:
            CheckpointError: if it cannot be used; the trial must then not be used either.
        """
        checkpoint = read_checkpoint(path, self.config, self.context.device)
        *before, (_, stage) = self.config.until(max(len(checkpoint.rows), 1))
        if before or stage != self.trainer.config:
            self._build(stage, sum(epochs for epochs, _ in before))
        with unreadable(path):
            self.trainer.load({**checkpoint.state, "delta": _share(checkpoint.state["delta"], self.minibatches.share)})
        self.rows = checkpoint.rows

    def save_encoder(self, path: Path) -> None:
        """Write only the encoder, for `cfamc_ray.method.encoder.load_encoder`; the first worker writes."""
        if self.context.rank == 0:
            save_encoder(path, self.trainer.encoder, self.config.encoder)

    def save_heads(self, path: Path) -> None:
        """Write the heads of the last evaluation, if any, for `cfamc_ray.load_classifier`; the first worker writes."""
        if self.context.rank == 0 and self.heads:
            save_heads(path, self.heads, self.config.evaluation.head)


def _share(delta_VBCHW: Tensor, share: slice) -> Tensor:
    """A worker's part of the perturbations of a minibatch, (V, b, C, H, W)."""
    return delta_VBCHW[:, share].contiguous()
