"""Linear evaluation and fine-tuning."""

import copy
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from unmix.models import ClassificationHead, Classifier
from unmix.registry import DATASETS, MODELS
from unmix.utils.rng import seeded


@MODELS.register_module(force=True)
class ToyBackbone(nn.Sequential):
    def __init__(self, width: int = 5) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.5))


@DATASETS.register_module(force=True)
class Squares(Dataset):
    """Dark, middle and bright squares."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> dict:
        rng = torch.Generator().manual_seed(index)
        image = torch.randint(0, 50, (1, 4, 4), generator=rng) + 100 * (index % 3)
        return dict(inputs=image.to(torch.uint8), index=index, label=index % 3)


def classifier(width=5, **kwargs):
    return Classifier(
        backbone=dict(type='ToyBackbone', width=width, _scope_='unmix'),
        head=dict(type='ClassificationHead', in_dim=width, num_classes=3, _scope_='unmix'),
        data_preprocessor=dict(type='DataPreprocessor', mean=[120.0], std=[80.0], _scope_='unmix'),
        **kwargs,
    )


def run(work_dir, **model):
    loader = dict(
        batch_size=10,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='Squares'),
    )
    cfg = dict(
        default_scope='unmix',
        model=dict(
            type='Classifier',
            backbone=dict(type='ToyBackbone'),
            head=dict(type='ClassificationHead', in_dim=5, num_classes=3),
            data_preprocessor=dict(type='DataPreprocessor', mean=[120.0], std=[80.0]),
            **model,
        ),
        train_dataloader=loader,
        val_dataloader=loader,
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='Accuracy', topk=(1, 2)),
        train_cfg=dict(by_epoch=True, max_epochs=5, val_interval=5),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5, momentum=0.9)),
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        log_level='WARNING',
    )
    return Runner.from_cfg(Config(cfg))


def save(model, path, **rest):
    torch.save(dict(state_dict={**{f'backbone.{k}': v for k, v in model.backbone.state_dict().items()}, **rest}), path)
    return str(path)


def test_the_head_starts_as_mocos_and_its_loss_is_the_cross_entropy():
    head = ClassificationHead(400, 100)
    assert head.fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.fc.bias.any()
    features, label = torch.randn(7, 400), torch.arange(7)
    logits = features @ head.fc.weight.T
    naive = sum(math.log(sum(math.exp(x) for x in row)) - row[y] for row, y in zip(logits.tolist(), label, strict=True))
    assert head(features, label).item() == pytest.approx(float(naive) / 7, rel=1e-5)


def test_a_frozen_backbone_has_no_gradient_and_stays_in_eval_mode():
    model = classifier()
    before = copy.deepcopy(model.backbone.state_dict())
    model.train()
    assert model.training
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
    loss = model(torch.randn(8, 1, 4, 4), label=torch.arange(8) % 3, mode='loss')['loss_classification']
    loss.backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.head.fc.weight.grad.abs().sum() > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.backbone.state_dict().items())


def test_an_unfrozen_backbone_is_trained():
    model = classifier(freeze=False).train()
    assert all(module.training for module in model.modules())
    model(torch.randn(8, 1, 4, 4), label=torch.arange(8) % 3, mode='loss')['loss_classification'].backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    assert model.backbone[2].num_batches_tracked == 1


@pytest.mark.slow
def test_linear_evaluation_in_a_runner_trains_the_head_on_the_loaded_backbone(tmp_path):
    source = classifier()
    with torch.no_grad():
        source.backbone[2].running_mean.fill_(0.1)
    path = save(source, tmp_path / 'moco.pth', **{'neck.weight': torch.zeros(2)})
    runner = run(tmp_path / 'work', pretrained=path)
    runner.train()
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(runner.model.backbone.state_dict()[name], tensor), name
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() == 100.0
    assert runner.message_hub.get_scalar('val/accuracy/top2').current() == 100.0


@pytest.mark.slow
def test_the_control_on_random_weights_is_trained_beside_and_changes_nothing(tmp_path):
    path = save(classifier(), tmp_path / 'moco.pth')
    alone, beside = (run(tmp_path / name, pretrained=path, control=name == 'beside') for name in ('alone', 'beside'))
    for runner in (alone, beside):
        runner.train()
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(beside.model.state_dict()[name], tensor), name
    control = beside.model.control
    assert not torch.equal(control['backbone'][1].weight, beside.model.backbone[1].weight)
    assert control['backbone'][2].num_batches_tracked == 0
    images = torch.stack([Squares()[i]['inputs'] for i in range(30)])
    data = beside.model.data_preprocessor(dict(inputs=images), False)['inputs']
    right = control['head'].logits(control['backbone'](data)).argmax(1) == torch.arange(30) % 3
    scalars = beside.message_hub.log_scalars
    assert scalars['val/random_init/accuracy/top1'].current() == pytest.approx(100 * right.double().mean().item())
    assert scalars['train/loss_random_init'].current() < scalars['train/loss_random_init'].data[0][0]


def test_fine_tuning_has_no_control():
    with pytest.raises(ValueError, match=r'train again with model\.pretrained=None'):
        classifier(freeze=False, control=True)


def test_loading_reports_the_share_that_matched(tmp_path):
    MMLogger.get_instance('test_classifier', log_file=str(tmp_path / 'log'), log_level='INFO')  # now the current one
    model = classifier(pretrained=save(classifier(), tmp_path / 'a.pth'))
    model.init_weights()
    assert f'Loaded 7 backbone tensors (100% of the model) from {tmp_path / "a.pth"}' in (tmp_path / 'log').read_text()


def test_a_frozen_backbone_without_weights_is_a_warning(tmp_path):
    MMLogger.get_instance('test_frozen', log_file=str(tmp_path / 'log'), log_level='INFO')
    classifier(freeze=False).init_weights()
    assert 'model.pretrained' not in (tmp_path / 'log').read_text()
    classifier().init_weights()
    assert 'model.pretrained is not set' in (tmp_path / 'log').read_text()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda state: {k: v for k, v in state.items() if '2.weight' not in k},
            r'86% of the 7 .* 1 missing: 2\.weight',
        ),
        (
            lambda state: {**state, 'backbone.9.weight': torch.zeros(1)},
            r'100% of the 7 .* 1 not in the model: 9\.weight',
        ),
        (
            lambda state: {**state, 'backbone.1.bias': torch.zeros(3)},
            r'1 of another shape: 1\.bias \(3,\) instead of \(5,\)',
        ),
        (
            lambda state: {k.replace('backbone', 'encoder_q'): v for k, v in state.items()},
            r'0% of the 7 .* 7 missing: .*, \.\.\.',
        ),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, change, message):
    path = save(classifier(), tmp_path / 'a.pth')
    torch.save(dict(state_dict=change(torch.load(path)['state_dict'])), path)
    model = classifier(pretrained=path)
    before = copy.deepcopy(model.backbone.state_dict())
    with pytest.raises(ValueError, match=message) as error:
        model.init_weights()
    assert 'a.pth' in str(error.value)
    assert set(before) == set(model.backbone.state_dict())


def test_a_missing_checkpoint_names_the_config_key():
    with pytest.raises(FileNotFoundError, match=r"model.pretrained='nowhere.pth'"):
        classifier(pretrained='nowhere.pth').init_weights()


def test_modes_and_bad_input():
    model = classifier().eval()
    images, label = torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    scores = model(images)
    torch.testing.assert_close(scores, model.backbone(images) @ model.head.fc.weight.T + model.head.fc.bias)
    predictions = model(images, label=label, mode='predict')
    assert torch.equal(torch.stack([p['scores'] for p in predictions]), scores)
    assert [int(p['label']) for p in predictions] == label.tolist()
    assert torch.equal(model([images]), scores)
    with pytest.raises(ValueError, match='2 views'):
        model([images, images])
    with pytest.raises(ValueError, match=r'no labels\. Set train_dataloader\.dataset'):
        model(images, mode='loss')
    with pytest.raises(ValueError, match="'guess'"):
        model(images, mode='guess')
    with pytest.raises(ValueError, match="'neck'"):
        model.extract_feat(images, stage='neck')


def test_a_layer_of_the_backbone_is_pooled_and_flattened():
    backbone = dict(type='ResNet', depth=18, width=4, _scope_='unmix')
    head = dict(type='ClassificationHead', num_classes=3, _scope_='unmix')
    model = Classifier(backbone, head, layer=3, pool=2).eval()
    images = torch.randn(2, 3, 48, 48)
    map_ = model.backbone(images, 3)  # 6 x 6 pixels
    wanted = torch.stack([map_[:, :, i : i + 3, j : j + 3].mean((2, 3)) for i in (0, 3) for j in (0, 3)], 2).flatten(1)
    torch.testing.assert_close(model.extract_feat(images), wanted)
    assert model.head.fc.in_features == wanted.shape[1]
    assert Classifier(backbone, head).head.fc.in_features == 32
    for arguments in (dict(layer=3), dict(layer=7, pool=1), dict(layer=0, pool=1)):
        with pytest.raises(ValueError, match='a layer from 1 to 5'):
            Classifier(backbone, head, **arguments)


def test_batch_norm_of_a_frozen_backbone_can_be_in_training_mode():
    model = classifier(bn_mode='train').train()
    images = torch.randn(8, 1, 4, 4) * 3
    with seeded('dropout'):
        wanted = model.backbone(images)
    with seeded('dropout'):
        assert torch.equal(model.extract_feat(images), wanted)  # batch statistics
    assert model.backbone[2].num_batches_tracked == 2
    model(images, label=torch.arange(8) % 3, mode='loss')['loss_classification'].backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert not any(module.training for module in model.eval().modules())
    for arguments in (dict(bn_mode='half'), dict(bn_mode='train', freeze=False)):
        with pytest.raises(ValueError, match=r'model\.bn_mode'):
            classifier(**arguments)


def test_without_head_it_is_a_backbone_that_takes_its_part_of_a_checkpoint():
    model = Classifier(dict(type='ToyBackbone', _scope_='unmix'))
    assert set(model.select({'backbone.1.weight': 1, 'neck.weight': 2, 'head.queue': 3})) == {'backbone.1.weight'}
    assert all(p.requires_grad for p in model.parameters())  # DistributedDataParallel takes no other
    assert not model.extract_feat(torch.randn(2, 1, 4, 4)).requires_grad
    whole = {'backbone.1.weight': 1, 'head.fc.weight': 2}
    assert classifier().select(whole) == whole
    images = torch.randn(2, 1, 4, 4)
    assert torch.equal(model.eval()(images), model.backbone(images))
    with pytest.raises(ValueError, match=r'no model\.head'):
        model(images, label=torch.zeros(2).long(), mode='loss')


def test_labels_outside_of_the_classes_are_refused_before_the_device_meets_them():
    for label in (torch.tensor([0, 3]), torch.tensor([-1, 0]), [0, 3], torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match=r'model\.head\.num_classes does not fit the data set: labels'):
            classifier().data_preprocessor(dict(inputs=torch.zeros(2, 1, 4, 4), label=label))
