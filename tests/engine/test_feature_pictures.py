"""Images that are shown in a report although others cannot be read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from unmix.config import load_config
from unmix.datasets import BaseDataset, BrokenImage
from unmix.engine import feature_pictures
from unmix.engine.feature_pictures import draw_seen, look, look_at_training
from unmix.evaluation.extraction import collect_features
from unmix.registry import MODELS
from unmix.visualization.neighbours import Neighbourhood


class Greys(BaseDataset):
    """Image i has the grey value 5 i, and the class i mod 2."""

    def __init__(self, size: int, bad: set[int]) -> None:
        super().__init__(None, 'skip')
        self.bad, self.labels = bad, torch.arange(size) % 2

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> tuple[Image.Image, int]:
        if index in self.bad:
            raise BrokenImage(f'The image {index} cannot be read (test).')
        return Image.new('RGB', (8, 8), (5 * index,) * 3), int(self.labels[index])


@pytest.fixture(name='drawn')
def _drawn(monkeypatch: pytest.MonkeyPatch) -> list[Neighbourhood]:
    found: list[Neighbourhood] = []
    monkeypatch.setattr(feature_pictures, 'draw_neighbours', lambda rows, out, title: found.extend(rows))
    return found


def number(image: Image.Image) -> int:
    return image.getpixel((0, 0))[0] // 5


def evaluated(dataset: Greys) -> Any:
    """Return the shard of the images that can be read; image i is at the angle of i hundredths."""
    index = torch.tensor([i for i in range(len(dataset)) if i not in dataset.bad])
    angle = index / 100
    batch = dict(index=index, label=dataset.labels[index], inputs=torch.stack([angle.cos(), angle.sin()], 1))

    def encode(batch: dict[str, Any]) -> Tensor:
        return batch['inputs']

    return collect_features([batch], {'': encode})['']


def test_neighbours_are_the_images_that_were_evaluated(drawn: list[Neighbourhood]) -> None:
    test, bank = Greys(40, {0, 1, 2, 17}), Greys(30, {3, 4, 5, 6, 28})
    seen = look(evaluated(test), evaluated(bank), (test, bank))
    test.bad.add(14)  # broken later
    bank.bad.add(20)
    facts = draw_seen(seen, Path('unused'), '')
    queries = [query for query in seen.queries if query != 14]
    assert 14 in seen.queries
    assert [number(row.image) for row in drawn] == queries
    same = 0
    for query, row in zip(queries, drawn, strict=True):
        there = [image for image in range(30) if image not in (3, 4, 5, 6, 28)]
        expected = sorted(there, key=lambda image, query=query: (abs(image - query), image))[:8]
        expected = {image for image in expected if image != 20}
        shown = [number(image) for image in row.neighbours]
        assert {abs(image - query) for image in shown} == {abs(image - query) for image in expected}
        assert row.same == [image % 2 == query % 2 for image in shown]
        same += sum(row.same)
    assert f'{same} of {sum(len(row.neighbours) for row in drawn)} are of the class' in facts['caption']
    test.bad.update(range(40))
    assert draw_seen(seen, Path('unused'), '') == {}


def test_a_training_shows_the_images_that_can_be_read(drawn: list[Neighbourhood]) -> None:
    model = MODELS.build(load_config('unmix::quickstart/moco_digits.py').model)
    dataset, view = Greys(50, {0, 7, 30}), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    seen = look_at_training(model, dataset, view)
    assert seen is not None
    assert len(seen.features) == 47
    draw_seen(seen, Path('unused'), '')
    assert [[number(row.image), *map(number, row.neighbours)] for row in drawn] == [
        [query, *near] for query, near in zip(seen.queries, seen.near, strict=True)
    ]
    assert look_at_training(model, Greys(5, set(range(5))), view) is None
