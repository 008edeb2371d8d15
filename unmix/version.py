"""The version of the package; ``setup.py`` executes this file, so it imports nothing."""

__version__ = '0.1.0'
