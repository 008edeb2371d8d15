"""PIL's Gaussian blur, as a transform and as a kernel."""

from random import uniform

import numpy as np
from PIL import Image, ImageFilter

from unmix.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PILGaussianBlur:
    """Blur with PIL's Gaussian, radius ~ U(sigma) (SimCLR's, as in `MoCo v2 <https://arxiv.org/abs/2003.04297>`_).

    Args:
        sigma: Least and largest radius, in pixels.
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        self.sigma = tuple(sigma)

    def draw(self) -> float:
        """Draw a radius, from Python's global generator, which the views seed."""
        return uniform(*self.sigma)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(radius=self.draw()))


def blur_kernel(radius: float) -> np.ndarray:
    """Return the right half, from the centre on, of the symmetric kernel that PIL blurs with: float32 (R + 1,).

    PIL approximates a Gaussian by three box filters with fractional ends (`Gwosdek et al. 2011
    <https://doi.org/10.1007/978-3-642-24785-9_38>`_, eq. 11 and 14); this is their product. For a radius (standard
    deviation) of 0.1 to 2 pixels, R is 3 or 6.
    """
    variance = radius * radius / 3
    whole = int((np.sqrt(12 * variance + 1) - 1) / 2)
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.ones(2 * whole + 3)
    box[0] = box[-1] = rest
    box /= 2 * (whole + rest) + 1
    return np.convolve(np.convolve(box, box), box)[3 * whole + 3 :].astype(np.float32)
