"""Common parts of the tools that draw features."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unmix.apis.features import extract_features, features_of_test_set
from unmix.checkpoint.data import Items
from unmix.engine.feature_pictures import raw_image


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that :func:`read_features` reads."""
    parser.add_argument('model', help="a run, a checkpoint, a model of the zoo, or a file of 'unmix features' (.npz)")
    parser.add_argument('folder', nargs='?', help='images (default: those that the model is tested on)')
    parser.add_argument('--stage', choices=['backbone', 'neck'], help="default: as in the config's evaluation")


class Found(NamedTuple):
    """Features of images.

    Attributes:
        name: What they are of.
        features: (N, D).
        labels: (N,), or None.
        classes: Names of the classes, or None.
        images: Folder and paths of the images, a data set, or None if only features are known.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray | None
    classes: Any
    images: Any

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number."""
        return str(label if self.classes is None else self.classes[label])

    def image(self, row: int) -> Image.Image:
        """Return an image as it is stored.

        Raises:
            ValueError: If there are only features.
        """
        if self.images is None:
            raise ValueError(f'{self.name} has features and no images: give the model and the folder.')
        if isinstance(self.images, Items):
            return raw_image(self.images, row)
        folder, paths = self.images
        with Image.open(Path(folder, paths[row])) as image:
            return image.convert('RGB')


def read_features(args: argparse.Namespace) -> Found:
    """Compute or read the features that the arguments name.

    Raises:
        ValueError: If a file has none, or is given together with a folder.
    """
    if str(args.model).endswith('.npz'):
        with np.load(args.model) as file:
            content = dict(file)
        if 'features' not in content or args.folder is not None:
            raise ValueError(
                f"{args.model}: expected a file of 'unmix features' with an array 'features', and no folder beside it."
            )
    elif args.folder is not None:
        content = extract_features(args.model, args.folder, stage=args.stage)
    else:
        features, dataset = features_of_test_set(args.model, stage=args.stage)
        labels = getattr(dataset, 'labels', None)
        content = dict(features=features) | ({} if labels is None else dict(labels=np.asarray(labels)))
        return Found(args.model, features, content.get('labels'), getattr(dataset, 'classes', None), Items(dataset))
    images = None if args.folder is None else (args.folder, content['paths'])
    return Found(args.model, content['features'], content.get('labels'), content.get('classes'), images)
