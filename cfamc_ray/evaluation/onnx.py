"""Encoders and classifiers as ONNX files, which other programs run without this package and without torch.

Shapes: N images, C/H/W channels/height/width, F features, K classes.
"""

import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from cfamc_ray.config.errors import InputError
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.host.files import replacing
from cfamc_ray.method.encoder import SelfSupervisedEncoder

PATCHES = 32
"""Side of the traced images in patches (ResNet: in pixels); the file takes images of any size."""


class _Features(nn.Module):
    """Both kinds of features of an encoder."""

    def __init__(self, encoder: SelfSupervisedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute prefeature_NF and backbone_NF."""
        backbone_NF = self.encoder.features(pixels_NCHW, kind="backbone")
        return self.encoder.prefeature(backbone_NF), backbone_NF


def export_onnx(model: SelfSupervisedEncoder | LinearClassifier, path: Path | str) -> None:
    """Write an encoder or a classifier as one ONNX file; needs the extra ``onnx``.

    The file's input is ``pixels``: float32 (N, 3, H, W) in [0, 1], of any N, H and W; the sides of images for a ViT are
    multiples of its patch. Its outputs are ``prefeature`` and ``backbone``, float32 (N, F), for an encoder, and
    ``logits``, float32 (N, K), for a classifier. Batch norm uses its running statistics.

    Args:
        model: what `load_encoder` or `load_classifier` returns.
        path: the file, replaced if it exists, in an existing folder.

    Raises:
        InputError: if a package of the extra is missing.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise InputError(f"ONNX export: {' and '.join(missing)} not installed: pip install 'cfamc_ray[onnx]'")
    encoder, network, outputs = (
        (model.encoder, model, ["logits"])
        if isinstance(model, LinearClassifier)
        else (model, _Features(model), ["prefeature", "backbone"])
    )
    side = PATCHES * encoder.config.patch
    program = torch.onnx.export(
        copy.deepcopy(network).cpu().float().eval(),
        (torch.zeros(2, 3, side, side),),
        input_names=["pixels"],
        output_names=outputs,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        verbose=False,
    )
    assert program is not None, "without a file's name the program is returned"
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths and lines of this machine's Python files
    with replacing(Path(path)) as partial:
        partial.write_bytes(program.model_proto.SerializeToString())
