"""Entry points for ``torch.hub``; see docs/model_zoo.md.

model = torch.hub.load(CHECKOUT, 'unmix_moco_digits', source='local')                    # a backbone
model = torch.hub.load(CHECKOUT, 'unmix_moco_digits', source='local', classifier=True)   # with its linear classifier
names = torch.hub.load(CHECKOUT, 'list_models', source='local', pattern='*cifar10')
model = torch.hub.load(CHECKOUT, 'get_model', source='local', name=names[0], pretrained=False)

Each model with published weights has an entry point of its own, by its name with underscores.
"""

from collections.abc import Callable as _Callable

from torch import nn as _nn

from unmix import get_model, list_models

dependencies = ['torch', 'torchvision', 'numpy', 'mmengine', 'cv2', 'sklearn', 'matplotlib', 'rich', 'yaml']


def _entry_point(name: str) -> _Callable[..., _nn.Module]:
    def load(pretrained: bool = True, classifier: bool = False) -> _nn.Module:
        return get_model(name, pretrained, classifier)

    load.__name__ = name.replace('-', '_')
    load.__doc__ = f'The backbone of {name}, or its linear classifier; see get_model.'
    return load


for _name in list_models(pretrained=True):
    globals()[_name.replace('-', '_')] = _entry_point(_name)

__all__ = ['dependencies', 'get_model', 'list_models']
