"""Data sets, registry ``DATASETS``."""

from unmix.datasets import samplers, transforms
from unmix.datasets.arrays import ArrayDataset, Digits
from unmix.datasets.base import BaseDataset
from unmix.datasets.cifar import CIFAR10, CIFAR100
from unmix.datasets.collate import collate
from unmix.datasets.decode import decode_image, read_image
from unmix.datasets.folder import ImageFolder, ImageNet
from unmix.datasets.idx import MNIST, FashionMNIST, read_idx
from unmix.datasets.mixture import MixtureDataset
from unmix.datasets.samplers import EpochSampler, SampleKey, SlidingWindowSampler
from unmix.datasets.stl10 import STL10
from unmix.datasets.subset import Subset
from unmix.datasets.tiny_imagenet import TinyImageNet

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'MNIST',
    'STL10',
    'ArrayDataset',
    'BaseDataset',
    'Digits',
    'EpochSampler',
    'FashionMNIST',
    'ImageFolder',
    'ImageNet',
    'MixtureDataset',
    'SampleKey',
    'SlidingWindowSampler',
    'Subset',
    'TinyImageNet',
    'collate',
    'decode_image',
    'read_idx',
    'read_image',
    'samplers',
    'transforms',
]
