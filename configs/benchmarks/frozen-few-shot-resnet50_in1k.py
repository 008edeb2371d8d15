"""Logistic regression on the features of a pre-trained ResNet-50 on ImageNet: on all labels, and on few of each class.

python tools/test.py configs/benchmarks/frozen-few-shot-resnet50_in1k.py CHECKPOINT

Source: the optimum of penalised softmax regression on centre crops, so no learning rate is tuned; 13 labels a class are
1 % of ImageNet. Of few labels the mean over 5 draws. Top-1: not measured.
"""

_base_ = './knn-resnet50_in1k.py'

test_evaluator = [
    dict(type='LinearProbe', solver='auto'),
    *[dict(type='LinearProbe', labels_per_class=n, solver='auto') for n in (1, 2, 5, 13)],
]
