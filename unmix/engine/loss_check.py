"""Whether a loss is finite on all ranks, at the least cost."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor


class LossCheck:
    """Asks the device on construction, and hands the answer out later.

    On CUDA the answer travels to the host behind the forward pass, and an event says when it is there: who launches the
    backward pass before calling :meth:`finite` waits for the forward pass only, while the device goes on. The ranks
    reduce one number, so that all get the same answer.

    Args:
        loss: () of this rank.
    """

    def __init__(self, loss: Tensor) -> None:
        flag = loss.detach().isfinite().float()
        if get_world_size() > 1:
            all_reduce(flag, op='min')
        self._flag, self._event = flag, None
        if flag.is_cuda:
            self._flag = torch.empty(flag.shape, pin_memory=True).copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def finite(self) -> bool:
        """Wait for the forward pass, and no longer."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)
