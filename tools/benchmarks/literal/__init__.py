"""The published training steps written out as they are: the baseline of the benchmarks and the oracle of the tests.

Plain PyTorch, from the formulas and the order of operations of the papers and the released codes, with all that they do
twice: mixtures encoded once a direction, views once a call of the model, clones of the queue, six Sinkhorns. Nothing of
the toolbox is used.
"""

from literal.htdt import BYOL, SimCLR
from literal.moco import MoCo
from literal.networks import ResNet, mlp
from literal.swav import LARC, SwAV

__all__ = ['BYOL', 'LARC', 'MoCo', 'ResNet', 'SimCLR', 'SwAV', 'mlp']
