"""The linear classifier beside a training: it leaves no trace, and resumes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from torch import nn

from unmix.apis import build_runner, load_config
from unmix.engine.hooks import OnlineProbeHook
from unmix.testing import assert_same, rounding, run_ranks


def digits_run(work_dir, method='unmix-moco', probe=True, epochs=2, **changes):
    """Train a quickstart on a fifth of the digits; return the Runner and the hook."""
    cfg = load_config(f'unmix::quickstart/{method}_digits.py', {'train_cfg.max_epochs': epochs, **changes})
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.train_dataloader.batch_size = 32
    cfg.train_dataloader.dataset = dict(type='Subset', share=0.1, dataset=cfg.train_dataloader.dataset)
    cfg.train_cfg.val_interval = cfg.default_hooks.checkpoint.interval = 1
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    if 'num_instances' in cfg.model.head:
        cfg.model.head.num_instances = 130
    if probe:
        cfg.custom_hooks.append(dict(type='OnlineProbeHook', lr=0.01))
    runner = build_runner(cfg)
    hook = next((hook for hook in runner.hooks if isinstance(hook, OnlineProbeHook)), None)
    return runner, hook


@pytest.mark.slow
def test_training_is_bit_identical_with_and_without_and_resumes(tmp_path):
    plain, _ = digits_run(tmp_path / 'plain', probe=False)
    plain.train()
    watched, hook = digits_run(tmp_path / 'watched')
    watched.train()
    expected = plain.model.state_dict()
    for name, value in watched.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    scalars, reference = watched.message_hub.log_scalars, plain.message_hub.log_scalars
    assert np.array_equal(scalars['train/loss'].data[0], reference['train/loss'].data[0])
    assert scalars['val/knn/top1'].data[0].tolist() == reference['val/knn/top1'].data[0].tolist()
    assert not watched.model.backbone._forward_hooks
    assert 10 < scalars['val/online_linear/top1'].data[0][-1] <= 100
    assert len(scalars['train/online_linear_top1'].data[0]) == watched.iter

    resumed, again = digits_run(tmp_path / 'watched', resume=True, load_from=str(tmp_path / 'watched' / 'epoch_1.pth'))
    resumed.train()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for name, value in hook.probe.state_dict().items():
        assert torch.equal(value, again.probe.state_dict()[name]), name
    for key in ('val/online_linear/top1', 'train/online_linear_top1'):
        assert resumed.message_hub.log_scalars[key].data[0][-1] == scalars[key].data[0][-1]


@pytest.mark.slow
@pytest.mark.parametrize('method', ['swav', 'unmix-cmc', 'byol'])
def test_it_learns_from_view_0_of_any_method(tmp_path, method):
    runner, hook = digits_run(tmp_path, method, epochs=1, param_scheduler=None)
    seen, batches = [], []
    runner.model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    step = hook.after_train_iter

    def after_train_iter(runner, batch_idx, data_batch=None, outputs=None):
        batches.append(data_batch)
        assert hook._features is not None
        step(runner, batch_idx, data_batch, outputs)

    hook.after_train_iter = after_train_iter
    hook.before_train_iter = lambda *args, **kwargs: (
        seen.clear(),
        OnlineProbeHook.before_train_iter(hook, *args, **kwargs),
    )
    runner.train()
    batch = runner.model.data_preprocessor(batches[-1], True)['inputs'][0]
    assert torch.equal(seen[0][: len(batch)], batch)
    assert hook.probe[1].weight.abs().max() > 0


def steps(hook, batches):
    """Call the hook as a training does, with these features."""
    processor = SimpleNamespace(window_size=10, custom_cfg=[])
    runner = SimpleNamespace(
        message_hub=MessageHub.get_instance('probe'), log_processor=processor, train_dataloader=range(10)
    )
    for features, labels in batches:
        hook._features = features
        hook.after_train_iter(runner, 0, dict(label=labels))


def batches(num=3, size=12):
    rng = torch.Generator().manual_seed(3)
    return [(torch.randn(size, 5, generator=rng), torch.randint(4, (size,), generator=rng)) for _ in range(num)]


def test_steps_equal_a_naive_loop():
    hook = OnlineProbeHook(lr=0.05, num_classes=4)
    steps(hook, batches())
    params = [np.zeros((4, 5)), np.zeros(4)]
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    for t, (features, labels) in enumerate(batches(), start=1):
        x = features.double().numpy()
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        scores = x @ params[0].T + params[1]
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(4)[labels]
        for i, g in enumerate((p.T @ x / len(x), p.mean(0))):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            params[i] = params[i] - 0.05 * m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    for got, wanted in zip(hook.probe.parameters(), params, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-3, atol=1e-5)


def half(rank, out):
    hook = OnlineProbeHook(num_classes=4)
    steps(hook, [(x[rank * 6 : rank * 6 + 6], y[rank * 6 : rank * 6 + 6]) for x, y in batches()])
    torch.save(hook.probe.state_dict(), out / f'{rank}.pt')


@pytest.mark.ranks
def test_two_processes_train_one_classifier(tmp_path):
    run_ranks(half, 2, tmp_path, tmp_path)
    hook = OnlineProbeHook(num_classes=4)
    steps(hook, batches())
    # Three steps, each a sum over 12 images; a gradient whose terms cancel moves Adam by its sign.
    bound = rounding(3 * 12, condition=10, dtype=torch.float32)
    for rank in (0, 1):
        for name, value in torch.load(tmp_path / f'{rank}.pt').items():
            assert_same(value.double(), hook.probe.state_dict()[name].double(), bound, name)


def test_labels_must_be_classes_and_without_any_there_is_a_warning(tmp_path):
    hook = OnlineProbeHook(num_classes=2)
    with pytest.raises(ValueError, match='labels reach from 0 to 3; expected 0 to 1'):
        steps(hook, [(torch.randn(4, 5), torch.arange(4))])
    warnings = []
    runner = SimpleNamespace(
        model=nn.Module(),
        val_loop=None,
        logger=SimpleNamespace(warning=warnings.append),
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(num_classes=None)),
    )
    OnlineProbeHook().before_train(runner)
    assert 'no labels' in warnings[0]
