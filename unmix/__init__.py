"""Un-Mix: self-supervised image representation learning with mixed images, on MMEngine.

Importing this package changes MMEngine for the whole process, so that it behaves the same, and safely, on every
distribution of it (:mod:`unmix.compat`):

* checkpoints are unpickled with ``weights_only=True`` and a short list of allowed types, from a path and from
  ``http(s)://``; the schemes that cannot be made safe (``s3://``, ``open-mmlab://``, ...) are refused;
* checkpoints are written whole or not at all, sealed with a digest that loading compares, and a damaged newest one is
  passed over by ``--resume``;
* ``mmengine.utils.is_installed`` and ``get_installed_path`` work without ``pkg_resources``;
* config names of the form ``unmix::moco/...`` are found;
* a warning is given if two distributions of MMEngine or MMCV overwrite each other.
"""

from unmix import compat
from unmix.version import __version__

compat.install()

__all__ = ['__version__']
