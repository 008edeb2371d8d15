"""The Un-Mix equation. It knows no method: it mixes images, and weights the losses of the encoded mixture."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn import functional as F

from unmix.mixing.ops import Mixing
from unmix.mixing.partners import REVERSE, OncePartners, Partners, RandomPartners
from unmix.mixing.patches import KeptPatches
from unmix.registry import MIXINGS, MODELS
from unmix.utils.numbers import check_number
from unmix.utils.rng import to_device

CHOICES = dict(
    lam_policy=('per_pair', 'first', 'chained'),
    partner=('reverse', 'random'),
    shares=('batch', 'sample'),
    pairs=('all', 'once'),
)


@MODELS.register_module()
class UnMix(BaseModule):
    """Match the mixture of an image and another one of its batch with both, in proportion to their shares.

    With ``x`` the first view, ``reverse`` the reversal of the batch, ``m`` the mixture of ``x`` and ``reverse(x)``, and
    ``q`` the encoding of ``m``, the loss over the targets ``t`` is

    ``loss_unmix = sum_t lam * head(q, t) + (1 - lam) * head(reverse(q), t)``

    (`Un-Mix <https://arxiv.org/abs/2003.05438>`_, Sec. 3). The encoder commutes with the reversal of its
    batch, so the mixture is encoded once; the released symmetric MoCo encodes it twice, to the same features.

    It has no parameters: state dict and checkpoint keys of a method do not change.

    In general mixture n holds sample n and sample ``pi(n)``, with shares ``lam_n`` and ``1 - lam_n``, and

    ``loss_unmix = sum_t mean_n [lam_n * loss(q_n, t_n) + (1 - lam_n) * loss(q_n, t_pi(n))]``

    The paper's form is ``partner='reverse', shares='batch'``. Five keys make it cheaper; they can be combined:

    * ``pairs='once'`` encodes the first ceil(N / 2) mixtures only, which hold each unordered pair once. With ``_h`` for
      the first half of the rows, ``loss_unmix = sum_t lam * head(q_h, t_h) + (1 - lam) * head(q_h, reverse(t)_h)``: the
      head sees half a batch, and a loss with negatives of the batch has half of them.
    * ``every=k`` mixes at the steps 0, k, 2 k, ... of the run only; the others are those of the plain method.
    * ``replace=True`` puts the mixture in the place of view 0 as a query (`i-Mix <https://arxiv.org/abs/2010.08887>`_),
      which then is not encoded as a query: no encoding more than the plain method has. The pairs of view 0 are those of
      the mixture, with their weight; the other pairs stay.
    * ``size`` makes the mixtures smaller, for networks that take any size. They are mixed at full size and then scaled
      (bilinear, with antialiasing), so that the shares stay exact.
    * ``patch_drop`` makes a ViT encode some patches of the mixtures only, drawn anew in each step, the same of all
      mixtures, so that the encoder still commutes with the reversal. ``lam`` is the exact share in those patches.

    Args:
        mixing: Config of the mixture, registry ``MIXINGS``; the default is the paper's ``RandomMixing(prob=0.5)``.
        loss_weight: Factor of ``loss_unmix``.
        replay_bn_stats: Let running BatchNorm statistics count the mixture once per query view, as the released
            symmetric MoCo does, which encodes it that often. Losses and gradients do not depend on it.
        lam_policy: Of a view that is a list of crops, each with a box of its own: which share weights the loss.
            ``'per_pair'``: each crop's own, on the terms of that crop; ``'first'``: the first crop's; ``'chained'``: as
            in the released SwAV, where a crop's exact share is the wanted one of the next box, so that shares grow from
            crop to crop, and the last one weights all.
        partner: ``'reverse'``: the partners are the batch in reverse order; ``'random'``: a permutation, new each step.
        shares: ``'batch'``: one draw for the whole batch; ``'sample'``: one for each mixture.
        pairs: ``'all'``: each sample is the first one of a mixture; ``'once'``: each unordered pair has one mixture.
        every: Mix at each so many steps; 1: at all.
        replace: Whether the mixture takes the place of view 0 as a query.
        size: Factor of height and width of the mixtures, above 0, at most 1.
        patch_drop: Share of the patches of the mixtures that a ViT does not encode, from 0 to below 1; rounded to whole
            patches, of which one stays at least.

    Attributes:
        patch_size: Side of the network's patches in pixels, for ``size`` and ``patch_drop``; the method sets it.

    Raises:
        ValueError: If an argument is none of its choices, or two of them exclude each other.
    """

    patch_size: int = 1

    def __init__(
        self,
        mixing: dict[str, Any] | None = None,
        loss_weight: float = 1.0,
        replay_bn_stats: bool = False,
        lam_policy: str = 'per_pair',
        partner: str = 'reverse',
        shares: str = 'batch',
        pairs: str = 'all',
        every: int = 1,
        replace: bool = False,
        size: float = 1.0,
        patch_drop: float = 0.0,
    ) -> None:
        super().__init__()
        given = dict(lam_policy=lam_policy, partner=partner, shares=shares, pairs=pairs)
        for key, value in given.items():
            if value not in CHOICES[key]:
                choices = ', '.join(map(repr, CHOICES[key]))
                raise ValueError(f'model.unmix.{key} is {value!r}; it is one of {choices}.')
        check_number('model.unmix.loss_weight', loss_weight, least=0)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f'model.unmix.every is {every!r}; it is a whole number from 1: mix at each such step.')
        if not 0 < size <= 1:
            raise ValueError(f'model.unmix.size is {size!r}; it is the factor of height and width, above 0, at most 1.')
        if not 0 <= patch_drop < 1:
            raise ValueError(
                f'model.unmix.patch_drop is {patch_drop!r}; it is the share of the patches of a ViT that the mixtures '
                'lose, from 0 to below 1.'
            )
        if pairs == 'once' and partner == 'random':
            raise ValueError(
                "model.unmix.pairs is 'once' and model.unmix.partner 'random', but the halves of a permutation do not "
                'have the same pairs. Leave one of them out: the batch is shuffled anyway.'
            )
        if replace and replay_bn_stats:
            raise ValueError(
                'model.unmix.replace and model.unmix.replay_bn_stats are both set: the released step that the replay '
                'repeats encodes view 0 and the mixture. Leave one of them out.'
            )
        self.lam_policy, self.partner, self.shares, self.pairs = lam_policy, partner, shares, pairs
        self.mixing: Mixing = MIXINGS.build(dict(type='RandomMixing') | dict(mixing or {}))
        self.loss_weight = loss_weight
        self.replay_bn_stats = replay_bn_stats
        self.every, self.replace, self.size, self.patch_drop = every, replace, size, patch_drop

    @property
    def added_weight(self) -> float:
        """Return the weight of the pairs that a mixture adds to those of the method, whose weight is 1."""
        return 0.0 if self.replace else self.loss_weight

    def due(self, step: int) -> bool:
        """Whether a step has a mixture; steps count from 0."""
        return step % self.every == 0

    def partners(self, rng: Callable[[], np.random.Generator]) -> Partners:
        """Return who is mixed with whom in a step; ``rng`` returns its random numbers, from their beginning."""
        if self.partner == 'random':
            return RandomPartners(rng)
        return OncePartners() if self.pairs == 'once' else REVERSE

    @torch.no_grad()
    @torch.compiler.disable  # it would be compiled anew for each share and box
    def mix(self, view: Any, rng: np.random.Generator, others: Any = None) -> tuple[Any, float | Tensor]:
        """Mix the samples of ``view`` (N, C, H, W) with their partners.

        Args:
            view: Images (N, C, H, W), or a list of crops of any sizes: one draw of mixture and share for all of them,
                and a box of its own for each.
            rng: Where the draws come from: that of random partners, then mixtures, then patches.
            others: The view, in the form of ``view``, that the partners are taken from; None: ``view`` itself.

        Returns:
            The mixtures (M, C, h, w), in the form of ``view``, with ``patch_drop`` as :class:`KeptPatches`; and
            ``lam``, the exact share of sample n in mixture n; with several crops and ``lam_policy='per_pair'`` one for
            each, (J,); with ``shares='sample'`` one for each mixture, (M,). With N odd the middle sample of the
            reversed batch is its own partner.

        Raises:
            ValueError: If each sample has its share, but there are several crops; if patches do not divide a mixture.
        """
        crops, other_crops = ([x] if isinstance(x, Tensor) else x for x in (view, view if others is None else others))
        partners = self.partners(lambda: rng)
        self._check_patches({int(side) for crop in crops for side in crop.shape[-2:]})
        if self.shares == 'sample' and len(crops) > 1:
            raise ValueError(
                f"model.unmix.shares is 'sample', but {len(crops)} crops are mixed, and their shares differ. Set it to "
                "'batch'."
            )
        params: Any = None
        mixed: list[Any] = []
        shares: list[Any] = []
        for crop, other in zip(crops, other_crops, strict=True):
            size = (int(crop.shape[-2]), int(crop.shape[-1]))
            images, second = partners.first(crop), partners.second(other)
            if self.shares == 'sample':
                params = [self.mixing.draw(rng, size) for _ in images]
            elif params is None:
                params = self.mixing.draw(rng, size)
            else:
                wanted = shares[-1] if self.lam_policy == 'chained' else None
                params = self.mixing.draw_again(rng, size, params, wanted)
            mixture, share = self._mix_by(images, second, params)
            mixture = self._scaled(mixture)
            if self.patch_drop:
                kept = KeptPatches(mixture, self._draw_patches(rng, mixture), self.patch_size)
                share = self._share_of_patches(kept, size, params)
            mixed.append(kept if self.patch_drop else mixture)
            shares.append(share)
        lam: Any = np.array(shares) if self.lam_policy == 'per_pair' and len(shares) > 1 else shares[0]
        lam = shares[-1] if self.lam_policy == 'chained' else lam
        if isinstance(lam, np.ndarray):
            lam = to_device(lam, crops[0].device, crops[0].dtype)
        return mixed[0] if isinstance(view, Tensor) else mixed, lam

    def _mix_by(self, images: Tensor, others: Tensor, params: Any) -> tuple[Tensor, Any]:
        """Mix (M, C, H, W) by one draw, or by one for each sample; return the mixtures, and their share or (M,)."""
        if self.shares == 'batch':
            return self.mixing.apply(images, others, params)
        each = zip(images, others, params, strict=True)
        mixed, shares = zip(*(self.mixing.apply(image, other, drawn) for image, other, drawn in each), strict=True)
        return torch.stack(mixed), np.array(shares)

    def _draw_patches(self, rng: np.random.Generator, mixture: Tensor) -> np.ndarray:
        """Draw the numbers of the patches that stay, rising."""
        height, width = mixture.shape[-2:]
        total = (height // self.patch_size) * (width // self.patch_size)
        stay = max(total - round(self.patch_drop * total), 1)
        return np.sort(rng.permutation(total)[:stay])

    def _share_of_patches(self, mixture: KeptPatches, size: tuple[int, int], params: Any) -> Any:
        """Return the share of sample n in the patches that stay of mixture n: of all mixtures, or (M,)."""
        number = 1 if self.shares == 'batch' else len(mixture)
        own = torch.ones(number, 1, *size, dtype=torch.float64)
        shares, _ = self._mix_by(own, torch.zeros_like(own), params)
        by_patch = F.avg_pool2d(self._scaled(shares), mixture.patch_size).flatten(1).numpy()
        kept = by_patch[:, mixture.numbers].mean(1)
        return float(kept[0]) if self.shares == 'batch' else kept

    def _scaled(self, mixture: Tensor) -> Tensor:
        """Scale mixtures (M, C, H, W) by ``size``."""
        if self.size == 1:
            return mixture
        size = [_side(self.size, length) for length in mixture.shape[-2:]]
        return F.interpolate(mixture, size, mode='bilinear', antialias=True)

    def _check_patches(self, sides: set[int]) -> None:
        """Check that patches divide the mixtures of views with these sides.

        Raises:
            ValueError: If they do not; it names the sizes next to ``size`` with which they do.
        """
        patch, least = self.patch_size, min(sides)

        def fits(factor: float) -> bool:
            return all(_side(factor, side) % patch == 0 for side in sides)

        if fits(self.size) or (self.size == 1 and not self.patch_drop):
            return
        fitting = [x for x in (number * patch / least for number in range(1, least // patch + 1)) if fits(x)]
        near = [x for x in fitting if x < self.size][-1:] + [x for x in fitting if x > self.size][:1]
        views = ' and '.join(f'{side} px' for side in sorted(sides))
        mixtures = ' and '.join(f'{_side(self.size, side)} px' for side in sorted(sides))
        advice = f'Set it to {" or ".join(f"{x:.4g}" for x in near)}.'
        raise ValueError(
            f'model.unmix.size is {self.size}: sides of {views} of a view become {mixtures} of a mixture, which the '
            f"network's patches of {patch} px do not divide. "
            f'{advice if near else f"Make the crops of the pipeline multiples of {patch} px."}'
        )

    def forward(self, lam: float | Tensor, terms: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Return ``loss_weight * sum_t (lam * straight_t + (1 - lam) * reverse_t)``, a scalar.

        Args:
            lam: The mixture's share; a vector (J,) if the terms are split over J crops, (M,) with one for each sample.
            terms: Of each target: the loss of the mixture against it, and against that of the partner, () or (J,). With
                a share for each sample the losses (M,) of the mixtures, both in their order; then the mean counts.
        """
        mixed = [lam * straight + (1.0 - lam) * reverse for straight, reverse in terms]
        if self.shares == 'sample':
            mixed = [losses.mean() for losses in mixed]
        return self.loss_weight * torch.stack(mixed).sum()


def _side(factor: float, length: int) -> int:
    """Return the side of a mixture of images with a side of ``length`` pixels."""
    return max(round(factor * length), 1)
