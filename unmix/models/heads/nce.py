"""Instance discrimination with stored features: one bank, or two crossed ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unmix.models.functional import eager_gradient
from unmix.models.functional.alias import AliasTable
from unmix.models.functional.precision import full_precision
from unmix.models.functional.random_bits import random_bits
from unmix.models.heads.instances import InstanceHead, check_index
from unmix.models.layers import Temperature, build_temperature, divide_query, read_temperature
from unmix.models.layers.noise_contrast import build_contrast, chunk_size
from unmix.models.memory.bank import MemoryBank
from unmix.registry import MODELS
from unmix.utils.feature_statistics import memory_statistics
from unmix.utils.numbers import check_sizes
from unmix.utils.rng import stream
from unmix.utils.sizes import Misfit, Sizes


@MODELS.register_module()
class NCEHead(InstanceHead):
    """Find the stored feature of each query's own image among those of random images (InstDisc).

    ``scores_n = [bank[i_n] . q_n, bank[r_n1] . q_n, ..., bank[r_nK] . q_n] / temperature``, with ``r`` uniform over
    the instances, with replacement; the own one may be among them, as in the released codes. The loss is a softmax
    over the K + 1 scores, or the noise-contrastive estimate of the paper, see :class:`NoiseContrast`
    (`InstDisc <https://arxiv.org/abs/1805.01978>`_, Eq. 2 and 7). Forms: CMC repository ``bank_init='uniform'``, K
    4096 to 16384; PIC repository ``form='softmax'``, K 65536, ``bank_init='columns'``.

    Args:
        num_instances: Number of training images.
        dim: Feature dimension D.
        num_negatives: Negatives of each query, K.
        temperature: Divides the scores; a number or a config, as in :class:`InfoNCEHead`.
        momentum: Share of a stored feature that stays.
        form: ``'softmax'`` or ``'nce'``.
        bank_init: See :class:`MemoryBank`.
        sync: See :class:`MemoryBank`.
        negative_weights: How often each instance is a negative, (num_instances,) of any scale; None: all alike. For
            the softmax form; noise-contrastive estimation here knows uniform noise only.

    Raises:
        ValueError: If an argument is out of its range.
    """

    remembers_queries = True
    num_banks = 1
    num_instances: int

    def __init__(
        self,
        num_instances: int,
        dim: int = 128,
        num_negatives: int = 4096,
        temperature: Temperature | dict[str, Any] = 0.07,
        momentum: float = 0.5,
        form: str = 'softmax',
        bank_init: str = 'unit',
        sync: bool = True,
        negative_weights: Sequence[float] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_sizes('head', num_instances=num_instances, dim=dim, num_negatives=num_negatives)
        if negative_weights is not None and (form == 'nce' or len(negative_weights) != num_instances):
            raise ValueError(
                f"head.negative_weights are {num_instances} (head.num_instances) numbers with form='softmax'; there "
                f'are {len(negative_weights)}, and the form is {form!r}.'
            )
        self.table = None if negative_weights is None else AliasTable(negative_weights)
        self.num_instances, self.num_negatives = num_instances, num_negatives
        self.temperature = build_temperature(temperature)
        banks = [MemoryBank(num_instances, dim, momentum, bank_init, sync) for _ in range(self.num_banks)]
        self.banks = nn.ModuleList(banks)
        self.contrasts = nn.ModuleList(build_contrast(form, num_instances) for _ in range(self.num_banks))
        self.form = form

    @property
    def chance_loss(self) -> float | None:
        """Loss of features that are the same for all images, B ln(K + 1) with B banks; None for ``'nce'``."""
        return self.num_banks * math.log(self.num_negatives + 1) if self.form == 'softmax' else None

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return more negatives than there are images; and ``num_instances``."""
        found = super().misfits(sizes)
        if self.num_negatives > sizes.most:
            reason = f'model.head.num_negatives is {self.num_negatives}, but the training data set has only'
            found.append(Misfit(f'{reason} {sizes.images} images, which are drawn several times each'))
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return negatives of a quarter of the data set, and ``num_instances``."""
        options = dict(super().suitable(sizes) or {})
        if self.num_negatives > sizes.most:
            options['model.head.num_negatives'] = max(sizes.images // 4, 1)
        return options

    def draw(self, index: Tensor) -> Tensor:
        """Draw the negatives (N, K) of the instances ``index`` (N,) in this step."""
        key = stream('negatives', *self.step.key)
        bits = random_bits(key, index, self.num_negatives)
        if self.table is None:
            return bits % self.num_instances  # biased by less than 2^-20
        uniform = random_bits(key ^ 1, index, self.num_negatives) * 2.0**-53
        return self.table(bits % self.num_instances, uniform)

    def address(self, index: Tensor | None) -> Tensor:
        """Return the target: the rows (N, 1 + K) of the bank to score, the own one first.

        Args:
            index: Instance ids (N,).

        Raises:
            ValueError: If an id is missing or outside the bank.
        """
        index = check_index(index, self.num_instances)
        return torch.cat([index[:, None], self.draw(index)], dim=1)

    @full_precision
    def scores(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the scores (N, B, 1 + K) of ``query`` (N, D) or (N, B, D) against the rows ``target`` of B banks.

        With two banks, as in CMC, the query of one branch meets the bank of the other.
        """
        query = query.view(len(query), self.num_banks, -1)
        return self._products(query, target) / read_temperature(self.temperature)

    def _products(self, query: Tensor, target: Tensor) -> Tensor:
        banks = reversed(list(self.banks))
        products = [bank.scores(query[:, b], target) for b, bank in enumerate(banks)]  # type: ignore[operator]
        return torch.stack(products, 1)

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the losses (N,) of unit queries, (N, D) or (N, B, D), the sum over the B banks."""
        query, temperature = divide_query(query, read_temperature(self.temperature))
        query = query.view(len(query), self.num_banks, -1)

        def losses(part: Tensor, samples: slice) -> Tensor:
            scores = (self._products(part, target[samples]) / temperature).unbind(1)
            return torch.stack([contrast(s) for contrast, s in zip(self.contrasts, scores, strict=True)]).sum(0)

        numbers = self.banks[0].numbers(target.shape[1])  # type: ignore[operator]
        size = chunk_size(query, numbers, self.contrasts, least=8)  # the bank may be read for each
        return eager_gradient(losses, query, size)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of unit queries, (N, D) or (N, B, D), the sum over the B banks; target from ``address``."""
        return self.each(query, target).mean()

    @torch.no_grad()
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Set the constants in the first step, and store the features."""
        (query,), (target,) = queries.values(), targets.values()
        features = query.to(self.banks[0].features.dtype).view(len(query), self.num_banks, -1)  # type: ignore[arg-type]
        if any(contrast.pending for contrast in self.contrasts):
            for contrast, scores in zip(self.contrasts, self.scores(features, target).unbind(1), strict=True):
                contrast.settle(scores)  # type: ignore[operator]
        for bank, feature in zip(self.banks, features.unbind(1), strict=True):
            bank.update(target[:, 0], feature)  # type: ignore[operator]

    def stored(self, target: Tensor) -> Tensor:
        """Return the stored features (N, D) of the instances of ``target``, see :meth:`address`; the first bank's."""
        return self.banks[0].features[target[:, 0]]  # type: ignore[index]

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return the norm of the first bank's rows and their similarity to unit ``features`` (N, D), on average."""
        return memory_statistics(features, self.banks[0].features, 'bank')  # type: ignore[arg-type]


@MODELS.register_module()
class CMCHead(NCEHead):
    """Contrast each of two branches with the bank of the other (`CMC <https://arxiv.org/abs/1906.05849>`_, Sec. 3.3).

    ``loss = contrast(bank_1, q_0) + contrast(bank_0, q_1)``, with the same negatives for both; bank b stores the
    features of branch b. All else as in :class:`NCEHead`.
    """

    num_banks = 2
