"""MoCo v2 after the crop: https://arxiv.org/abs/2003.04297."""

augmentation = [
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
    dict(type='RandomHorizontalFlip'),
]
