"""Configs that are valid part by part, but whose parts do not fit each other or the data."""

from types import SimpleNamespace

import pytest
from mmengine.runner import EpochBasedTrainLoop, ValLoop
from mmengine.runner import Runner as MMEngineRunner

from unmix.apis import build_runner, load_config
from unmix.engine.loops.feature_loop import check_classes
from unmix.engine.runner import Runner

QUICKSTART = 'unmix::quickstart/unmix-moco_digits.py'


@pytest.mark.slow
@pytest.mark.parametrize(('option', 'message'), [
    ({'model.head.dim': 64}, r'128x128 and 64x512.*model\.backbone gives 64, .*neck\.out_dim=128, model\.head\.dim=64'),
    ({'model.neck.in_dim': 100}, r'128x64 and 100x256.*model\.backbone gives 64, .*model\.neck\.in_dim=100'),
    ({'model.backbone.in_channels': 3}, r'to have 3 channels, but got 1.*model\.backbone\.in_channels=3'),
    ({'train_dataloader.dataset.pipeline.num_views': 1}, r'1 view\(s\) of each image, and MoCo compares 2'),
    ({'train_cfg.max_epochs': 0}, r'train_cfg\.max_epochs is 0'),
])  # fmt: skip
def test_sizes_and_numbers(tmp_path, option, message):
    cfg = load_config(QUICKSTART, option)
    cfg.work_dir = str(tmp_path)
    with pytest.raises(ValueError, match=message):
        build_runner(cfg).train()


def test_a_label_means_the_same_class():
    def data(*classes):
        return SimpleNamespace(classes=classes or None)

    for tested, bank in ((data('a', 'b'), data('a', 'b')), (data('a'), data('a', 'b')), (data(), data('a'))):
        check_classes(tested, bank)
    with pytest.raises(ValueError, match=r"Label 1 is the class 'c' of 2 in the data .*, but 'b' of 3 in those"):
        check_classes(data('a', 'c'), data('a', 'b', 'c'))
    with pytest.raises(ValueError, match=r"Label 2 is the class 'c' of 3 in the data .*, but none of 2 in those"):
        check_classes(data('a', 'b', 'c'), data('a', 'b'))


def test_a_classifier_is_validated_on_the_classes_that_it_learns(monkeypatch):
    def loop(kind, *classes):
        built = object.__new__(kind)
        built.dataloader = SimpleNamespace(dataset=SimpleNamespace(classes=classes))
        built._dataloader = built.dataloader
        return built

    runner = object.__new__(Runner)
    runner._train_loop = loop(EpochBasedTrainLoop, 'a', 'b', 'c')
    monkeypatch.setattr(MMEngineRunner, 'build_val_loop', lambda self, built: built)
    runner.build_val_loop(loop(ValLoop, 'a', 'b'))
    with pytest.raises(ValueError, match=r"Label 1 is the class 'c' .* \(train_dataloader\).*class_list"):
        runner.build_val_loop(loop(ValLoop, 'a', 'c'))
    runner._train_loop = dict(type='TrainLoop')  # not built: the training data are not needed
    runner.build_val_loop(loop(ValLoop, 'a', 'c'))
