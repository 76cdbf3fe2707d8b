"""The baseline of the speed claims computes what our loop computes in the published variant."""

import torch
from torch import Tensor

from benchmarks.reference_loop import Crops, ReferenceEncoder, ReferenceLars, crop_loader, reference_training
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.inner_maximization import free_replays
from cfamc_ray.method.losses import emp_ssl_loss
from cfamc_ray.method.optimizer import build_optimizer, build_scheduler

V, B, S = 2, 3, 8
REPLAYS, EPSILON, STEP, LR = 2, 8 / 255, 0.01, 0.3


def crops() -> list[list[Tensor]]:
    """Two minibatches."""
    generator = torch.Generator().manual_seed(0)
    return [[torch.rand(B, 3, S, S, generator=generator, dtype=torch.float64) for _ in range(V)] for _ in range(2)]


def equal_encoders() -> tuple[ReferenceEncoder, SelfSupervisedEncoder]:
    torch.manual_seed(0)
    reference, ours = ReferenceEncoder().double(), SelfSupervisedEncoder(EncoderConfig()).double()
    names = zip(reference.state_dict().values(), ours.state_dict(), strict=True)  # the same layers in the same order
    ours.load_state_dict({name: value.clone() for value, name in names})
    return reference.train(), ours.train()


def test_the_published_loop_and_ours_end_with_equal_losses_and_weights() -> None:
    reference, ours = equal_encoders()
    horizon = len(crops())
    lars = ReferenceLars(list(reference.parameters()), lr=LR)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(lars.sgd, T_max=horizon)
    published = reference_training(
        reference,
        lars,
        cosine,
        iter(crops()),
        device=torch.device("cpu"),
        replays=REPLAYS,
        epsilon=EPSILON,
        step_size=STEP,
    )
    expected = list(published)

    optimizer = build_optimizer(ours.parameters(), lr=LR)
    scheduler = build_scheduler(optimizer, horizon=horizon)
    delta_VBCHW, actual = torch.zeros(V, B, 3, S, S, dtype=torch.float64), []
    for minibatch in crops():
        delta_VBCHW, losses_R = free_replays(
            ours,
            optimizer,
            scheduler,
            torch.stack(minibatch),
            delta_VBCHW,
            loss_function=emp_ssl_loss,
            replays=REPLAYS,
            epsilon=EPSILON,
            step_size=STEP,
            project_first=False,
        )
        actual.append(losses_R[-1].item())
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=1e-9, atol=0)
    for mine, theirs in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def test_the_loader_gives_every_view_of_every_image_as_pixels() -> None:
    images_NCHW = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert len(Crops(images_NCHW, views=3, size=16)) == 4
    (views,) = crop_loader(images_NCHW, views=3, batch_images=4, size=16, workers=0)
    assert [view.shape for view in views] == [(4, 3, 16, 16)] * 3
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    assert not torch.equal(views[0], views[1])
