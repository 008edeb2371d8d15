"""kNN on CIFAR-10 as MoCo's and Un-Mix's CIFAR demos measure it, on a checkpoint of symmetric MoCo.

python tools/test.py configs/benchmarks/knn-moco-sym_cifar10.py CHECKPOINT

Source: https://github.com/szq0214/Un-Mix, k = 200 and temperature 0.1 on the 128-d projection; beside it fewer
neighbours. For another method, name its config in _base_. Top-1: 90.49, with Un-Mix 92.25 published; ours not measured.
"""

_base_ = '../moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py'

test_cfg = dict(stage='neck', cache=True)
test_evaluator = [dict(type='KNN', k=(20, 100, 200), temperature=0.1)]
