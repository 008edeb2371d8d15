"""Evaluate a checkpoint by the test protocol of a config; the command ``unmix test``.

python tools/test.py configs/quickstart/unmix-moco_digits.py work_dirs/unmix-moco_digits/epoch_150.pth
"""

from unmix.apis.command import run_tool
from unmix.apis.train import evaluate

if __name__ == '__main__':
    run_tool(evaluate)
