"""The loader of the published script: torchvision's transforms on PIL images, one image after the other."""

import numpy as np
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class TwoViews(Dataset[tuple[Tensor, Tensor]]):
    """Two views of each image of an array (N, H, W, 3)."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.transform = tv.Compose([
            tv.RandomResizedCrop(32),
            tv.RandomHorizontalFlip(p=0.5),
            tv.RandomApply([tv.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            tv.RandomGrayscale(p=0.2),
            tv.ToTensor(),
            tv.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.fromarray(self.images[index])
        return self.transform(image), self.transform(image)


def loader(images: np.ndarray, batch_size: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of two views, in this process."""
    return DataLoader(TwoViews(images), batch_size, shuffle=True, drop_last=True)
