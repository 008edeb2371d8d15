"""Make a checkpoint of a training one to hand out; see docs/converters.md.

python tools/model_converters/publish_model.py unmix::moco/NAME.py work_dirs/NAME/epoch_200.pth weights
"""

from unmix.apis.command import run_tool
from unmix.apis.publish import publish

if __name__ == '__main__':
    run_tool(publish)
