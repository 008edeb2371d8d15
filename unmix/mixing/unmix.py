"""The Un-Mix equation. It knows no method: it mixes images, and weights the losses of the encoded mixture."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor

from unmix.mixing.ops import Mixing
from unmix.registry import MIXINGS, MODELS
from unmix.utils.rng import to_device

LAM_POLICIES = ('per_pair', 'first', 'chained')


@MODELS.register_module()
class UnMix(BaseModule):
    """Match the mixture of an image and another one of its batch with both, in proportion to their shares.

    With ``x`` the first view, ``reverse`` the reversal of the batch, ``m`` the mixture of ``x`` and ``reverse(x)``, and
    ``q`` the encoding of ``m``, the loss over the targets ``t`` is

    ``loss_unmix = sum_t lam * head(q, t) + (1 - lam) * head(reverse(q), t)``

    (`Un-Mix <https://arxiv.org/abs/2003.05438>`_, Sec. 3). The encoder commutes with the reversal of its
    batch, so the mixture is encoded once; the released symmetric MoCo encodes it twice, to the same features.

    It has no parameters: state dict and checkpoint keys of a method do not change.

    Args:
        mixing: Config of the mixture, registry ``MIXINGS``; the default is the paper's ``RandomMixing(prob=0.5)``.
        loss_weight: Factor of ``loss_unmix``.
        replay_bn_stats: Let running BatchNorm statistics count the mixture once per query view, as the released
            symmetric MoCo does, which encodes it that often. Losses and gradients do not depend on it.
        lam_policy: Of a view that is a list of crops, each with a box of its own: which share weights the loss.
            ``'per_pair'``: each crop's own, on the terms of that crop; ``'first'``: the first crop's; ``'chained'``: as
            in the released SwAV, where a crop's exact share is the wanted one of the next box, so that shares grow from
            crop to crop, and the last one weights all.

    Raises:
        ValueError: If ``lam_policy`` is another one.
    """

    def __init__(
        self,
        mixing: dict[str, Any] | None = None,
        loss_weight: float = 1.0,
        replay_bn_stats: bool = False,
        lam_policy: str = 'per_pair',
    ) -> None:
        super().__init__()
        if lam_policy not in LAM_POLICIES:
            raise ValueError(f'unmix.lam_policy is {lam_policy!r}; it is one of {", ".join(map(repr, LAM_POLICIES))}.')
        self.lam_policy = lam_policy
        self.mixing: Mixing = MIXINGS.build(dict(type='RandomMixing') | dict(mixing or {}))
        self.loss_weight = loss_weight
        self.replay_bn_stats = replay_bn_stats

    @torch.no_grad()
    @torch.compiler.disable  # it would be compiled anew for each share and box
    def mix(self, view: Any, rng: np.random.Generator) -> tuple[Any, float | Tensor]:
        """Mix ``view`` (N, C, H, W) with its reversed batch; one draw for the whole batch.

        Args:
            view: Images (N, C, H, W), or a list of crops of any sizes: one draw of mixture and share for all of them,
                and a box of its own for each.
            rng: Where the draws come from.

        Returns:
            The mixture, in the form of ``view``, and ``lam``, the exact share of sample n in mixture n; with several
            crops and ``lam_policy='per_pair'`` one for each, (J,). With N odd the middle sample is its own partner.
        """
        crops = [view] if isinstance(view, Tensor) else view
        params: Any = None
        mixed: list[Tensor] = []
        shares: list[float] = []
        for crop in crops:
            size = (int(crop.shape[-2]), int(crop.shape[-1]))
            if params is None:
                params = self.mixing.draw(rng, size)
            else:
                wanted = shares[-1] if self.lam_policy == 'chained' else None
                params = self.mixing.draw_again(rng, size, params, wanted)
            mixture, share = self.mixing.apply(crop, crop.flip(0), params)
            mixed.append(mixture)
            shares.append(share)
        if isinstance(view, Tensor):
            return mixed[0], shares[0]
        if self.lam_policy == 'per_pair' and len(shares) > 1:
            return mixed, to_device(np.array(shares), crops[0].device, crops[0].dtype)
        return mixed, shares[-1] if self.lam_policy == 'chained' else shares[0]

    def forward(self, lam: float | Tensor, terms: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Return ``loss_weight * sum_t (lam * straight_t + (1 - lam) * reverse_t)``, a scalar.

        Args:
            lam: The mixture's share; a vector (J,) if the terms are split over J crops.
            terms: Of each target: the loss of the mixture, and that of the mixture in reverse order, () or (J,).
        """
        mixed = [lam * straight + (1.0 - lam) * reverse for straight, reverse in terms]
        return self.loss_weight * torch.stack(mixed).sum()
