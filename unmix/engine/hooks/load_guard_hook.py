"""No checkpoint of another model is loaded by accident."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from unmix.registry import HOOKS
from unmix.utils.dist import agreed
from unmix.utils.matching import check_match


@HOOKS.register_module()
class LoadGuardHook(Hook):
    """Refuses a checkpoint (``--resume``, ``load_from``, ``tools/test.py``) whose tensors are not the model's.

    MMEngine loads what fits and warns about the rest, so that an evaluation may run on random weights.

    Args:
        strict: Whether all tensors must match, none missing and none too many. If not, those that fit are loaded, and
            a warning lists the others. As an option: ``--cfg-options custom_hooks.0.strict=False``.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare before anything is copied.

        Raises:
            ValueError: If the checkpoint is of another model, or holds no state dict.
        """
        source = str(runner._load_from or 'The latest checkpoint of the work dir')
        if 'state_dict' not in checkpoint:
            raise ValueError(
                f"{source} has no 'state_dict' but {sorted(checkpoint)}; it is not a checkpoint of a training."
            )
        wrapper = runner.model
        model = wrapper.module if is_model_wrapper(wrapper) else wrapper
        if hasattr(model, 'select'):  # a model that is a part of the checkpoint's
            checkpoint['state_dict'] = model.select(checkpoint['state_dict'])
        sharded = hasattr(wrapper, 'sharding_strategy')  # FSDP puts the tensors together at its root, for rank 0
        own = wrapper.state_dict() if sharded else model.state_dict()
        with agreed():
            if is_main_process():
                share = check_match(own, checkpoint['state_dict'], source, self.strict, 'LoadGuardHook.strict')
                runner.logger.info(f'{source}: {share:.0%} of the {len(own)} tensors of the model match')
