"""Whole augmentation of the digits, for BatchMultiView."""

augmentation = [
    dict(type='BatchAffine', scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3), flip_prob=0.0, degrees=15),
    dict(type='BatchColorJitter', brightness=0.4, contrast=0.4),
]
