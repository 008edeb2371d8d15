"""SimCLR at strength 1, after the crop; SwAV, DeepCluster-v2 and PIC too: https://arxiv.org/abs/2002.05709."""

augmentation = [
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)],
    ),
    dict(type='RandomGrayscale', p=0.2),
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
]
