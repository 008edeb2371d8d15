"""The W-MSE repository before the crop, on the whole image: https://github.com/htdt/self-supervised."""

augmentation = [
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.1),
]
