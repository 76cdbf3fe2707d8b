import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import cfamc_ray
from cfamc_ray.config.encoder import BACKBONES, EncoderConfig, VitConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.method.encoder import InChunks, SelfSupervisedEncoder, load_encoder, save_encoder

TINY = EncoderConfig(width=4, prefeature_width=8, hidden_width=12, embedding_width=6)
TINY_GROUP = TINY.model_copy(update={"norm": "group"})
TINY_LARGE = TINY.model_copy(update={"stem": "large"})
TINY_VIT = TINY.model_copy(update={"architecture": VitConfig()})
TINY_VIT_GROUP = TINY_VIT.model_copy(update={"norm": "group"})


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def encoder(config: EncoderConfig = TINY, *, autocast: torch.dtype | None = None) -> SelfSupervisedEncoder:
    torch.manual_seed(0)
    return SelfSupervisedEncoder(config, autocast=autocast)


def images(count: int, *, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_encoder_has_34_million_parameters() -> None:
    with torch.device("meta"):
        assert parameters(SelfSupervisedEncoder(EncoderConfig())) == 34_263_104


@pytest.mark.parametrize(
    "config", [TINY, TINY_GROUP, TINY_LARGE, TINY_VIT], ids=["batch", "group", "large stem", "vit"]
)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_embeddings_are_unit_rows_in_the_type_of_the_pixels(
    config: EncoderConfig, autocast: torch.dtype | None
) -> None:
    z_ND = encoder(config, autocast=autocast)(images(5))
    assert z_ND.shape == (5, 6)
    torch.testing.assert_close(z_ND.norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize(
    ("config", "depends"),
    [(TINY, True), (TINY_GROUP, False), (TINY_VIT, True), (TINY_VIT_GROUP, False)],
    ids=["batch", "group", "vit batch", "vit group"],
)
def test_a_row_depends_on_the_rest_of_the_batch_with_batch_norm_alone(config: EncoderConfig, depends: bool) -> None:
    network = encoder(config)
    together, apart = network(images(6))[:3], network(images(6)[:3])
    assert torch.allclose(together, apart, atol=1e-5) is not depends


@pytest.mark.parametrize("config", [TINY_GROUP, TINY_VIT_GROUP], ids=["resnet18", "vit"])
def test_a_perturbation_too_small_for_bfloat16_pixels_reaches_the_embeddings_under_autocast(
    config: EncoderConfig,
) -> None:
    pixels_NCHW = torch.full((4, 3, 16, 16), 0.75)
    perturbed_NCHW = pixels_NCHW + (images(4) - 0.5).sign() / 1024
    assert torch.equal(pixels_NCHW.bfloat16(), perturbed_NCHW.bfloat16())
    network = encoder(config, autocast=torch.bfloat16)
    assert not torch.equal(network(pixels_NCHW), network(perturbed_NCHW))


@pytest.mark.parametrize("config", [TINY_GROUP, TINY_VIT_GROUP], ids=["resnet18", "vit"])
def test_autocast_computes_after_the_stem_in_bfloat16_and_leaves_features_alone(config: EncoderConfig) -> None:
    plain, autocast = encoder(config), encoder(config, autocast=torch.bfloat16)
    assert not torch.equal(plain(images(4)), autocast(images(4)))
    assert torch.equal(plain.features(images(4)), autocast.features(images(4)))


@pytest.mark.parametrize(
    ("architecture", "kind", "width"),
    [
        ("resnet18", "prefeature", 8),
        ("resnet18", "backbone", 32),
        ("resnet50", "backbone", 128),
        ("vit", "backbone", 12),
    ],
)
def test_features_have_the_width_of_their_layer(architecture: str, kind: str, width: int) -> None:
    network = encoder(TINY.model_copy(update={"architecture": BACKBONES.find(architecture)(name=architecture)}))
    features_NF = network.features(images(3), kind=kind)
    assert features_NF.shape == (3, width)
    assert bool((features_NF >= 0).all()) is (architecture != "vit")  # which ends in a norm, the others in a ReLU


@pytest.mark.parametrize("as_named", [Path, str])
@pytest.mark.parametrize(
    "config", [TINY, TINY_GROUP, TINY_LARGE, TINY_VIT], ids=["batch", "group", "large stem", "vit"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_encoder_is_read_back_as_it_was(
    tmp_path: Path, config: EncoderConfig, dtype: torch.dtype, as_named: Callable[[Path], Path | str]
) -> None:
    network = encoder(config).to(dtype=dtype)
    network(images(4).to(dtype))  # moves the statistics of batch norm
    save_encoder(tmp_path / "encoder.safetensors", network, config)
    state = torch.get_rng_state()
    restored = load_encoder(as_named(tmp_path / "encoder.safetensors"))
    assert torch.equal(torch.get_rng_state(), state), "random numbers of the caller stay what they were"
    assert not restored.training
    assert torch.equal(restored(images(4).to(dtype)), network.eval()(images(4).to(dtype)))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no safetensors"),
        lambda path: save_file({"backbone.stem.weight": torch.ones(4)}, path),
        lambda path: save_file({"backbone.stem.weight": torch.ones(4)}, path, metadata={"encoder": '{"width": 3}'}),
    ],
    ids=["missing", "folder", "empty", "other format", "no config", "config out of bounds"],
)
def test_what_is_no_saved_encoder_is_refused_by_name(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "encoder.safetensors"
    write(path)
    with pytest.raises(InputError, match=r"encoder\.safetensors"):
        load_encoder(path)


def test_half_a_saved_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_encoder(path, encoder(), TINY)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError):
        load_encoder(path)


@pytest.mark.parametrize("weights", [{}, {"backbone.stem.weight": torch.ones(4, 3, 3, 3)}], ids=["none", "some"])
def test_an_encoder_whose_weights_are_missing_is_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(weights, path, metadata={"encoder": TINY.model_dump_json()})
    with pytest.raises(InputError):
        load_encoder(path)


def test_the_package_loads_an_encoder_and_torch_only_then(tmp_path: Path) -> None:
    path, network = tmp_path / "encoder.safetensors", encoder().eval()
    save_encoder(path, network, TINY)
    assert cfamc_ray.load_encoder is load_encoder
    assert torch.equal(cfamc_ray.load_encoder(path)(images(2)), network(images(2)))
    program = (
        "import sys, cfamc_ray; assert 'load_encoder' in dir(cfamc_ray) and 'torch' not in sys.modules; "
        f"assert not cfamc_ray.load_encoder({str(path)!r}).training and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_has_nothing_else_by_accident() -> None:
    with pytest.raises(AttributeError, match="load_encoders"):
        cfamc_ray.load_encoders  # type: ignore[attr-defined]  # noqa: B018


def saved_bytes(network: nn.Module, crops_NCHW: Tensor) -> int:
    """What the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(crops_NCHW)
    return sum(kept.values())


def test_what_memory_keeps_grows_with_the_crops_unless_it_is_recomputed() -> None:
    few, many = images(4), images(16)
    kept, again = InChunks(encoder(), 4), InChunks(encoder(), 4, activation_checkpointing=True)
    assert saved_bytes(kept, many) > 2 * saved_bytes(kept, few)
    assert saved_bytes(again, many) < saved_bytes(kept, few) / 2


@pytest.mark.parametrize("training", [True, False])
def test_recomputing_gives_the_same_rows_gradients_and_statistics_in_the_mode_of_the_forward_pass(
    training: bool,
) -> None:
    found = []
    for recompute in (False, True):
        network = InChunks(encoder().train(training), 3, activation_checkpointing=recompute)
        crops_NCHW = images(8).requires_grad_()
        z_ND = network(crops_NCHW)
        network.train(not training)
        (z_ND * torch.linspace(-1, 1, z_ND.numel()).view_as(z_ND)).sum().backward()
        assert all(module.training != training for module in network.modules())
        gradients = [parameter.grad for parameter in network.parameters()]
        found.append([z_ND.detach(), crops_NCHW.grad, *gradients, *network.state_dict().values()])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_recomputing_needs_no_count_that_a_synchronised_norm_lacks() -> None:
    plain = InChunks(encoder(), 3, activation_checkpointing=True)
    shared = InChunks(nn.SyncBatchNorm.convert_sync_batchnorm(encoder()), 3, activation_checkpointing=True)
    for network in (plain, shared):  # in a single process the two norms are one
        network(images(6)).square().sum().backward()
    torch.testing.assert_close(shared.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert {int(n) for name, n in shared.state_dict().items() if name.endswith("num_batches_tracked")} == {2}


@pytest.mark.parametrize("config", [TINY, TINY_LARGE, TINY_VIT], ids=["small stem", "large stem", "patches"])
def test_a_split_stem_changes_rows_and_gradients_no_more_than_bfloat16_does(config: EncoderConfig) -> None:
    found = []
    for autocast, split in ((None, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        network = encoder(config, autocast=autocast)
        network.split_stem = split
        pixels = images(6).requires_grad_()
        z_ND = network(pixels)
        (z_ND * torch.linspace(-1, 1, z_ND.numel()).view_as(z_ND)).sum().backward()
        found.append([z_ND.detach(), pixels.grad, network.backbone.stem.weight.grad])
    for exact, rounded, split in zip(*found, strict=True):
        assert not torch.equal(split, rounded)
        assert (split - exact).norm() < 3 * (rounded - exact).norm()


def test_patches_that_do_not_tile_are_refused_by_a_split_stem_too() -> None:
    network = encoder(TINY_VIT, autocast=torch.bfloat16)
    network.split_stem = True
    with pytest.raises(InputError, match="do not divide into the patches"):
        network(images(2, side=18))
