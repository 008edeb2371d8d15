"""Hook that refuses checkpoints of other models."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.models.algorithms import Classifier
from unmix.models.pretrained import check_backbone, model_settings
from unmix.registry import HOOKS
from unmix.utils.dist import agreed, unwrap
from unmix.utils.matching import check_match, tensors_of


@HOOKS.register_module()
class LoadGuardHook(Hook):
    """Refuses a checkpoint (``--resume``, ``load_from``, ``tools/test.py``) whose tensors are not the model's.

    MMEngine loads the tensors that fit and warns about the others, so that an evaluation may run on random weights.

    Tensors do not show stride, padding and max-pool of a stem. Therefore each checkpoint has the settings of its
    backbone in ``meta.model``, and a model with other settings refuses it. What one of them omits has its default.

    Args:
        strict: Whether all tensors must match, none missing and none too many. If not, those that fit are loaded, and
            a warning lists the others. As an option: ``--cfg-options custom_hooks.0.strict=False``.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Write the settings of the backbone to ``meta.model``."""
        if model := _config(runner):
            checkpoint.setdefault('meta', {})['model'] = model_settings(model)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the model before any tensor is copied.

        Raises:
            ValueError: If the checkpoint is of another model, or has no state dict.
        """
        source = str(runner._load_from or 'The latest checkpoint of the work dir')
        wrapper = runner.model
        model = unwrap(wrapper)
        sharded = hasattr(wrapper, 'sharding_strategy')  # FSDP of torch gathers the tensors at its root, on rank 0
        own = wrapper.state_dict() if sharded else model.state_dict()
        if not sharded or is_main_process():
            checkpoint['state_dict'] = tensors_of(checkpoint, source, own)
        if isinstance(model, Classifier):  # it has no head, so it needs a part of the tensors only
            checkpoint['state_dict'] = model.select(checkpoint['state_dict'])
        with agreed():
            if is_main_process():
                if self.strict:
                    check_backbone(_config(runner).get('backbone') or {}, checkpoint, source)
                share = check_match(own, checkpoint['state_dict'], source, self.strict, 'LoadGuardHook.strict')
                runner.logger.info(f'{source}: {share:.0%} of the {len(own)} tensors of the model match')


def _config(runner: Runner) -> Mapping[str, Any]:
    model = runner.cfg.get('model')
    return model if isinstance(model, Mapping) else {}
