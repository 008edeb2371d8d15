"""Rows written in place, and put back."""

import torch

from unmix.models import InfoNCEHead, NCEHead
from unmix.utils.journal import Journal


def test_all_writes_since_the_opening_are_undone_latest_first():
    table, journal = torch.arange(10.0).view(2, 5), Journal()
    journal.write(table, 1, torch.tensor([0]), torch.tensor([[-1.0], [-2.0]]))  # not open: kept by no one
    journal.open()
    before = table.clone()
    journal.write(table, 1, torch.tensor([3, 0]), torch.full((2, 2), 7.0))
    journal.write(table, 1, torch.tensor([0, 4]), torch.full((2, 2), 8.0))
    assert table[:, [0, 3, 4]].tolist() == [[8, 7, 8]] * 2
    journal.undo()
    assert torch.equal(table, before)
    journal.undo()
    assert torch.equal(table, before)


def test_an_opening_forgets_what_was_written_before():
    table, journal = torch.zeros(3), Journal()
    for value in (1.0, 2.0):
        journal.open()
        journal.write(table, 0, torch.tensor([1]), torch.tensor([value]))
    journal.undo()
    assert table.tolist() == [0, 1, 0]


def test_queues_and_banks_are_not_copied_by_an_update():
    query = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    queue, bank = InfoNCEHead(dim=8, queue_size=16), NCEHead(20, dim=8, num_negatives=3)
    for head, target in ((queue, query.flip(0)), (bank, bank.address(torch.arange(4), 1))):
        (features,) = (x for name, x in head.named_buffers() if name.endswith('features'))
        before, place = features.clone(), features.data_ptr()
        head.update({0: query}, {0: target})
        (after,) = (x for name, x in head.named_buffers() if name.endswith('features'))
        assert after.data_ptr() == place
        assert (after != before).any(1).sum() == 4
