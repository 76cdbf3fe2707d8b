"""The weights, the optimizer and the perturbation of a trial, and their update on one minibatch.

Shapes: V views, B images of a minibatch, b of one worker, T terms of the loss, C/H/W channels/height/width, D embedding
width.
"""

import warnings
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.images import UNLABELLED
from cfamc_ray.method.cuda_graph import GraphedUpdate, unchanged
from cfamc_ray.method.encoder import InChunks, SelfSupervisedEncoder
from cfamc_ray.method.learner import InnerMaximization, Learner, Runner, eagerly
from cfamc_ray.method.losses import Loss
from cfamc_ray.method.norms import use_fused_norm
from cfamc_ray.method.optimizer import build_scheduler
from cfamc_ray.method.parallel import DistributedContext, data_parallel, gather_embeddings
from cfamc_ray.method.perturbation import into_ball
from cfamc_ray.training.generators import WEIGHTS, make_seed
from cfamc_ray.training.precision import resolve_precision
from cfamc_ray.training.speedups import is_of_compiler, speedups


class Trainer:
    """The trainable state of a trial, in one of its stages.

    Args:
        config: config of the stage (`TrialConfig.at_epoch`).
        context: context of this worker.
        epochs: number of epochs of the trial before the stage.

    Attributes:
        encoder: module that holds the weights.
        delta_VbCHW: perturbation after the last minibatch.
        terms_T: sums of the loss's terms over all updates since they were set to zero.
    """

    def __init__(self, config: TrialConfig, context: DistributedContext, *, epochs: int = 0) -> None:
        self.config, self.context = config, context
        device = context.device
        self.weight_type, self.autocast = resolve_precision(config.pretraining.precision, device)
        self.speedups = speedups(config, device, workers=context.world_size, autocast=self.autocast)
        B, V, S = config.pretraining.batch_images, config.crops.views, config.crops.size
        self.encoder = self._build_encoder()
        self.network = self._build_network(B // context.world_size)
        self.replica = self._build_replica()
        self.optimizer, self.scheduler = self._build_optimizer(epochs)
        self.loss: Loss = config.loss.build()
        self.inner_maximization: InnerMaximization = config.perturbation.build(config)
        self.delta_VbCHW = torch.zeros(V, B // context.world_size, 3, S, S, dtype=self.weight_type, device=device)
        radii = torch.tensor(config.perturbation.radii(V), dtype=self.weight_type)
        self.epsilon_V1111 = radii.view(V, 1, 1, 1, 1).to(device)
        self.labels_B = torch.full((B,), UNLABELLED, device=device)
        self.terms_T = torch.zeros(len(config.loss.terms), dtype=torch.float64, device=device)
        self._run: Runner | None = None

    def _build_encoder(self) -> SelfSupervisedEncoder:
        config, device = self.config.encoder, self.context.device
        encoder = initial_encoder(self.config, autocast=self.autocast)
        encoder.split_stem = self.speedups.split_stem
        encoder = encoder.to(device, self.weight_type).to(memory_format=torch.channels_last)
        if self.context.world_size > 1 and device.type == "cuda" and config.synchronize_norm:
            encoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
        use_fused_norm(encoder, self.speedups.fused_norm)
        return encoder

    def _build_network(self, images: int) -> nn.Module:
        """The encoder as training calls it: compiled or in chunks, as configured."""
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
        """The network for weight updates; with several workers, one that all-reduces their gradients."""
        if self.context.world_size == 1:
            return self.network
        if self.speedups.compile and not isinstance(self.network, InChunks):
            # Compile the wrapper, not the module inside: otherwise all gradients come at the end of the backward pass,
            # and their all-reduce cannot overlap with it.
            return cast(nn.Module, torch.compile(data_parallel(self.encoder)))
        return data_parallel(self.network)

    def _build_optimizer(self, epochs: int) -> tuple[Any, LRScheduler]:
        config = self.config.optimizer
        optimizer = config.build(self.encoder.parameters(), compiled=self.speedups.compile)
        updates = self.config.updates
        horizons = {"updates": updates, "minibatches": updates // self.config.pretraining.replays, "constant": None}
        horizon, begun = horizons[config.schedule], epochs * self.config.updates_per_epoch
        warm_up = int(config.warm_up * (horizon or updates))
        return optimizer, build_scheduler(optimizer, horizon=horizon, begun=begun, warm_up=warm_up)

    def state(self) -> dict[str, Any]:
        """All that an update changes; the tensors are not copied."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "delta": self.delta_VbCHW,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state` of the same stage."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.delta_VbCHW = state["delta"]
        self._run = None  # a captured update does not know the memory of the loaded momenta

    def enter(self, state: Mapping[str, Any]) -> None:
        """Begin this stage with the `state` at the end of the one before it.

        Weights and momenta are taken over, and so are perturbations, moved into the balls of this stage; views that
        are new begin with a perturbation of zero.
        """
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]["state"]})
        before_VbCHW = state["delta"][: len(self.delta_VbCHW)]
        radius_V1111 = self.epsilon_V1111[: len(before_VbCHW)]
        norm = self.config.perturbation.radii_norm
        self.delta_VbCHW[: len(before_VbCHW)] = into_ball(before_VbCHW, epsilon=radius_V1111, norm=norm)
        self._run = None

    def _learner(self, scheduler: LRScheduler | None, run: Runner) -> Learner:
        return Learner(
            self.encoder,
            self.network,
            self.replica,
            self.optimizer,
            scheduler,
            loss_of=self.loss_of,
            attack_loss_of=partial(self.loss_of, reported=False),
            epsilon=self.epsilon_V1111,
            norm=self.config.perturbation.radii_norm,
            compiled=self.speedups.compile,
            run=run,
        )

    def update(self, crops_VbCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Train on one minibatch.

        Args:
            crops_VbCHW: crops of this worker.
            labels_B: labels of the minibatch of all workers; None if the loss reads none.

        Returns:
            The losses of its weight updates.
        """
        if labels_B is not None:  # a captured update reads them from this buffer
            self.labels_B.copy_(labels_B)
        if self.config.perturbation.starts_anew:
            self.delta_VbCHW = torch.zeros_like(self.delta_VbCHW)
        learner = self._learner(self.scheduler, self._run or eagerly)
        self.delta_VbCHW, losses = self.inner_maximization(learner, crops_VbCHW, self.delta_VbCHW)
        return losses

    def loss_of(self, z_VbD: Tensor, *, reported: bool = True) -> Tensor:
        """The loss over the minibatch of all workers, from the embeddings of this worker.

        Args:
            z_VbD: rows of unit length.
            reported: whether its terms are added to `terms_T`.
        """
        z_VBD = gather_embeddings(z_VbD) if self.context.world_size > 1 else z_VbD
        total, terms = self.loss(z_VBD, self.labels_B if self.config.loss.needs_labels else None)
        if reported and terms:  # summed here, so that a captured update does it too
            self.terms_T += torch.stack([term.detach() for term in terms])
        return total

    @property
    def rehearsed(self) -> bool:
        """Whether `rehearse` was called since the weights were built or loaded."""
        return self._run is not None

    def rehearse(self, crops_VbCHW: Tensor) -> None:
        """Do the one-time work of the first update: choose kernels, compile, capture. The state does not change.

        Args:
            crops_VbCHW: crops of any minibatch.
        """
        self._run = eagerly
        if self.context.device.type != "cuda" and not (self.speedups.compile or self.speedups.cuda_graph):
            return
        state = [*self.encoder.state_dict().values(), *self.optimizer.state_tensors(), self.terms_T]
        graphed = GraphedUpdate(self.optimizer, state)
        run = graphed.capture if self.speedups.cuda_graph else eagerly
        try:
            with unchanged(state):
                self.inner_maximization(self._learner(None, run), crops_VbCHW, self.delta_VbCHW)
        except Exception as error:
            if self.config.pretraining.compile != "auto" or not is_of_compiler(error):
                raise
            warnings.warn(f"pretraining.compile: {type(error).__name__}; training is not compiled", stacklevel=2)
            self._uncompile()
            self.rehearse(crops_VbCHW)
        else:
            self._run = graphed if self.speedups.cuda_graph else eagerly

    def _uncompile(self) -> None:
        self.speedups = self.speedups._replace(compile=False)
        self.network = self._build_network(self.delta_VbCHW.shape[1])
        self.replica = self._build_replica()
        self.optimizer.uncompiled()


def initial_encoder(config: TrialConfig, *, autocast: torch.dtype | None = None) -> SelfSupervisedEncoder:
    """The encoder of a trial before its first update, on the CPU in float32."""
    encoder = deepcopy(_drawn_encoder(config.seed, config.encoder))
    encoder.autocast = autocast
    return encoder


@lru_cache(maxsize=1)
def _drawn_encoder(seed: int, config: EncoderConfig) -> SelfSupervisedEncoder:
    """Cached, because drawing 34 million weights takes a second and most trials of a study start from the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_seed(seed, WEIGHTS))
        return SelfSupervisedEncoder(config)
