"""kNN on ImageNet with several numbers of neighbours, on a checkpoint of MoCo v2 with or without Un-Mix.

python tools/test.py configs/benchmarks/knn-mocov2_in1k.py CHECKPOINT

Source: k and temperature are those that DINO reports, https://arxiv.org/abs/2104.14294. For another method, name its
config in _base_. Top-1: not measured.
"""

_base_ = '../moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py'

test_evaluator = [dict(type='KNN', k=k, temperature=0.07, name=f'knn_{k}') for k in (10, 20, 100, 200)]
