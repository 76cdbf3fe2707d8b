"""One trial from config to metrics, epoch by epoch, resumable after any of them; it knows nothing of Ray.

A trial holds no random state: initial weights, order, crops and attacks are drawn from generators seeded by the trial's
seed and the place in the run. So a resumed trial goes on bit for bit, given equal hardware, threads and workers.

Shapes: V views, B images of a minibatch, b of one worker, C/H/W channels/height/width.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from cfamc_ray.config.errors import first_line
from cfamc_ray.config.method import EncoderConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.work import peak_memory_bytes, reset_peak_memory, training_flops
from cfamc_ray.data.images import UNLABELLED, ImageSubset
from cfamc_ray.data.splits import Splits
from cfamc_ray.evaluation.protocols import Scores, search_scores
from cfamc_ray.host.files import replacing
from cfamc_ray.method.backbones import use_fused_norm
from cfamc_ray.method.crops import draw_crop_parameters, make_crops
from cfamc_ray.method.cuda_graph import GraphedUpdate, unchanged
from cfamc_ray.method.encoder import InChunks, SelfSupervisedEncoder, save_encoder
from cfamc_ray.method.inner_maximization import Runner, eagerly, free_replays, pgd_update
from cfamc_ray.method.losses import Loss
from cfamc_ray.method.optimizer import Lars, build_optimizer, build_scheduler
from cfamc_ray.method.parallel import Workers, data_parallel, gather_embeddings, gather_images
from cfamc_ray.method.phases import phase
from cfamc_ray.method.transfer import to_device
from cfamc_ray.training.speedups import is_of_compiler, speedups

WEIGHTS, ORDER, CROPS, ATTACK = range(4)
"""What a generator is for; part of its seed."""


NO_SCORES = Scores(math.nan, math.nan, math.nan, validation_images=0, attacked_images=0)
"""Of an epoch that does not evaluate."""


class TrialFailed(Exception):  # noqa: N818 (an outcome, not an error of the program)
    """The trial cannot go on; the message is the reason that the study's tables show."""


class CheckpointError(Exception):
    """A checkpoint from which a trial cannot go on."""


class OutOfTime(TrialFailed):
    """The trial exceeded its time limit."""


@dataclass(frozen=True)
class Place:
    """Where a worker stands among the workers of a trial, and what it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class TrialMetrics:
    """One row per epoch. Sums run from the trial's first epoch, means over the epoch."""

    epoch: int
    """Finished epochs."""
    done: bool
    clean_accuracy: float
    """Of the linear probe on validation images, a fraction."""
    robust_accuracy: float
    """The same under PGD with the evaluation's threat model."""
    probe_accuracy: float
    """On the images that the probe was fitted on."""
    validation_images: int
    attacked_images: int
    loss: float
    loss_terms: Mapping[str, float]
    """What the loss reports beside its value."""
    learning_rate: float
    """After the epoch's last update."""
    clipped_share: float | None
    """Share of layers whose last LARS step was limited by the learning rate; none without LARS."""
    delta_mean: float
    """Mean size of the perturbation after the epoch, in pixels."""
    delta_border_share: float
    """Share of its entries at the ball's border."""
    crop_passes: int
    flops: int
    train_seconds: float
    eval_seconds: float
    overhead_seconds: float
    """Neither of both: building, checkpoints, reports, waiting; not the process's start and the loading of images."""
    peak_memory_bytes: int
    """Of this worker: what the GPU's allocator reserves, which leaves out what CUDA itself takes, or, on CPUs, the
    process."""
    crop_passes_per_second: float
    """Over the epoch's training, all workers together."""
    precision: str
    device: str

    def row(self) -> dict[str, Any]:
        """As it is recorded: every term of the loss is a column of its own."""
        columns = asdict(self)
        return {**columns, **columns.pop("loss_terms")}


class Trial:
    """A trial in progress.

    Args:
        config: of the trial.
        splits: images as `data` serves them.
        place: of this worker; the process group has to exist where there are several.
        seconds: time limit over all epochs, resumed ones included; None for none.
        on_minibatch: is called after each minibatch, for a progress bar.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits,
        *,
        place: Place | None = None,
        seconds: float | None = None,
        on_minibatch: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.place, self.seconds = config, place or Place(), seconds
        self.on_minibatch = on_minibatch
        self._idle_since = time.perf_counter()
        device, size = self.place.device, self.place.size
        self.weight_type, self.autocast = resolve_precision(config.pretraining.precision, device)
        self.speedups = speedups(config, device, workers=self.place.size, autocast=self.autocast)
        self.encoder = self._build_encoder()
        B, V, S = config.pretraining.batch_images, config.crops.views, config.crops.size
        assert B % size == 0, "a minibatch is shared evenly"
        self.network = self._build_network(B // size)
        self.replica = self._build_replica()
        self.optimizer, self.scheduler = self._build_optimizer()
        self.share = slice(self.place.rank * B // size, (self.place.rank + 1) * B // size)
        self.delta_VbCHW = torch.zeros(V, B // size, 3, S, S, dtype=self.weight_type, device=device)
        clean_views = V if config.perturbation.attack == "none" else config.perturbation.clean_views
        self.epsilon_V1111 = torch.full((V, 1, 1, 1, 1), config.perturbation.epsilon, dtype=self.weight_type)
        self.epsilon_V1111[:clean_views] = 0
        self.epsilon_V1111 = self.epsilon_V1111.to(device)
        self.splits = splits
        self.images = splits.pretrain.to(device) if _fits(splits.pretrain, device) else splits.pretrain
        self.rows: list[TrialMetrics] = []
        self.loss: Loss = config.loss.build()
        self.labels_B = torch.full((B,), UNLABELLED, device=device)
        self._terms_T = torch.zeros(len(config.loss.terms), dtype=torch.float64, device=device)
        self._run: Runner | None = None
        # What the host alone has to know of another worker must not wait for the GPU.
        hosts = dist.new_group(backend="gloo") if size > 1 and device.type == "cuda" else None
        self._hosts = cast(dist.ProcessGroup | None, hosts)

    def _build_encoder(self) -> SelfSupervisedEncoder:
        config, device = self.config.encoder, self.place.device
        encoder = initial_encoder(self.config, autocast=self.autocast)
        encoder.split_stem = self.speedups.split_stem
        encoder = encoder.to(device, self.weight_type).to(memory_format=torch.channels_last)
        if self.place.size > 1 and device.type == "cuda" and config.synchronize_norm:
            encoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
        use_fused_norm(encoder, self.speedups.fused_norm)
        return encoder

    def _build_network(self, images: int) -> nn.Module:
        """The encoder as training calls it: compiled, and chunk by chunk, where the config says so."""
        config = self.config.pretraining
        network: nn.Module = self.encoder
        if self.speedups.compile:
            network = cast(nn.Module, torch.compile(network))
        if config.views_at_once is None:
            return network
        return InChunks(
            network, config.views_at_once * images, activation_checkpointing=config.activation_checkpointing
        )

    def _build_replica(self) -> nn.Module:
        """The network that updates train: with several workers, one that adds up their gradients."""
        if self.place.size == 1:
            return self.network
        if self.speedups.compile and not isinstance(self.network, InChunks):
            # The wrapper is compiled, not what is in it: else all gradients come at the end of the backward pass, and
            # their sum over the workers cannot begin before.
            return cast(nn.Module, torch.compile(data_parallel(self.encoder)))
        return data_parallel(self.network)

    def _build_optimizer(self) -> tuple[Lars, LRScheduler]:
        config = self.config.optimizer
        optimizer = build_optimizer(
            self.encoder.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            trust_coefficient=config.trust_coefficient,
            compiled=self.speedups.compile,
        )
        updates = self.config.updates
        horizons = {"updates": updates, "minibatches": updates // self.config.pretraining.replays, "constant": None}
        return optimizer, build_scheduler(optimizer, horizon=horizons[config.schedule])

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch == self.config.pretraining.epochs

    def __iter__(self) -> Iterator[TrialMetrics]:
        """Train on, one row after each epoch."""
        while not self.finished:
            yield self.run_epoch()

    def run_epoch(self) -> TrialMetrics:
        """Train one epoch, and evaluate where that is due; else the accuracies are NaN.

        Several workers share the evaluation too, and all have its scores.

        Raises:
            OutOfTime: after the minibatch in which the first worker exceeds the time limit; on all workers.
            TrialFailed: where the loss or the encoder's features are no longer finite.
        """
        reset_peak_memory(self.place.device)
        # On GPUs: the fastest kernels for these shapes, and a stem that does not round its input to TF32.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            if self._run is None:
                self._rehearse()
            started = time.perf_counter()
            losses = self._train_epoch(started)
        loss = losses.mean().item()  # waits for the device, so the time is the work's
        trained = time.perf_counter()
        if not math.isfinite(loss):
            raise TrialFailed(f"diverged: the loss is {loss} in epoch {self.epoch + 1}")
        scores = self._evaluate() if self.config.evaluates(self.epoch + 1) else NO_SCORES
        evaluated = time.perf_counter()
        self.rows.append(self._row(loss, scores, trained - started, evaluated - trained, started - self._idle_since))
        self._idle_since = evaluated
        return self.rows[-1]

    def _row(
        self, loss: float, scores: Scores, train_seconds: float, eval_seconds: float, overhead_seconds: float
    ) -> TrialMetrics:
        config, epoch = self.config, self.epoch + 1
        before = self.rows[-1] if self.rows else None
        terms = (self._terms_T * (config.pretraining.epochs / config.updates)).tolist()
        clipped = self.optimizer.clipped_share
        delta, border = self.delta_VbCHW.abs(), config.perturbation.epsilon * (1 - 1e-6)
        return TrialMetrics(
            epoch=epoch,
            done=epoch == config.pretraining.epochs,
            **asdict(scores),
            loss=loss,
            loss_terms=dict(zip(config.loss.terms, terms, strict=True)),
            learning_rate=float(self.scheduler.get_last_lr()[0]),
            clipped_share=None if clipped is None else clipped.item(),
            delta_mean=delta.mean().item(),
            delta_border_share=((delta > 0) & (delta >= border)).double().mean().item(),
            crop_passes=epoch * config.crop_passes_per_epoch,
            flops=epoch * training_flops(config) // config.pretraining.epochs,
            train_seconds=(before.train_seconds if before else 0.0) + train_seconds,
            eval_seconds=(before.eval_seconds if before else 0.0) + eval_seconds,
            overhead_seconds=(before.overhead_seconds if before else 0.0) + overhead_seconds,
            peak_memory_bytes=max(peak_memory_bytes(self.place.device), before.peak_memory_bytes if before else 0),
            crop_passes_per_second=config.crop_passes_per_epoch / train_seconds,
            precision=str(self.autocast or self.weight_type).removeprefix("torch."),
            device=device_name(self.place.device),
        )

    def _train_epoch(self, started: float) -> Tensor:
        config = self.config
        self.encoder.train()
        self._terms_T.zero_()
        spent = self.rows[-1].train_seconds + self.rows[-1].eval_seconds if self.rows else 0.0
        order_n = self._order(self.epoch)
        losses = []
        for step in range(config.minibatches_per_epoch):
            self._take_labels(order_n, step)
            losses.append(self._update(self.crops(order_n, step)))
            self.on_minibatch()
            if self._out_of_time(spent + time.perf_counter() - started):
                assert self.seconds is not None
                raise OutOfTime(
                    f"time limit of {self.seconds / 60:g} minutes reached in epoch {self.epoch + 1} "
                    f"of {config.pretraining.epochs}"
                )
        return torch.cat(losses)

    def crops(self, order_n: Tensor, step: int) -> Tensor:
        """crops_VbCHW of this worker's share of a minibatch.

        Args:
            order_n: of the images in this epoch.
            step: minibatch of the epoch, from 0.
        """
        with phase("crops"):
            return self._crops(order_n, self.epoch, step, self.share).to(self.weight_type)

    def _take_labels(self, order_n: Tensor, step: int) -> None:
        """Labels of the minibatch of all workers, where a captured update reads them too."""
        if self.config.loss.needs_labels:
            images_B = order_n[step * len(self.labels_B) : (step + 1) * len(self.labels_B)]
            self.labels_B.copy_(self.images.labels(images_B))

    def last_crops(self, images: int) -> tuple[Tensor, Tensor]:
        """Crops and perturbations of the first images of the minibatch that was trained last, to be looked at.

        Args:
            images: how many; fewer where this worker has fewer.

        Returns:
            crops_VbCHW in [0, 1] and delta_VbCHW, in float32 on the CPU.
        """
        epoch, step = self.epoch - 1, self.config.minibatches_per_epoch - 1
        shown = slice(self.share.start, min(self.share.start + images, self.share.stop))
        crops_VbCHW = self._crops(self._order(epoch), epoch, step, shown)
        return crops_VbCHW.float().cpu(), self.delta_VbCHW[:, : crops_VbCHW.shape[1]].float().cpu()

    def _order(self, epoch: int) -> Tensor:
        """Of the images, (n,)."""
        order_n = torch.randperm(len(self.images), generator=self._generator(ORDER, epoch))
        return order_n.to(self.images.indices_n.device)

    def _crops(self, order_n: Tensor, epoch: int, step: int, share: slice) -> Tensor:
        config, B = self.config.crops, self.config.pretraining.batch_images
        H, W = self.images.images_NCHW.shape[-2:]
        parameters = draw_crop_parameters(
            config, images=B, height=H, width=W, generator=self._generator(CROPS, epoch, step)
        )
        images_bCHW = self.images.batch(order_n[step * B : (step + 1) * B][share])
        images_bCHW = to_device(images_bCHW, self.place.device)
        return make_crops(images_bCHW, parameters.of_images(share), size=config.size)

    def _out_of_time(self, seconds: float) -> bool:
        return self.seconds is not None and self.broadcast_from_rank0(seconds > self.seconds)

    def broadcast_from_rank0(self, truth: bool) -> bool:
        """What the first worker found, on all of them: they have to stop together."""
        if self.place.size == 1:
            return truth
        shared = torch.tensor(truth)
        dist.broadcast(shared, src=0, group=self._hosts)
        return bool(shared)

    def _rehearse(self) -> None:
        """Do once what the first update does for all: choose kernels, compile, capture.

        Nothing of the trial is changed, and the time is not counted as training.
        """
        self._run = eagerly
        if self.place.device.type != "cuda" and not (self.speedups.compile or self.speedups.cuda_graph):
            return
        state = [*self.encoder.state_dict().values(), *self.optimizer.momenta(), self._terms_T]
        graphed = GraphedUpdate(self.optimizer, state)
        crops_VbCHW = self.crops(self._order(self.epoch), 0)
        try:
            with unchanged(state):
                self._train(crops_VbCHW, None, graphed.capture if self.speedups.cuda_graph else eagerly)
        except Exception as error:
            if self.config.pretraining.compile != "auto" or not is_of_compiler(error):
                raise
            warnings.warn(f"pretraining.compile: {type(error).__name__}; training is not compiled", stacklevel=2)
            self._uncompile()
            self._rehearse()
        else:
            self._run = graphed if self.speedups.cuda_graph else eagerly

    def _uncompile(self) -> None:
        self.speedups = self.speedups._replace(compile=False)
        self.network = self._build_network(self.delta_VbCHW.shape[1])
        self.replica = self._build_replica()
        self.optimizer.uncompiled()

    def _update(self, crops_VbCHW: Tensor) -> Tensor:
        """Train on one minibatch; the losses of its updates."""
        if not self.config.perturbation.carry:
            self.delta_VbCHW = torch.zeros_like(self.delta_VbCHW)
        self.delta_VbCHW, losses = self._train(crops_VbCHW, self.scheduler, self._run or eagerly)
        return losses

    def _train(self, crops_VbCHW: Tensor, scheduler: LRScheduler | None, run: Runner) -> tuple[Tensor, Tensor]:
        """The moved perturbation, and the losses of the updates."""
        perturbation = self.config.perturbation
        if perturbation.attack == "pgd":
            return pgd_update(
                self.replica,
                self.optimizer,
                scheduler,
                crops_VbCHW,
                self.delta_VbCHW,
                loss_function=self._loss_of,
                steps=perturbation.steps,
                epsilon=self.epsilon_V1111,
                step_size=perturbation.step_size,
                attack_encoder=self._attack_pass,
                attack_crops_VBCHW=crops_VbCHW[1:] if perturbation.attack_positive == "self" else None,
                attack_loss_function=partial(self._loss_of, observed=False),
                keep_attack_gradients=perturbation.keep_attack_gradients,
                run=run,
            )
        return free_replays(
            self.replica,
            self.optimizer,
            scheduler,
            crops_VbCHW,
            self.delta_VbCHW,
            loss_function=self._loss_of,
            replays=self.config.pretraining.replays,
            epsilon=self.epsilon_V1111,
            step_size=perturbation.step_size,
            project_first=perturbation.project_first,
            run=run,
        )

    def _loss_of(self, z_VbD: Tensor, *, observed: bool = True) -> Tensor:
        z_VBD = gather_embeddings(z_VbD) if self.place.size > 1 else z_VbD
        total, terms = self.loss(z_VBD, self.labels_B if self.config.loss.needs_labels else None)
        if observed and terms:  # summed in place, so that a captured update does it too
            self._terms_T += torch.stack([term.detach() for term in terms])
        return total

    def _attack_pass(self, images_NCHW: Tensor) -> Tensor:
        frozen = self.speedups.compile and not self.config.perturbation.keep_attack_gradients
        self.encoder.train(self.config.perturbation.attack_in_train_mode)
        if frozen:  # else the compiled backward pass computes the weights' gradients, too
            self.encoder.requires_grad_(False)
        z_ND: Tensor = self.network(images_NCHW)
        self.encoder.train()
        if frozen:
            self.encoder.requires_grad_(True)
        return z_ND

    def _evaluate(self) -> Scores:
        try:
            return search_scores(
                self.encoder,
                self.splits.probe,
                self.splits.validation,
                classes=self.splits.classes,
                config=self.config.evaluation,
                generator=self._generator(ATTACK, self.epoch),
                workers=Workers(self.place.rank, self.place.size),
            )
        except FloatingPointError as error:  # all workers have the same features
            raise TrialFailed(f"diverged: {error} after epoch {self.epoch + 1}") from None

    def _generator(self, purpose: int, *place: int) -> torch.Generator:
        return torch.Generator().manual_seed(_seed(self.config.seed, purpose, *place))

    def save(self, path: Path) -> None:
        """Write a checkpoint; a reader never sees half of it. Called by all workers, written by the first.

        It does not depend on the number of workers: their perturbations are gathered.
        """
        delta_VBCHW = gather_images(self.delta_VbCHW) if self.place.size > 1 else self.delta_VbCHW
        if self.place.rank > 0:
            return
        state = {
            "fingerprint": self.config.fingerprint,
            "rows": [asdict(row) for row in self.rows],
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "delta": delta_VBCHW,
        }
        with replacing(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same config.

        Raises:
            CheckpointError: where it cannot be read, or is of another config or version; the trial is then in no state
                to go on.
        """
        try:
            state = torch.load(path, map_location=self.place.device, weights_only=True)
            if state["fingerprint"] != self.config.fingerprint:
                raise CheckpointError(f"{path} is a checkpoint of another config: {state['fingerprint']}")
            self.rows = [TrialMetrics(**row) for row in state["rows"]]
            self.encoder.load_state_dict(state["encoder"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.delta_VbCHW = state["delta"][:, self.share].contiguous()
            self._run = None  # a captured update knows the memory of the momenta before
        except (
            OSError,
            EOFError,
            RuntimeError,
            UnpicklingError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from None

    def save_encoder(self, path: Path) -> None:
        """Write the encoder alone, as `cfamc_ray.method.encoder.load_encoder` reads it; by the first worker."""
        if self.place.rank == 0:
            save_encoder(path, self.encoder, self.config.encoder)


def initial_encoder(config: TrialConfig, *, autocast: torch.dtype | None = None) -> SelfSupervisedEncoder:
    """The encoder of a trial before its first update, on the CPU in float32."""
    encoder = deepcopy(_drawn_encoder(config.seed, config.encoder))
    encoder.autocast = autocast
    return encoder


@lru_cache(maxsize=1)
def _drawn_encoder(seed: int, config: EncoderConfig) -> SelfSupervisedEncoder:
    """To draw 34 million weights takes a second, and most trials of a study start from the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(seed, WEIGHTS))
        return SelfSupervisedEncoder(config)


def resolve_precision(precision: str, device: torch.device) -> tuple[torch.dtype, torch.dtype | None]:
    """Type of the weights, and of the matrix products where that differs."""
    if precision == "auto":
        precision = "bfloat16" if _fast_bfloat16(device) else "float32"
    if precision == "bfloat16":
        return torch.float32, torch.bfloat16
    return {"float32": torch.float32, "float64": torch.float64}[precision], None


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16"))  # with AVX-512 alone float32 was faster (LOG.md, 2026-11-23)


IMAGES_SHARE = 0.25
"""Of a GPU's free memory, that the images may take."""


def _fits(images: ImageSubset, device: torch.device) -> bool:
    """Whether the images stay on the device, where batches of them are gathered without the host."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return len(images) * images.images_NCHW[0].numel() <= IMAGES_SHARE * free


def device_name(device: torch.device) -> str:
    """What a table shows as the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


def _seed(*words: int) -> int:
    """A 63-bit seed that differs wherever any of the words does."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
