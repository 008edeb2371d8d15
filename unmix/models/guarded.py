"""Networks that refuse a state dict of which nothing fits."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unmix.utils.matching import check_match, unwrapped


class Guarded(nn.Module):
    """Base of this package's networks: loading tensors of which none fits is an error, with ``strict=False`` too.

    torch and MMEngine then leave the weights random, with at most a warning. This class sees each way to load:
    ``load_state_dict``, MMEngine's ``load_checkpoint`` and ``init_cfg``, in a script or as a part of another
    toolbox's model. As such a part, it accepts a state dict that has no tensor for it.

    Shards of FSDP are not compared, since their shapes are not those of the network.

    Raises:
        ValueError: By loading, if no tensor has a name and shape of the network.
    """

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        found = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
        own: dict[str, Tensor] = dict(self.named_parameters(remove_duplicate=False))
        own |= dict(self.named_buffers(remove_duplicate=False))
        alone = unwrapped(prefix) == ''  # it is the whole model, perhaps in DistributedDataParallel
        sharded = any('_fsdp' in name or '_flat_param' in name for name in (prefix, *own))
        if own and not sharded and (alone or found):
            fits = any(name in own and own[name].shape == getattr(x, 'shape', None) for name, x in found.items())
            if not fits:
                check_match(own, {k: x for k, x in found.items() if isinstance(x, Tensor)}, 'The state dict', False)
        super()._load_from_state_dict(state_dict, prefix, *args)
