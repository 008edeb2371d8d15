"""BYOL's two views, after the crop; Barlow Twins, VICReg, MoCo v3 and NNCLR too: https://arxiv.org/abs/2006.07733.

``augmentation[0]`` is the first view's, ``augmentation[1]`` the second's.
"""

_flip_and_colours = [
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
augmentation = [
    [*_flip_and_colours, dict(type='PILGaussianBlur', sigma=(0.1, 2.0))],
    [
        *_flip_and_colours,
        dict(type='RandomApply', p=0.1, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
        dict(type='RandomSolarize', threshold=128, p=0.2),
    ],
]
