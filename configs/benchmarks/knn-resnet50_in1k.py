"""kNN on ImageNet on the features of a pre-trained ResNet-50, of any method, with several numbers of neighbours.

python tools/test.py configs/benchmarks/knn-resnet50_in1k.py CHECKPOINT

Source: k and temperature are those that DINO reports, https://arxiv.org/abs/2104.14294. Top-1: not measured.
"""

_base_ = ['../_base_/datasets/imagenet.py', '../_base_/default_runtime.py']

model = dict(type='Classifier', backbone=dict(type='ResNet', depth=50))
train_dataloader = None

test_cfg = dict(cache=True)
test_evaluator = [dict(type='KNN', k=(10, 20, 100, 200), temperature=0.07)]
