"""PIC's table of all instances on disk: the same training, resumed exactly, and errors that name the file."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import distributed
from unmix.engine.step_state import StepState

from unmix.models import PICHead
from unmix.models.memory.rows_on_disk import RowsOnDisk
from unmix.testing.ranks import run_ranks

SGD = dict(lr=0.3, momentum=0.9, weight_decay=1e-2)


def build(rows_dir=None, **kwargs):
    torch.manual_seed(0)
    head = PICHead(60, 4, num_recent=16, max_phases=64, rows_dir=rows_dir and str(rows_dir), **kwargs)
    optimizer = torch.optim.SGD(head.parameters(), **SGD)
    head.follow(optimizer)
    return head, optimizer


def batch(step):
    generator = torch.Generator().manual_seed(step)
    query = torch.nn.functional.normalize(torch.randn(8, 4, generator=generator), dim=1)
    return query, torch.randperm(60, generator=generator)[:8]


def train(head, optimizer, steps):
    losses = []
    for step in steps:
        query, index = batch(step)
        optimizer.param_groups[0]['lr'] = 0.3 / (1 + step // 4)
        loss = head(query, head.address(index, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_training_is_the_one_in_memory(tmp_path):
    memory, disk = build(), build(tmp_path)
    assert torch.equal(memory[0].recent.weight, disk[0].recent.weight)
    assert train(*memory, range(20)) == train(*disk, range(20))
    for ours, theirs in zip(*(head.recent.dense(head.weight) for head, _ in (memory, disk)), strict=True):
        assert torch.equal(ours, theirs)
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


def digest(head):
    return bytes(head.state_dict()['rows.digest'].tolist()).hex()


def names(directory):
    return {path.stem for path in directory.iterdir()}


def test_the_newest_tables_stay_and_that_of_the_checkpoint_before(tmp_path):
    head, optimizer = build(tmp_path, rows_kept=2)
    digests = []
    for step in range(4):
        train(head, optimizer, [step])
        digests.append(digest(head))
        head.rows.prune()
        assert names(tmp_path) == set(digests[-2:])
    for step in range(4, 7):  # state dicts that are no checkpoints, such as captures of steps that failed
        train(head, optimizer, [step])
        digests.append(digest(head))
    assert names(tmp_path) == set(digests[-5:])
    train(head, optimizer, [7])
    digests.append(digest(head))
    head.rows.prune()
    assert names(tmp_path) == {digests[3], *digests[-2:]}


def test_the_table_that_was_loaded_stays_until_there_are_two_others(tmp_path):
    head, optimizer = build(tmp_path)
    train(head, optimizer, [0])
    saved = head.state_dict()
    twin, other = build(tmp_path, rows_kept=1)
    twin.load_state_dict(saved)
    digests = [digest(head)]
    for step in range(1, 3):
        train(twin, other, [step])
        digests.append(digest(twin))
        twin.rows.prune()
        assert names(tmp_path) == set(digests[-2:])


def test_no_table_is_written_of_rows_that_are_as_they_were(tmp_path):
    head, optimizer = build(tmp_path)
    assert not head.state_dict()['rows.digest'].any()
    twin, other = build(tmp_path)
    twin.load_state_dict(head.state_dict())
    assert names(tmp_path) == set()
    assert train(head, optimizer, range(3)) == train(twin, other, range(3))
    saved = head.state_dict()
    (path,) = tmp_path.iterdir()
    other_table = path.read_bytes()
    path.unlink()
    assert torch.equal(head.state_dict()['rows.digest'], saved['rows.digest'])
    assert names(tmp_path) == set()
    path.write_bytes(other_table)
    twin.load_state_dict(saved)
    path.unlink()
    twin.state_dict()
    assert names(tmp_path) == set()


def test_a_trained_table_does_not_stand_in_for_one_that_was_not(tmp_path):
    untrained = build(tmp_path)[0].state_dict()
    head, optimizer = build(tmp_path)
    train(head, optimizer, range(2))
    with pytest.raises(ValueError, match=r'no rows\.digest of a trained table; load it into a new model'):
        head.load_state_dict(untrained)


def test_missing_and_damaged_tables_are_named(tmp_path):
    head, optimizer = build(tmp_path)
    train(head, optimizer, range(2))
    saved = head.state_dict()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-4], content + bytes(4), b'\1' + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f'{path.name} is damaged'):
            build(tmp_path)[0].load_state_dict(saved)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f'{path.name}, which is not there: head.rows_dir'):
        build(tmp_path)[0].load_state_dict(saved)


def of_a_rank(rank, directory):
    """Each rank has a seed of its own; 16 instances get a slot, are trained, and go back to the table."""
    torch.manual_seed(rank)
    head, twin = (PICHead(60, 4, num_recent=16, rows_dir=str(directory / 'rows')) for _ in range(2))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5, momentum=0.9)
    head.follow(optimizer)
    start = head.rows.tables.clone()
    head.address(torch.arange(8) + 8 * rank, 0)
    head.weight.grad = torch.ones_like(head.weight)
    optimizer.step()
    head.address(torch.arange(8) + 20 + 8 * rank, 0)
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
        tables = torch.load(tmp_path / f'{rank}.pth')
        assert all(torch.equal(table, expected) for table, expected in zip(tables, (start, after, after), strict=True))
    assert len(names(tmp_path / 'rows')) == 1
    assert not (tmp_path / 'not-to-be-written-to').exists()


def test_rows_on_disk_want_recent_classes(tmp_path):
    with pytest.raises(ValueError, match=r'head\.rows_dir is .*, but only the rows outside of head\.num_recent'):
        PICHead(9, rows_dir=str(tmp_path))


def test_a_table_without_room_is_refused(tmp_path):
    with pytest.raises(OSError, match=r'head\.rows_dir=.* has no room for its .* It needs 7450580\.6 GiB'):
        RowsOnDisk(str(tmp_path), 10**13, 100, std=0.01)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r'head\.rows_kept is 0'):
        RowsOnDisk(str(tmp_path), 10, 4, std=0.01, kept=0)


@pytest.mark.parametrize('on_disk', [False, True])
def test_a_step_that_is_taken_back_leaves_no_trace_and_no_table_is_copied(tmp_path, on_disk):
    head, optimizer = build(tmp_path if on_disk else None)
    train(head, optimizer, range(5))
    model = torch.nn.Module()
    model.head = head
    held = StepState(model, OptimWrapper(optimizer))
    for step in range(5, 8):
        held.hold()
        before = copy.deepcopy(head.state_dict()), head.recent.weight.clone(), head.recent.velocity.clone()
        head(batch(step)[0], head.address(batch(step)[1], 0)).backward()
        assert not torch.equal(head.recent.weight, before[1])
        held.learn()
        assert held.restore() == []
        optimizer.zero_grad()
        after = head.state_dict(), head.recent.weight, head.recent.velocity
        assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
        assert torch.equal(after[1], before[1])
        assert torch.equal(after[2], before[2])
    copied = {held._slots[i][2] for i in held._copies}
    assert copied
    assert not copied & {'head.recent.weight', 'head.recent.velocity', 'head.recent.left', 'head.recent.slots'}
