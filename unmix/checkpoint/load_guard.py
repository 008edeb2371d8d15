"""No checkpoint of another model is loaded by accident."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.models.algorithms import Classifier
from unmix.models.pretrained import check_backbone, model_settings
from unmix.registry import HOOKS
from unmix.utils.dist import agreed, unwrap
from unmix.utils.matching import check_match


@HOOKS.register_module()
class LoadGuardHook(Hook):
    """Refuses a checkpoint (``--resume``, ``load_from``, ``tools/test.py``) whose tensors are not the model's.

    MMEngine loads what fits and warns about the rest, so that an evaluation may run on random weights.

    Stride, padding and max-pool of a stem do not show in tensors, so each checkpoint also says what its backbone is, in
    ``meta.model``, and is refused by another one.

    Args:
        strict: Whether all tensors must match, none missing and none too many. If not, those that fit are loaded, and
            a warning lists the others. As an option: ``--cfg-options custom_hooks.0.strict=False``.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write down what the model is."""
        if model := _config(runner):
            checkpoint.setdefault('meta', {})['model'] = model_settings(model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
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
        model = unwrap(wrapper)
        if isinstance(model, Classifier):  # without head it is a part of the checkpoint's model
            checkpoint['state_dict'] = model.select(checkpoint['state_dict'])
        sharded = hasattr(wrapper, 'sharding_strategy')  # torch's FSDP gathers the tensors at its root, for rank 0
        own = wrapper.state_dict() if sharded else model.state_dict()
        with agreed():
            if is_main_process():
                if self.strict:
                    check_backbone(_config(runner).get('backbone') or {}, checkpoint, source)
                share = check_match(own, checkpoint['state_dict'], source, self.strict, 'LoadGuardHook.strict')
                runner.logger.info(f'{source}: {share:.0%} of the {len(own)} tensors of the model match')


def _config(runner: Runner) -> Mapping[str, Any]:
    model = runner.cfg.get('model')
    return model if isinstance(model, Mapping) else {}
