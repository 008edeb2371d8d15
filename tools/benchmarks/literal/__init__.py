"""The published training steps, written out: the baseline of the benchmarks and the reference of the tests.

Plain PyTorch by the formulas and the order of operations of the papers and the released codes, with all that they
compute twice: mixtures are encoded once a direction, views once a call of the model, the queue is cloned, there are six
Sinkhorns. Nothing of the toolbox is used.
"""

from literal.htdt import BYOL, SimCLR
from literal.moco import MoCo
from literal.networks import ResNet, mlp
from literal.swav import LARC, SwAV

__all__ = ['BYOL', 'LARC', 'MoCo', 'ResNet', 'SimCLR', 'SwAV', 'mlp']
