"""The three evaluations of the W-MSE repository on CIFAR-10, on the features of a pre-trained ResNet-18, of any method.

python tools/test.py configs/benchmarks/frozen-htdt-resnet18_cifar10.py CHECKPOINT

Source: https://github.com/htdt/self-supervised. 5 nearest neighbours by Euclidean distance and majority; a linear layer
by Adam, 500 epochs of batches of 1000, the rate falling from 1e-2 to 1e-6 (there "sgd"); scikit-learn's logistic
regression, C = 1. All on features as they are, without augmentation. For CIFAR-100 change the base.
Linear / 5-NN top-1 of W-MSE 2: 91.55 / 89.69 published; ours not measured.
"""

_base_ = ['../_base_/datasets/cifar10.py', '../_base_/default_runtime.py']

epochs = 500

model = dict(type='Classifier', backbone=dict(type='ResNet', depth=18, stem='cifar'))
train_dataloader = None

test_cfg = dict(cache=True)
test_evaluator = [
    dict(type='EuclideanKNN', k=5, name='knn_5_euclidean'),
    dict(
        type='LinearTraining',
        lr=1e-2,
        epochs=epochs,
        batch_size=1000,
        optimizer=dict(type='Adam', weight_decay=5e-6),
        scheduler=dict(type='ExponentialLR', gamma=1e-4 ** (1 / epochs)),
        name='linear_adam',
    ),
    dict(
        type='LinearProbe', C=1.0, standardize=False, max_iter=1000, tolerance=1e-4, solver='auto', name='linear_lbfgs'
    ),
]
