"""The backbone as an ONNX graph."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def write_onnx(backbone: nn.Module, images: Tensor, path: Path) -> Tensor:
    """Write a backbone, images (N, C, H, W) to features (N, D), any N, H, W; return what the file makes of ``images``.

    The file is read back and run by ONNX's own reference implementation, which shares nothing with PyTorch.

    Args:
        backbone: In evaluation mode.
        images: Of the proof.
        path: Where to.

    Raises:
        ValueError: If the packages are not installed.
    """
    try:
        import onnx
        import onnx.reference
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        package = str(error.name).partition('.')[0]
        raise ValueError(
            f"ONNX needs the package {package}: pip install 'unmix[export]', or give a name in .pth or .safetensors."
        ) from error
    n, c, h, w = images.shape
    example = images.new_zeros(n, c, h + 32, w + 64)  # of another size than the images of the proof
    torch.onnx.export(
        backbone,
        (example,),
        str(path),
        input_names=['images'],
        output_names=['features'],
        dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = onnx.load(str(path))
    onnx.checker.check_model(graph)
    (features,) = onnx.reference.ReferenceEvaluator(graph).run(None, {'images': images.numpy()})
    return torch.from_numpy(np.asarray(features))
