"""Data sets, registry ``DATASETS``."""

from unmix.datasets import samplers, transforms
from unmix.datasets.arrays import ArrayDataset, Digits
from unmix.datasets.base import BaseDataset, collate
from unmix.datasets.broken import BatchDataset
from unmix.datasets.decode import BrokenImage, decode_image, read_image
from unmix.datasets.folder import ImageFolder, ImageNet, TinyImageNet
from unmix.datasets.hugging_face import HuggingFaceDataset
from unmix.datasets.published import CIFAR10, CIFAR100, MNIST, STL10, FashionMNIST, read_idx
from unmix.datasets.samplers import (
    ClassBalancedSampler,
    EpochSampler,
    RepeatedSampler,
    SampleKey,
    SlidingWindowSampler,
    SubsetSampler,
    WeightedSampler,
)
from unmix.datasets.video import VideoFrames
from unmix.datasets.wrappers import FirstImages, MixtureDataset, Subset

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'MNIST',
    'STL10',
    'ArrayDataset',
    'BaseDataset',
    'BatchDataset',
    'BrokenImage',
    'ClassBalancedSampler',
    'Digits',
    'EpochSampler',
    'FashionMNIST',
    'FirstImages',
    'HuggingFaceDataset',
    'ImageFolder',
    'ImageNet',
    'MixtureDataset',
    'RepeatedSampler',
    'SampleKey',
    'SlidingWindowSampler',
    'Subset',
    'SubsetSampler',
    'TinyImageNet',
    'VideoFrames',
    'WeightedSampler',
    'collate',
    'decode_image',
    'read_idx',
    'read_image',
    'samplers',
    'transforms',
]
