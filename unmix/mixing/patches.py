"""Images of which a ViT encodes some patches only."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmix.utils.rng import to_device


@dataclass(frozen=True)
class KeptPatches:
    """Images of which some patches are encoded, the same of all; ViT backbones take it in the place of images.

    Attributes:
        images: (N, C, H, W).
        numbers: Those of the patches, rising, (K,); patches are counted from 0, row by row.
        patch_size: Side of a patch in pixels.
    """

    images: Tensor
    numbers: np.ndarray
    patch_size: int

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def tokens(self, tokens: Tensor, extra: int) -> Tensor:
        """Return the first ``extra`` tokens, and those of the kept patches, of ``tokens`` (N, extra + T, D)."""
        chosen = np.concatenate([np.arange(extra), extra + self.numbers])
        return tokens.index_select(1, to_device(chosen, tokens.device))

    def shown(self) -> Tensor:
        """Return the images with 0 in the patches that are not encoded."""
        rows, columns = (length // self.patch_size for length in self.images.shape[2:])
        seen = np.isin(np.arange(rows * columns), self.numbers).reshape(rows, columns)
        pixels = np.kron(seen, np.ones((self.patch_size, self.patch_size)))
        return self.images * torch.from_numpy(pixels).to(self.images)
