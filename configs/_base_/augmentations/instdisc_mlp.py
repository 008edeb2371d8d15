"""InstDisc in the form of the PIC repository after the crop: https://github.com/bl0/PIC."""

augmentation = [
    dict(type='RandomHorizontalFlip'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomGrayscale', p=0.2),
]
