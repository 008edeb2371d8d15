"""Convert a checkpoint of another code, both ways; see docs/converters.md.

python tools/model_converters/convert.py auto checkpoint_0199.pth.tar mocov2.pth
"""

from unmix.apis.command import run_tool
from unmix.apis.convert import convert

if __name__ == '__main__':
    run_tool(convert)
