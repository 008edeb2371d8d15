"""The mixtures of two images: global (mixup), region (CutMix), or one of them at random.

Drawing and applying are separate: ``draw`` consumes random numbers and knows no image, ``apply`` is deterministic.
So one pair of operations serves a whole batch (partner = reversed batch) and a single image (partner = another sample).
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from unmix.registry import MIXINGS
from unmix.utils.numbers import check_number


def region_box(size: tuple[int, int], lam: float, center: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box ``(top, bottom, left, right)``, half-open, that takes the share ``1 - lam`` of an image.

    The sides are ``trunc(size * sqrt(1 - lam))``; the box reaches ``side // 2`` from its centre to either side and is
    clipped at the border, so an odd side loses a pixel and a box near the border is smaller (as in the released code).

    Args:
        size: Height and width in pixels.
        lam: Wanted share of the image outside the box, in [0, 1].
        center: Row and column of the centre.
    """
    cut = np.sqrt(1.0 - lam)
    edges = []
    for length, middle in zip(size, center, strict=True):
        half = int(length * cut) // 2
        edges += [max(middle - half, 0), min(middle + half, length)]
    top, bottom, left, right = edges
    return top, bottom, left, right


class Mixing(ABC):
    """A way to mix an image with a partner.

    Args:
        alpha: Parameter of the symmetric Beta distribution that the share of the first image is drawn from.
        fold: Whether the larger share is that of the first image, ``max(lam, 1 - lam)`` of the draw, as in i-Mix.

    Raises:
        ValueError: If ``alpha`` is not positive and finite.
    """

    def __init__(self, alpha: float = 1.0, fold: bool = False) -> None:
        check_number('model.unmix.mixing.alpha', alpha, above=0)
        self.alpha, self.fold = alpha, fold

    def draw_share(self, rng: np.random.Generator) -> float:
        """Draw ``lam ~ Beta(alpha, alpha)``."""
        lam = float(rng.beta(self.alpha, self.alpha))
        return max(lam, 1 - lam) if self.fold else lam

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Any:
        """Draw the parameters of one mixture of images of ``size`` (height, width)."""

    def draw_again(self, rng: np.random.Generator, size: tuple[int, int], params: Any, lam: float | None = None) -> Any:
        """Draw the same mixture for another crop of the same images: only what depends on the size is new.

        Args:
            rng: Where the draws come from.
            size: Height and width of the crop.
            params: What was drawn for the crop before.
            lam: Wanted share, if it is not the one in ``params``. The default draws a mixture of its own.
        """
        return self.draw(rng, size)

    @abstractmethod
    def apply(self, image: Tensor, partner: Tensor, params: Any) -> tuple[Tensor, float]:
        """Mix ``image`` with ``partner``, both (..., H, W); return a new tensor and the exact share of ``image``."""


@MIXINGS.register_module()
class Mixup(Mixing):
    """Global mixture ``lam * image + (1 - lam) * partner`` (`mixup <https://arxiv.org/abs/1710.09412>`_, Eq. 1)."""

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[float]:
        """Draw ``lam ~ Beta(alpha, alpha)``."""
        return (self.draw_share(rng),)

    def draw_again(
        self, rng: np.random.Generator, size: tuple[int, int], params: tuple[float], lam: float | None = None
    ) -> tuple[float]:
        """Keep the share; see :meth:`Mixing.draw_again`."""
        return params if lam is None else (lam,)

    def apply(self, image: Tensor, partner: Tensor, params: tuple[float]) -> tuple[Tensor, float]:
        """Blend all pixels; see :meth:`Mixing.apply`."""
        (lam,) = params
        return lam * image + (1.0 - lam) * partner, lam


@MIXINGS.register_module()
class CutMix(Mixing):
    """Region mixture: a box of ``image`` is replaced by the partner's (`CutMix <https://arxiv.org/abs/1905.04899>`_)."""

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[float, int, int]:
        """Draw ``lam ~ Beta(alpha, alpha)``, then the centre's row and column, uniform over the image."""
        lam = self.draw_share(rng)
        return lam, int(rng.integers(size[0])), int(rng.integers(size[1]))

    def draw_again(
        self, rng: np.random.Generator, size: tuple[int, int], params: tuple[float, int, int], lam: float | None = None
    ) -> tuple[float, int, int]:
        """Keep the share, draw another centre; see :meth:`Mixing.draw_again`."""
        return params[0] if lam is None else lam, int(rng.integers(size[0])), int(rng.integers(size[1]))

    def apply(self, image: Tensor, partner: Tensor, params: tuple[float, int, int]) -> tuple[Tensor, float]:
        """Paste the box; the share returned is the exact one, after rounding and clipping. See :meth:`Mixing.apply`."""
        lam, row, column = params
        height, width = image.shape[-2:]
        top, bottom, left, right = region_box((height, width), lam, (row, column))
        mixed = image.clone()
        mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
        return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


@MIXINGS.register_module()
class RandomMixing(Mixing):
    """Global with probability ``prob``, else region (`Un-Mix <https://arxiv.org/abs/2003.05438>`_, Sec. 3).

    Args:
        prob: Probability of the global mixture: 0 gives region mixtures only, 1 global ones only.
        alpha: Beta parameter of both.
        fold: See :class:`Mixing`.

    Raises:
        ValueError: If ``prob`` is outside [0, 1] or ``alpha`` is not positive.
    """

    def __init__(self, prob: float = 0.5, alpha: float = 1.0, fold: bool = False) -> None:
        super().__init__(alpha, fold)
        check_number('model.unmix.mixing.prob', prob, least=0, most=1)
        self.prob = prob
        self.mixup, self.cutmix = Mixup(alpha, fold), CutMix(alpha, fold)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[Mixing, Any]:
        """Draw which mixture, then its parameters."""
        mixing = self.mixup if rng.random() < self.prob else self.cutmix
        return mixing, mixing.draw(rng, size)

    def draw_again(
        self, rng: np.random.Generator, size: tuple[int, int], params: tuple[Mixing, Any], lam: float | None = None
    ) -> tuple[Mixing, Any]:
        """Stay with the mixture drawn; see :meth:`Mixing.draw_again`."""
        mixing, mixing_params = params
        return mixing, mixing.draw_again(rng, size, mixing_params, lam)

    def apply(self, image: Tensor, partner: Tensor, params: tuple[Mixing, Any]) -> tuple[Tensor, float]:
        """Apply the mixture drawn; see :meth:`Mixing.apply`."""
        mixing, mixing_params = params
        return mixing.apply(image, partner, mixing_params)
