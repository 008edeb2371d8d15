"""The steps that measure how fast a training is."""

import pytest
from mmengine.logging import MMLogger

from unmix.apis import load_config
from unmix.engine import pace


@pytest.mark.slow
def test_the_measured_steps_print_no_line_of_each_parameter(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMEngine warns of each frozen parameter, such as those of a momentum encoder."""
    monkeypatch.setattr(pace, 'SECONDS', 0.0)
    logger = MMLogger.get_instance('pace')  # the current one; it prints to what is captured
    options = {'_base_': 'unmix::_base_/vit_digits.py', 'train_dataloader.batch_size': 8}
    cfg = load_config('quickstart/moco-v3_digits', options)
    cfg.train_dataloader.num_workers, cfg.train_dataloader.persistent_workers = 0, False
    speed, steps = pace.measure_pace(cfg)
    assert speed > 0
    assert steps == pace.LEAST
    logger.warning('another line')
    printed = ''.join(capsys.readouterr())
    assert 'another line' in printed
    assert 'requires_grad' not in printed
    assert 'paramwise_options' not in printed
