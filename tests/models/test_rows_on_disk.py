"""PIC's table of all instances on disk: the same training, resumed exactly, and errors that name the file."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import distributed

from unmix.models import PICHead
from unmix.models.memory.rows_on_disk import RowsOnDisk
from unmix.testing.ranks import run_ranks


def build(rows_dir=None):
    torch.manual_seed(0)
    head = PICHead(60, 4, num_recent=16, max_phases=64, rows_dir=rows_dir and str(rows_dir))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-2)
    head.follow(optimizer)
    return head, optimizer


def train(head, optimizer, steps):
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        query = torch.nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=1)
        index = torch.randperm(60, generator=generator)[:8]
        optimizer.param_groups[0]['lr'] = 0.3 / (1 + step // 4)
        head.enter(index)
        loss = head(query, head.address(index))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        head.after_step()
        losses.append(loss.item())
    return losses


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_the_training_is_the_one_in_memory(tmp_path):
    memory, disk = build(), build(tmp_path)
    assert torch.equal(memory[0].recent.weight, disk[0].recent.weight)
    assert train(*memory, range(20)) == train(*disk, range(20))
    assert same(*(head.recent.dense(head.weight) for head, _ in (memory, disk)))
    assert not any(value.shape == (60, 4) for value in disk[0].state_dict().values())


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    """By the functions that the Runner saves and loads with."""
    head, optimizer = build(tmp_path)
    train(head, optimizer, range(9))
    saved, state = copy.deepcopy(get_state_dict(head)), copy.deepcopy(optimizer.state_dict())
    expected = train(head, optimizer, range(9, 18))
    head.state_dict()  # a later checkpoint
    twin, other = build(tmp_path)
    load_state_dict(twin, saved, strict=True)
    other.load_state_dict(state)
    assert train(twin, other, range(9, 18)) == expected
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in head.state_dict().items())


def test_tables_that_no_checkpoint_needs_are_removed(tmp_path):
    """The present one and the one before stay in any case: their checkpoints may not be written yet."""
    head, optimizer = build(tmp_path)
    digests, files = [], []
    for step, kept in enumerate([[], [], [0], [0, 1], [3], []]):
        train(head, optimizer, [step])
        digests.append(head.state_dict()['rows.digest'])
        files.append(head.rows.path(digests[-1]).name)
        before = names(tmp_path)
        head.saved({'head.rows.digest': digests[i]} for i in kept)
        assert names(tmp_path) == before & {files[i] for i in (*kept, step, max(step - 1, 0))}
    assert names(tmp_path) == set(files[-2:])
    twin, other = build(tmp_path)
    load_state_dict(twin, dict(head.state_dict()))
    for step in (8, 9):
        train(twin, other, [step])
        twin.state_dict()
        twin.saved([])
        assert (files[-1] in names(tmp_path)) == (step == 8)  # of the checkpoint that was loaded


def test_no_table_is_written_of_rows_that_are_as_they_were(tmp_path):
    head, optimizer = build(tmp_path)
    assert not head.state_dict()['rows.digest'].any()
    assert not names(tmp_path)
    train(head, optimizer, range(3))
    saved = head.state_dict()
    (path,) = tmp_path.iterdir()
    twin, _ = build(tmp_path)
    twin.load_state_dict(saved)
    path.unlink()
    for one in (head, twin):
        assert torch.equal(one.state_dict()['rows.digest'], saved['rows.digest'])
        assert not names(tmp_path)


def test_missing_and_damaged_tables_are_named(tmp_path):
    head, optimizer = build(tmp_path)
    with pytest.raises(FileNotFoundError, match='A model that was not trained has no such file'):
        build(tmp_path)[0].load_state_dict(head.state_dict())
    train(head, optimizer, range(2))
    saved = head.state_dict()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-4], content + bytes(4), b'\1' + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f'{path.name} is damaged'):
            build(tmp_path)[0].load_state_dict(saved)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{path.name}, which does not exist. Set head.rows_dir'):
        build(tmp_path)[0].load_state_dict(saved)


def of_a_rank(rank, directory):
    """Each rank has a seed of its own; 16 instances get a slot, are trained, and go back to the table."""
    torch.manual_seed(rank)
    head, twin = (PICHead(60, 4, num_recent=16, rows_dir=str(directory / 'rows')) for _ in range(2))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    head.follow(optimizer)
    start = head.rows.tables.clone()
    head.enter(torch.arange(8) + 8 * rank)
    head.weight.grad = torch.ones_like(head.weight)
    optimizer.step()
    optimizer.zero_grad()
    head.after_step()
    head.enter(torch.arange(8) + 20 + 8 * rank)
    if rank == 1:
        head.rows.directory = directory / 'not-to-be-written-to'
    state = head.state_dict()
    distributed.barrier()
    twin.load_state_dict(state)
    torch.save((start, head.rows.tables.clone(), twin.rows.tables.clone()), directory / f'{rank}.pth')


@pytest.mark.ranks
def test_ranks_have_the_same_rows_and_one_of_them_writes(tmp_path):
    run_ranks(of_a_rank, 2, tmp_path, tmp_path)
    torch.manual_seed(0)
    start = torch.stack([0.01 * torch.randn(60, 4), torch.zeros(60, 4)], 1)
    after = start.clone()
    after[:16] += torch.tensor([-0.5, 1.0])[:, None]
    for rank in range(2):
        assert same(torch.load(tmp_path / f'{rank}.pth'), (start, after, after))
    assert len(names(tmp_path / 'rows')) == 1
    assert not (tmp_path / 'not-to-be-written-to').exists()


def test_a_table_without_room_is_refused(tmp_path):
    with pytest.raises(OSError, match=r'head\.rows_dir=.* has no room for its .* It needs 7450580\.6 GiB'):
        RowsOnDisk(str(tmp_path), 10**13, 100, std=0.01)
    assert not names(tmp_path)
