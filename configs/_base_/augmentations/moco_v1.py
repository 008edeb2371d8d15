"""MoCo v1 after the crop, the colours of InstDisc: https://arxiv.org/abs/1911.05722."""

augmentation = [
    dict(type='RandomGrayscale', p=0.2),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomHorizontalFlip'),
]
