"""The W-MSE repository on ImageNet-100, colours first, on the whole image: https://github.com/htdt/self-supervised."""

augmentation = [
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)],
    ),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic'),
    dict(type='RandomHorizontalFlip'),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
]
