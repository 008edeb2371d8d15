"""Each mistake is found by the promise that it breaks, and the message says which; a method without one passes."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algorithms_under_test import ALGORITHMS, METHODS
from torch import Tensor, nn

from unmix.models import BYOL, BaseHead, InfoNCEHead, InstDisc, MoCo, NTXentHead, PICHead, SimCLR
from unmix.models.algorithms.base import MIXTURE, Features, View
from unmix.registry import MODELS
from unmix.testing import PROMISES, BrokenPromise, check_method, check_promise

Pairs = list[tuple[Tensor, Tensor]]


class EnqueuesInForward(InfoNCEHead):
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        loss = super().forward(query, target, shared)
        self.queue.enqueue(target)
        return loss


class RegulariserWithState(NTXentHead):
    calls = 0

    def regulariser(self, features: Mapping[Any, Tensor]) -> Tensor:
        self.calls += 1
        return self.calls * torch.stack([view.square().mean() for view in features.values()]).sum()


class RegularisesMixture(SimCLR):
    """The mixture is in the place of a clean view."""

    def encode_all(self, views: Mapping[View, Any]) -> Features:
        queries = super().encode_all(views)
        self.head.regulariser = lambda features: queries.get(MIXTURE, features[0]).mean()
        return queries


class EnqueuesMixture(MoCo):
    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        mixture = {2: queries[MIXTURE]} if MIXTURE in queries else {}
        super().update_head(queries, {**targets, **mixture})


class EnqueuesMixtureUnseen(MoCo):
    """As above, past the arguments of ``update``."""

    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        super().update_head(queries, targets)
        if MIXTURE in queries:
            self.head.queue.features[0] = queries[MIXTURE][0]


class MovesMomentumEncoderInLoss(MoCo):
    def start_step(self) -> None:
        super().start_step()
        self.move_momentum_encoder()


class MovesMomentumEncoderWhileAccumulating(MoCo):
    def after_step(self, stepped: bool = True) -> None:
        super().after_step(stepped)
        if not stepped:
            self.move_momentum_encoder()


class MovesMomentumEncoderTwice(BYOL):
    def after_step(self, stepped: bool = True) -> None:
        super().after_step(stepped)
        if stepped:
            self.move_momentum_encoder()


class MovesMomentumEncoderFirst(MoCo):
    """The order of moves exchanged: keys for the queue are encoded after the momentum encoder has moved."""

    def views(self, inputs: Any) -> Any:
        self.last = inputs
        return inputs

    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        with torch.no_grad():
            self.momentum_encoder.update(self.backbone, self.neck)
            super().update_head(queries, {1: self.momentum_encoder(self.last[1])})


class NeverUpdates(MoCo):
    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        pass


class UpdatesNothing(InfoNCEHead):
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        pass


class NeverCommits(SimCLR):
    def loss(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        losses = super().loss(*args, **kwargs)
        self.discard_step()
        return losses

    def after_step(self, stepped: bool = True) -> None:
        pass


class Sum(BaseHead):
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        return 2 * len(query) - 2 * (query * target).sum()


class LossOfEach(BaseHead):
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        return 2 - 2 * (query * target).sum(1)


class SharedByPlace(InfoNCEHead):
    """Rows of ``shared`` depend on their place in the batch."""

    def shared(self, query: Tensor) -> Tensor:
        return super().shared(query) + 0.01 * torch.arange(len(query))


class SharedIsAnother(InfoNCEHead):
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        return super().forward(query, target) if shared is None else super().forward(query, target, 2 * shared)


class QueueOutsideStateDict(BaseHead):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.features = nn.functional.normalize(torch.randn(20, 8, dtype=torch.float64), dim=1)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        logits = torch.cat([(query * target).sum(1, keepdim=True), query @ self.features.T], 1)
        return -logits.log_softmax(1)[:, 0].mean()

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        self.features = torch.cat([*targets.values(), self.features])[:20]


class HidesNaN(NTXentHead):
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        return super().forward(query, target).nan_to_num()


class UnusedParameter(NTXentHead):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(()))


class ExchangesShares(SimCLR):
    def match_mixture(self, queries: Mapping[View, Tensor], targets: Any) -> Pairs:
        return [(reverse, straight) for straight, reverse in super().match_mixture(queries, targets)]


class MixtureEntersViews(SimCLR):
    def encode_all(self, views: Mapping[View, Tensor]) -> Features:
        features = super().encode_all(views)
        return {name: feature * (1 + 1e-9 * (len(views) > 2)) for name, feature in features.items()}


class TargetOfReverse(SimCLR):
    """Both orders are met with the same pair, so only lam = 1/2 gives the right loss."""

    def match_mixture(self, queries: Mapping[View, Tensor], targets: Any) -> Pairs:
        return [(straight, straight) for straight, _ in super().match_mixture(queries, targets)]


class WeighsMixtureTwice(SimCLR):
    mixture_weight = 2.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mixture_weight = 2.0


class EncodesTwice(MoCo):
    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        self.momentum_encoder.backbone(view)
        return super().encode_target(view, query, index)


class SameDraws(SimCLR):
    def generator(self, purpose: str, *key: int) -> np.random.Generator:
        return np.random.default_rng(0)


class GlobalDraws(NTXentHead):
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        return super().forward(query, target) * (1 + 0.1 * torch.rand(()))


class DrawsInStep(SimCLR):
    """Global random numbers, drawn once a step: a discarded step changes the next one."""

    def views(self, inputs: Any) -> Any:
        return [view + 0.1 * torch.randn(()) for view in inputs]


class AnyIndex(InstDisc):
    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        index = torch.arange(len(view)) if index is None else index
        return self.head.address(index % self.head.num_instances)


class NormalisesInUpdate(PICHead):
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        super().update(queries, targets)
        with torch.no_grad():
            self.weight.copy_(nn.functional.normalize(self.weight, dim=1))


class OnePlaceIsSpecial(SimCLR):
    def encode(self, view: Tensor) -> Tensor:
        return super().encode(view) * (1 + torch.arange(len(view)))[:, None]


class FeaturesOfNeck(SimCLR):
    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        return super().extract_feat(x, 'neck')


class LocalQueue(InfoNCEHead):
    """Enqueues the keys of its own rank only, though there are those of two."""

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        target = targets[1]
        self.queue.features = torch.cat([target, self.queue.features])[: self.queue.size]


MISTAKES: dict[type, tuple[str, str]] = {  # the method that it is put in, and the promise that it breaks
    EnqueuesInForward: ('moco-v2', 'head_forward_is_pure'),
    RegulariserWithState: ('simclr', 'head_forward_is_pure'),
    RegularisesMixture: ('vicreg', 'unmix_leaves_the_base_loss_alone'),
    GlobalDraws: ('simclr', 'head_forward_is_pure'),
    DrawsInStep: ('simclr', 'loss_changes_nothing'),
    MovesMomentumEncoderInLoss: ('moco-v2', 'loss_changes_nothing'),
    NeverCommits: ('simclr', 'a_step_is_committed_or_discarded'),
    NeverUpdates: ('moco-v2', 'head_state_moves_in_update'),
    UpdatesNothing: ('moco-v2', 'head_state_moves_in_update'),
    EnqueuesMixtureUnseen: ('moco-v2', 'head_state_moves_in_update'),
    EnqueuesMixture: ('moco-v2', 'update_gets_the_clean_features'),
    MovesMomentumEncoderFirst: ('moco-v2', 'update_gets_the_clean_features'),
    MovesMomentumEncoderWhileAccumulating: ('moco-v2', 'no_parameter_moves_while_gradients_accumulate'),
    NormalisesInUpdate: ('pic', 'no_parameter_moves_while_gradients_accumulate'),
    MovesMomentumEncoderTwice: ('byol', 'momentum_encoder_moves_with_optimizer_steps'),
    SharedIsAnother: ('moco-v2', 'terms_add_up_to_forward'),
    SharedByPlace: ('moco-v2', 'shared_is_row_wise'),
    OnePlaceIsSpecial: ('simclr', 'encoder_commutes_with_reversal'),
    MixtureEntersViews: ('simclr', 'unmix_leaves_the_base_loss_alone'),
    ExchangesShares: ('simclr', 'unmix_is_the_equation'),
    TargetOfReverse: ('simclr', 'unmix_is_the_equation'),
    WeighsMixtureTwice: ('simclr', 'lam_of_one_gives_the_plain_loss'),
    EncodesTwice: ('moco-v2', 'number_of_encodings'),
    SameDraws: ('simclr', 'draws_differ_from_step_to_step'),
    QueueOutsideStateDict: ('moco-v2', 'a_copy_goes_on_bit_for_bit'),
    HidesNaN: ('simclr', 'nan_comes_to_light'),
    UnusedParameter: ('simclr', 'every_parameter_learns'),
    LossOfEach: ('simclr', 'head_forward_is_pure'),
    AnyIndex: ('instdisc', 'wrong_index_is_refused'),
    FeaturesOfNeck: ('simclr', 'modes_of_forward'),
}
OF_RANKS: dict[type, str] = {Sum: 'simclr', LocalQueue: 'moco-v2'}

for mistake in (*MISTAKES, *OF_RANKS):
    MODELS.register_module(module=mistake)


def with_mistake(mistake: type, name: str) -> dict[str, Any]:
    """Return the config of a method with the mistake in the place of its algorithm or its head."""
    config = ALGORITHMS[name]
    if not issubclass(mistake, BaseHead):
        return dict(config, type=mistake.__name__)
    options = {} if mistake in (Sum, LossOfEach) else config['head']
    return dict(config, head=dict(options, type=mistake.__name__))


def test_every_promise_has_a_mistake() -> None:
    assert {promise for _, promise in MISTAKES.values()} == PROMISES.keys()


@pytest.mark.slow
@pytest.mark.parametrize('mistake', MISTAKES, ids=lambda mistake: mistake.__name__)
def test_mistake_is_found(mistake: type) -> None:
    name, promise = MISTAKES[mistake]
    with pytest.raises(BrokenPromise, match=rf'(?s)^{promise} \((plain|with Un-Mix)\): .*seen: ') as error:
        check_method(with_mistake(mistake, name), encodings=METHODS[name].encodings)
    assert error.value.promise == promise


@pytest.mark.ranks
@pytest.mark.parametrize('mistake', OF_RANKS, ids=lambda mistake: mistake.__name__)
def test_mistake_of_ranks_is_found(mistake: type) -> None:
    """One process cannot see it."""
    config = with_mistake(mistake, OF_RANKS[mistake])
    check_method(config)
    with pytest.raises(BrokenPromise, match=r'(?s)form: plain.*mean over samples\. Gather features.*seen: ') as error:
        check_method(config, ranks=True)
    assert error.value.promise == 'two_ranks_equal_one_process'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'fact', 'promise'),
    [
        ('simclr', dict(joint_batch_norm=True), 'unmix_leaves_the_base_loss_alone'),
        ('simclr', dict(literal_unmix=False), 'unmix_is_the_equation'),
        ('simclr', dict(encodings=(4, 0)), 'number_of_encodings'),
        ('moco-v2', dict(moves_with_optimizer=True), 'head_state_moves_in_update'),
        ('swav', dict(joint_batch_norm=False), 'unmix_leaves_the_base_loss_alone'),
    ],
)
def test_fact_that_is_not_true_is_found(name: str, fact: dict, promise: str) -> None:
    with pytest.raises(BrokenPromise) as error:
        check_method(ALGORITHMS[name], **fact)
    assert error.value.promise == promise


def test_error_of_a_method_names_the_promise() -> None:
    with pytest.raises(
        BrokenPromise, match=r'(?s)^every_parameter_learns.*seen: ValueError: model\.num_views is 2'
    ) as error:
        check_method(ALGORITHMS['simclr'], num_views=3)
    assert isinstance(error.value.__cause__, ValueError)


def test_random_numbers_of_the_caller_stay() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_promise('every_parameter_learns', METHODS['simclr'], 'plain')
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
@pytest.mark.ranks
def test_in_a_script_without_pytest(tmp_path: Path) -> None:
    """And on two ranks, which find the method's classes by themselves."""
    script = tmp_path / 'check.py'
    (tmp_path / 'my_head.py').write_text(
        'from unmix.models import CosineHead\n'
        'from unmix.registry import MODELS\n\n\n'
        '@MODELS.register_module()\n'
        'class MyHead(CosineHead):\n'
        '    pass\n'
    )
    config = dict(ALGORITHMS['simclr'], head=dict(type='MyHead'))
    script.write_text(
        'import sys\n'
        'import my_head\n'
        'from unmix.testing import check_method\n\n'
        "if __name__ == '__main__':\n"
        f'    check_method({config!r}, ranks=True)\n'
        "    assert 'pytest' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
