"""For encoders that are too large for one GPU: an additional base of a config. docs/distributed.md says what it shards.

_base_ = ['unmix::moco/mocov2_resnet50_8xb32-coslr-200e_in1k.py', 'unmix::_base_/fsdp.py']
"""

strategy = dict(type='ShardedStrategy', min_num_params=10_000_000)
