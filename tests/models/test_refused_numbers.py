"""Numbers with which a training would compute nonsense, or end in a traceback: refused, with key, value and limits."""

import math

import pytest

from unmix.registry import MODELS
from unmix.utils.numbers import check_number

NAN, INF = math.nan, math.inf
REFUSED: dict[str, dict[str, list]] = {
    'LeJEPAHead': dict(directions=[0, -1, 1.5], knots=[1, 0], limit=[0.0, -3.0, INF, NAN], weight=[-0.1, 1.1, NAN]),
    'VICRegHead': dict(invariance=[-1.0, NAN], variance=[-1.0, INF], covariance=[-1.0], eps=[-1.0, NAN]),
    'BarlowTwinsHead': dict(off_diagonal=[-1.0, NAN], eps=[-1e-5, INF]),
    'DINOHead': dict(
        dim=[0], temperature=[0.0, NAN, INF], teacher_temperature=[-1.0, NAN], warmup_temperature=[NAN],
        warmup_epochs=[-3, 0.5], center_momentum=[2.0, -0.1, NAN],
    ),
    'SimSiamHead': dict(dim=[0, -1], hidden_dim=[0, 8.0]),
    'NNCLRHead': dict(dim=[0], hidden_dim=[0], queue_size=[0], temperature=[0.0, INF, NAN]),
    'MoCoV3Head': dict(temperature=[0.0, -1, INF]),
    'NTXentHead': dict(temperature=[-1.0, INF]),
    'InfoNCEHead': dict(dim=[0], queue_size=[-2, 0]),
    'AlignUniformHead': dict(align_weight=[-1.0, NAN], uniform_weight=[-1.0], alpha=[0.0, INF], t=[-1.0, NAN]),
    'WMSEHead': dict(sub_batch=[0, 1, -4], draws=[0], eps=[1.0, NAN]),
    'SwAVHead': dict(
        dim=[0], num_prototypes=[0, 2.5], epsilon=[0.0, INF], sinkhorn_iterations=[0], queue_size=[-1],
        queue_start=[-1], freeze_steps=[-1], temperature=[NAN],
    ),
    'DeepClusterV2Head': dict(num_instances=[0], dim=[0], num_prototypes=[0], num_heads=[0], kmeans_iterations=[0]),
    'NCEHead': dict(num_instances=[0], dim=[0], num_negatives=[0], momentum=[-0.1, NAN]),
    'PICHead': dict(num_instances=[0], dim=[0], num_large=[0], weight_grad_scale=[-1.0, NAN], max_phases=[0]),
    'UnMix': dict(loss_weight=[-1, NAN, INF], every=[0], size=[0.0, NAN], patch_drop=[1.0, NAN]),
}  # fmt: skip
INSTANCES = dict(num_instances=10, dim=4)
NEEDED = dict(
    WMSEHead=dict(sub_batch=8), DeepClusterV2Head=INSTANCES, NCEHead=INSTANCES, PICHead=INSTANCES
)  # fmt: skip
CASES = [(kind, key, value) for kind, keys in REFUSED.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize(('kind', 'key', 'value'), CASES)
def test_one_message_names_key_and_value(kind: str, key: str, value: float) -> None:
    place = 'model.unmix' if kind == 'UnMix' else 'head'
    with pytest.raises(ValueError, match=rf'(?s)^(?=.*{place}\.{key} )(?=.*\b(is|has) )(?=.*{value}).*') as error:
        MODELS.build(dict(type=kind) | NEEDED.get(kind, {}) | {key: value})
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['RandomMixing', 'Mixup', 'CutMix'])
@pytest.mark.parametrize('alpha', [0.0, -1.0, INF, NAN])
def test_shares_have_a_distribution(kind: str, alpha: float) -> None:
    with pytest.raises(ValueError, match=rf'model\.unmix\.mixing\.alpha is {alpha}; it must be a finite number above'):
        MODELS.build(dict(type='UnMix', mixing=dict(type=kind, alpha=alpha)))


@pytest.mark.parametrize('options', [
    dict(type='VICRegHead', invariance=0, covariance=0.0, eps=0), dict(type='UnMix', loss_weight=0),
    dict(type='LeJEPAHead', knots=2, directions=1), dict(type='DINOHead', center_momentum=1, warmup_epochs=0),
])  # fmt: skip
def test_limits_are_taken(options: dict) -> None:
    MODELS.build(options)


@pytest.mark.parametrize(('limits', 'taken', 'refused', 'words'), [
    (dict(), [0, -1.5, 10**9], [NAN, INF, -INF, 'x', None, True], 'a finite number'),
    (dict(above=0), [1e-9], [0, -1], 'a finite number above 0'),
    (dict(least=0, most=1), [0, 1, 0.5], [-0.1, 1.1], 'a finite number at least 0, at most 1'),
    (dict(least=2, whole=True), [2, 3], [1, 2.0, True], 'a whole number at least 2'),
])  # fmt: skip
def test_the_check(limits: dict, taken: list, refused: list, words: str) -> None:
    for value in taken:
        check_number('a.b', value, **limits)
    for value in refused:
        with pytest.raises(ValueError) as error:
            check_number('a.b', value, **limits)
        assert str(error.value) == f'a.b is {value!r}; it must be {words}.'
