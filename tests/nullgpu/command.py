"""The command `unmix` on the null GPU: python -m tests.nullgpu -m tests.nullgpu.command train CONFIG ..."""

import sys

from tests.nullgpu.device import integers_on_host
from unmix.cli import main

if __name__ == '__main__':
    integers_on_host()  # numbers of classes and of images
    sys.exit(main())
