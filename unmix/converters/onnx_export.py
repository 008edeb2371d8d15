"""The backbone as an ONNX graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def write_onnx(backbone: nn.Module, channels: int, path: Path) -> Callable[[Tensor], Tensor]:
    """Write a backbone, images (N, C, H, W) to features (N, D), any N, H, W.

    Args:
        backbone: In evaluation mode, float32.
        channels: C.
        path: Where to.

    Returns:
        The file, read again and run by ONNX's own reference evaluator, as a function of images.

    Raises:
        ValueError: If the packages are not installed.
    """
    try:
        import onnx
        import onnx.reference
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise ValueError(
            f"ONNX needs the package {str(error.name).partition('.')[0]}: pip install 'unmix[export]', or write a .pth."
        ) from error
    torch.onnx.export(
        backbone,
        (torch.zeros(2, channels, 96, 128),),  # another size than that of the images of the proof
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
    evaluator = onnx.reference.ReferenceEvaluator(graph)
    return lambda images: torch.from_numpy(np.asarray(evaluator.run(None, {'images': images.numpy()})[0]))
