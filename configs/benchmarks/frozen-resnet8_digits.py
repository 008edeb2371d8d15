"""Every protocol on frozen features, on the embedded digits, for a checkpoint of any quickstart with this ResNet-8.

python tools/test.py configs/benchmarks/frozen-resnet8_digits.py CHECKPOINT
"""

_base_ = ['../_base_/datasets/digits.py', '../_base_/default_runtime.py']

num_threads = 1

model = dict(
    type='Classifier',
    backbone=dict(
        type='ResNet',
        depth=8,
        in_channels=1,
        width=16,
        stem=dict(kernel_size=3, stride=2, padding=1, maxpool=False),
        num_splits=4,
    ),
)
train_dataloader = None

test_cfg = dict(cache=True)
test_evaluator = [
    dict(type='KNN', k=(5, 20, 200), temperature=(0.07, 0.1)),
    dict(type='EuclideanKNN', k=5, name='knn_5_euclidean'),
    dict(type='LinearProbe', solver='auto'),
    *[dict(type='LinearProbe', labels_per_class=n) for n in (1, 10)],
    dict(
        type='LinearTraining',
        lr=(1.0, 0.1, 0.01),
        epochs=50,
        batch_size=128,
        optimizer=dict(type='SGD', momentum=0.9),
        scheduler=dict(type='CosineAnnealingLR', T_max=50),
        name='linear_sgd',
    ),
]
