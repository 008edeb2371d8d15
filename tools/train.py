"""Pre-train (or train) by a config, then evaluate; the command ``unmix train``.

python tools/train.py configs/quickstart/unmix-moco_digits.py
python tools/train.py moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10 --cfg-options model.unmix.type=UnMix
"""

from unmix.apis.command import run_tool
from unmix.apis.train import train

if __name__ == '__main__':
    run_tool(train)
