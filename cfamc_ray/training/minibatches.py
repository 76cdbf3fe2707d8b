"""Minibatches of crops, equal for any number of workers, each of which computes its share.

Shapes: V views, B images of a minibatch, b of one worker, n images of an epoch, C/H/W channels/height/width.
"""

import torch
from torch import Tensor

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.images import ImageSubset
from cfamc_ray.method.crops import draw_crop_parameters, make_crops
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.method.phases import phase
from cfamc_ray.method.transfer import to_device
from cfamc_ray.training.generators import CROPS, ORDER, make_generator

IMAGES_SHARE = 0.25
"""Fraction of a GPU's free memory that the images may take."""


class Minibatches:
    """Crops of a trial's images, in a new order each epoch.

    Args:
        config: config of the trial.
        images: images for pretraining; they are moved to the device if they fit.
        context: context of this worker; its device computes the crops.
        dtype: type of the crops.
    """

    def __init__(
        self, config: TrialConfig, images: ImageSubset, context: DistributedContext, *, dtype: torch.dtype
    ) -> None:
        self.config, self.device, self.dtype = config, context.device, dtype
        self.images = images.to(context.device) if fits(images, context.device) else images
        self.B, workers = config.pretraining.batch_images, context.world_size
        assert self.B % workers == 0, "a minibatch is shared evenly"
        self.share = slice(context.rank * self.B // workers, (context.rank + 1) * self.B // workers)

    def order(self, epoch: int) -> Tensor:
        """Random order of the images in an epoch: their positions, (n,)."""
        order_n = torch.randperm(len(self.images), generator=make_generator(self.config.seed, ORDER, epoch))
        return order_n.to(self.images.indices_n.device)

    def crops(self, order_n: Tensor, epoch: int, step: int, share: slice | None = None) -> Tensor:
        """Crops of a minibatch: crops_VbCHW in [0, 1].

        Args:
            order_n: order of the images in this epoch.
            epoch: epoch, from 0.
            step: minibatch of the epoch, from 0.
            share: slice of the minibatch's images; by default this worker's share.
        """
        config, share = self.config.crops, share or self.share
        H, W = self.images.images_NCHW.shape[-2:]
        with phase("crops"):
            generator = make_generator(self.config.seed, CROPS, epoch, step)
            parameters = draw_crop_parameters(config, images=self.B, height=H, width=W, generator=generator)
            images_bCHW = to_device(self.images.batch(self._positions(order_n, step)[share]), self.device)
            return make_crops(images_bCHW, parameters.of_images(share), size=config.size, dtype=self.dtype)

    def labels(self, order_n: Tensor, step: int) -> Tensor:
        """labels_B of the minibatch of all workers; arguments as in `crops`."""
        return self.images.labels(self._positions(order_n, step))

    def _positions(self, order_n: Tensor, step: int) -> Tensor:
        return order_n[step * self.B : (step + 1) * self.B]


def fits(images: ImageSubset, device: torch.device) -> bool:
    """Whether the images fit on the device, where batches are gathered without the host."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return len(images) * images.images_NCHW[0].numel() <= IMAGES_SHARE * free
