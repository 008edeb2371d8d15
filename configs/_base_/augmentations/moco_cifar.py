"""MoCo's and Un-Mix's CIFAR demos after the crop: https://github.com/szq0214/Un-Mix."""

augmentation = [
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
