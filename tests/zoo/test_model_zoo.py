"""Names, weights and networks of the zoo: the published ones, and a zoo of one's own on a local server."""

import os
import re
import runpy
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from file_server import FileServer, serving
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from PIL import Image
from pooch import file_hash
from torch import Tensor, nn

import unmix
from unmix.apis import build_runner, load_config
from unmix.apis.publish import publish_model
from unmix.cli import main
from unmix.converters import read_checkpoint
from unmix.converters.networks import below
from unmix.converters.proof import torchvision_resnet
from unmix.datasets import Digits
from unmix.evaluation import KNN, Features
from unmix.models.pretrained import load_pretrained
from unmix.registry import MODELS
from unmix.utils import download as download_module
from unmix.zoo import find_model

ROOT = Path(__file__).parents[2]
NAME, CONFIG = 'unmix-moco_digits', 'unmix::quickstart/unmix-moco_digits'
PUBLISHED = unmix.list_models(pretrained=True)
STEM = dict(kernel_size=3, stride=2, padding=1, maxpool=False)


def digits(split: str, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Normalised images (N, 1, 16, 16), as ``pretrained_cfg`` says, and labels."""
    data = Digits(split=split, size=16)
    return MODELS.build(model.pretrained_cfg['data_preprocessor']).normalize(data.images), data.labels


@torch.no_grad()
def features(model: nn.Module, split: str) -> Features:
    images, labels = digits(split, model)
    return Features(model(images), labels)


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_weights_have_the_accuracies_of_their_metafile(name: str) -> None:
    (result,) = find_model(name).content['Results']
    model = unmix.get_model(name)
    knn = KNN(k=20, temperature=0.1)(features(model, 'train'), features(model, 'test'))
    image = 100 / 540 + 0.01  # on another processor one of the test images may fall on the other side
    assert knn['top1'] == pytest.approx(result['Metrics']['kNN Top 1 Accuracy'], abs=image)
    classifier = unmix.get_model(name, classifier=True)
    scores, labels = features(classifier, 'test')
    top1 = 100 * (scores.argmax(1) == labels).double().mean().item()
    assert top1 == pytest.approx(result['Metrics']['Linear Classifier Top 1 Accuracy'], abs=image)
    assert not model.training
    assert not classifier.training


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_published_weights_compute_what_their_tensors_say(name: str) -> None:
    """Against functions of the tensors in the file, that share no module with the network."""
    file = unmix.zoo.download(name)
    content = torch.load(file, weights_only=True)
    tensors, written = content['state_dict'], content['meta']['model']
    model = unmix.get_model(name)
    images, _ = digits('test', model)
    network = torchvision_resnet(written['backbone'])
    network.load_state_dict(below(tensors, 'backbone.'), assign=True)
    with torch.no_grad():
        expected = network(images)
    scores = expected @ tensors['head.fc.weight'].T + tensors['head.fc.bias']
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)
        torch.testing.assert_close(unmix.get_model(name, classifier=True)(images), scores)
    assert {key: written['backbone'][key] for key in ('depth', 'width', 'in_channels', 'stem')} == dict(
        depth=8, width=16, in_channels=1, stem=STEM
    )
    assert written['data_preprocessor'] == model.pretrained_cfg['data_preprocessor']
    assert file.stat().st_size < 2 * 2**20


def test_the_converter_needs_no_guess_for_published_weights() -> None:
    converted = read_checkpoint(unmix.zoo.download(NAME), 'unmix')
    assert converted.stem == STEM


@pytest.mark.slow
def test_each_file_of_weights_belongs_to_a_model() -> None:
    assert set(ROOT.glob('configs/*/weights/*')) == {find_model(name).file for name in PUBLISHED} - {None}


def test_names_match_patterns() -> None:
    everything = unmix.list_models()
    assert everything == sorted(everything)
    assert unmix.list_models('*moco_digits') == ['moco_digits', 'unmix-moco_digits']
    assert unmix.list_models('no*such') == []
    assert set(PUBLISHED) < set(everything)
    configs = {path.stem for path in ROOT.glob('configs/*/*.py')} - {path.stem for path in ROOT.glob('configs/b*/*.py')}
    assert configs - {path.stem for path in ROOT.glob('configs/_base_/*.py')} <= set(everything)


def test_random_weights_of_any_model() -> None:
    with torch.device('meta'):
        model = unmix.get_model('unmix-mocov2_resnet50_8xb32-coslr-200e_in1k', pretrained=False)
    assert (model.out_dim, model.conv1.kernel_size) == (2048, (7, 7))
    assert model.pretrained_cfg['weights'] is None
    assert model.pretrained_cfg['data_preprocessor']['mean'] == [123.675, 116.28, 103.53]


@pytest.mark.parametrize(('name', 'channels'), [('cmc_digits', 1), ('unmix-moco_folder', 3)])
def test_images_are_prepared_as_in_the_pre_training(name: str, channels: int) -> None:
    """By colour space as well, and where the config does not name the type."""
    trained = MODELS.build(load_config(f'unmix::quickstart/{name}').model).eval()
    model = unmix.get_model(name, pretrained=False)
    images = torch.randint(256, (2, channels, 16, 16), dtype=torch.uint8)
    prepared = MODELS.build(model.pretrained_cfg['data_preprocessor']).normalize(images)
    assert torch.equal(prepared, trained.data_preprocessor.normalize(images))
    assert model(prepared).shape == trained.extract_feat(prepared).shape == (2, model.out_dim)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (
            lambda: unmix.get_model('unmix-moco_digit'),
            r"no model 'unmix-moco_digit'. Did you mean unmix-moco_digits or",
        ),
        (lambda: unmix.zoo.download('zzz'), r"no model 'zzz'. unmix.list_models\('\*moco\*'\) lists names"),
        (
            lambda: unmix.get_model('swav_digits'),
            r'swav_digits has no published weights.*unmix::quickstart/swav_digits',
        ),
        (lambda: unmix.get_model(NAME, False, classifier=True), 'give pretrained=True'),
    ],
)
def test_what_is_not_there(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_folder_without_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    with pytest.raises(ValueError, match=r"no model 'runs'\. The folder runs has no checkpoint"):
        unmix.get_model('runs')


@pytest.mark.slow
def test_the_functions_work_where_another_toolbox_has_run(tmp_path: Path) -> None:
    Image.new('L', (16, 16)).save(tmp_path / 'black.png')
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert isinstance(unmix.get_model('moco_digits', pretrained=False), nn.Module)
        unmix.extract_features('moco_digits', tmp_path)
        assert DefaultScope.get_current_instance().scope_name == 'mmengine'


@pytest.mark.slow
def test_a_name_of_the_zoo_is_a_checkpoint() -> None:
    content = CheckpointLoader.load_checkpoint(f'unmix::{NAME}', map_location='cpu')
    backbone = MODELS.build(load_config(CONFIG).model.backbone)
    load_pretrained(backbone, f'unmix::{NAME}', 'backbone.', 'model.pretrained')
    assert torch.equal(backbone.conv1.weight, content['state_dict']['backbone.conv1.weight'])


def test_an_evaluation_with_another_stem_is_refused() -> None:
    """Tensors have the same names and shapes for any stride of the stem."""
    cfg = load_config('unmix::benchmarks/frozen-resnet8_digits', {'model.backbone.stem.stride': 1}).model
    with pytest.raises(ValueError, match=r"model\.pretrained='unmix::.*another model: backbone\.stem is"):
        MODELS.build(dict(cfg, pretrained=f'unmix::{NAME}')).init_weights()


@pytest.mark.slow
def test_a_runner_takes_names_of_the_zoo_and_knows_their_files(tmp_path: Path) -> None:
    cfg = load_config('unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits', {'load_from': f'unmix::{NAME}'})
    cfg.model.pretrained, cfg.work_dir = f'unmix::{NAME}', str(tmp_path)
    runner = build_runner(cfg)
    file = str(unmix.zoo.download(NAME))
    assert (runner._load_from, runner.model.pretrained) == (file, file)


@pytest.mark.slow
def test_torch_hub_loads_from_the_checkout() -> None:
    def load(entry: str, **arguments: Any) -> Any:
        return torch.hub.load(str(ROOT), entry, source='local', **arguments)

    images, _ = digits('test', unmix.get_model(NAME))
    with torch.no_grad():
        for classifier in (False, True):
            ours = unmix.get_model(NAME, classifier=classifier)
            assert torch.equal(load('unmix_moco_digits', classifier=classifier)(images), ours(images))
    assert load('list_models', pretrained=True) == PUBLISHED
    names = {name for name, value in runpy.run_path(str(ROOT / 'hubconf.py')).items() if callable(value)}
    expected = {'get_model', 'list_models', *(name.replace('-', '_') for name in PUBLISHED)}
    assert {name for name in names if not name.startswith('_')} == expected


def test_the_table_of_the_page_is_that_of_the_metafiles() -> None:
    rows = []
    for name in PUBLISHED:
        content = find_model(name).content
        (result,) = content['Results']
        figures = ' | '.join(f'{value:.2f}' for value in result['Metrics'].values())
        size = unmix.zoo.download(name).stat().st_size / 1e6
        rows.append(f'| `{name}` | {result["Dataset"]} | {figures} | {size:.2f} MB |')
    page = (ROOT / 'docs' / 'model_zoo.md').read_text()
    assert re.findall(r'^\| `.*_.*` \| .* MB \|$', page, re.MULTILINE) == rows


# A zoo of one's own: MODEL is published from the weights of NAME to a folder that a server serves.

MODEL = 'my-model_digits'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(download_module, 'WAITS', (0.0,))
    for name, value in (('INDEX', 'own/model-index.yml'), ('HOME', 'cache')):
        monkeypatch.setenv({'INDEX': 'UNMIX_MODEL_INDEX', 'HOME': 'UNMIX_HOME'}[name], str(tmp_path / value))
    monkeypatch.delenv('UNMIX_MIRROR', raising=False)
    folder = tmp_path / 'own' / 'configs'
    folder.mkdir(parents=True)
    (folder / f'{MODEL}.py').write_text(f"_base_ = '{CONFIG}.py'\n")
    (tmp_path / 'own' / 'model-index.yml').write_text('Import: [configs/metafile.yml]\n')
    entry = f'  - Name: {MODEL}\n    Results: null\n    Config: configs/{MODEL}.py\n    Weights: null\n'
    (folder / 'metafile.yml').write_text(f'Models:\n{entry}')
    with serving(b'') as server:
        publish(tmp_path, server)
        yield server


def publish(folder: Path, server: FileServer, content: dict | None = None) -> Path:
    """Put a file to the server and its address and digest to the metafile, by ``publish_model`` or, if given, as is."""
    config = folder / 'own' / 'configs' / f'{MODEL}.py'
    if content is None:
        torch.manual_seed(1)
        state = MODELS.build(load_config(CONFIG).model).state_dict()
        torch.save(dict(meta=dict(time='20260102_030405'), state_dict=state), folder / 'epoch_1.pth')
        file = publish_model(str(config), str(folder / 'epoch_1.pth'), folder / 'out', server.url, backbone_only=True)
    else:
        torch.save(content, folder / 'content.pth')
        file = folder / 'content.pth'
        metafile = config.with_name('metafile.yml')
        text = re.sub(r' {4}Weights:(.*\n)*', '', metafile.read_text())
        metafile.write_text(f'{text}    Weights: {server.url}/x.pth\n    SHA256: {file_hash(file)}\n')
    server.content = file.read_bytes()
    return file


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError('a connection was tried')

    monkeypatch.setattr(socket.socket, 'connect', refuse)


@pytest.mark.slow
def test_an_own_model_comes_once_and_then_from_the_cache(own: FileServer, tmp_path: Path) -> None:
    assert MODEL in unmix.list_models(pretrained=True)
    own.cuts = [1000]
    model = unmix.get_model(MODEL, trust=True)
    weights = torch.load(tmp_path / 'epoch_1.pth')['state_dict']
    assert all(torch.equal(tensor, weights[f'backbone.{name}']) for name, tensor in model.state_dict().items())
    (file,) = (tmp_path / 'cache').iterdir()
    assert file.name == f'{MODEL}_20260102-{file_hash(file)[:8]}.pth'
    assert unmix.zoo.download(MODEL) == file
    assert own.requests == [None, None]
    assert unmix.zoo.download(MODEL, tmp_path / 'elsewhere') == tmp_path / 'elsewhere' / file.name

    file.write_bytes(file.read_bytes()[:-1])  # damaged in the cache
    assert unmix.zoo.download(MODEL) == file
    assert file.read_bytes() == own.content


@pytest.mark.slow
def test_changed_weights_are_refused_and_nothing_stays(own: FileServer, tmp_path: Path) -> None:
    own.content = own.content[:5000] + bytes([own.content[5000] ^ 1]) + own.content[5001:]
    with pytest.raises(ValueError, match='refused: its SHA-256'):
        unmix.get_model(MODEL, trust=True)
    assert list((tmp_path / 'cache').iterdir()) == []


@pytest.mark.slow
def test_a_mirror_directory_needs_no_network(own: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / 'mirror'
    mirror.mkdir()
    monkeypatch.setenv('UNMIX_MIRROR', str(mirror))
    with monkeypatch.context() as patch:
        no_network(patch)
        with pytest.raises(FileNotFoundError, match=rf'has no file {MODEL}_20260102-.* for {MODEL}'):
            unmix.get_model(MODEL, trust=True)
        (file,) = (tmp_path / 'out').iterdir()
        (mirror / file.name).write_bytes(b'something else')
        with pytest.raises(ValueError, match=rf'{re.escape(str(mirror / file.name))} is refused: its SHA-256'):
            unmix.get_model(MODEL, trust=True)
        (mirror / file.name).write_bytes(own.content)
        for address in (str(mirror), mirror.as_uri()):
            patch.setenv('UNMIX_MIRROR', address)
            assert unmix.get_model(MODEL, trust=True).pretrained_cfg['weights'] == str(mirror / file.name)
        copy = unmix.zoo.download(MODEL, tmp_path / 'taken')
        assert copy.read_bytes() == own.content
        assert unmix.zoo.download(NAME).is_file()  # what lies in the package needs no mirror
    assert own.requests == []
    assert not (tmp_path / 'cache').exists()


@pytest.mark.slow
def test_a_mirror_can_be_another_server(own: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(own.content) as mirror:
        monkeypatch.setenv('UNMIX_MIRROR', f'{mirror.url}/copies/')
        unmix.get_model(MODEL, trust=True)
        assert (mirror.requests, own.requests) == ([None], [])


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.path}',)


@pytest.mark.slow
def test_a_malicious_file_is_refused(own: FileServer, tmp_path: Path) -> None:
    publish(tmp_path, own, dict(state_dict=Touch(tmp_path / 'witness')))
    with pytest.raises(ValueError, match=r"refused: it holds 'posix\.system'"):
        unmix.get_model(MODEL, trust=True)
    assert not (tmp_path / 'witness').exists()


def random_backbone(**changes: Any) -> dict[str, Any]:
    """A checkpoint of another backbone than MODEL's."""
    config = load_config(CONFIG).model.backbone.to_dict() | changes
    state = MODELS.build(config).state_dict()
    return dict(meta=dict(model=dict(backbone=config)), state_dict={f'backbone.{key}': x for key, x in state.items()})


@pytest.mark.slow
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (lambda: dict(random_backbone(width=8), meta={}), r'weights of my-model_digits, is .* another model: \d+% of'),
        (lambda: random_backbone(width=8), r'another model: backbone\.width is 8 there and 16 here'),
        (lambda: random_backbone(stem='cifar'), r'another model: backbone\.stem is .*1.* there and .*2.* here'),
        (lambda: random_backbone()['state_dict'], r"has no 'state_dict' but \['backbone\.bn1\.bias'"),
        (lambda: dict(state_dict={}), r'another model: 0% of the'),
    ],
    ids=['width by shape', 'width', 'stem, which no shape shows', 'bare tensors', 'empty'],
)
def test_weights_of_another_network_are_refused(
    content: Callable[[], dict], message: str, own: FileServer, tmp_path: Path
) -> None:
    publish(tmp_path, own, content())
    with pytest.raises(ValueError, match=message):
        unmix.get_model(MODEL, trust=True)


@pytest.mark.slow
def test_a_classifier_must_have_been_published(own: FileServer) -> None:
    with pytest.raises(ValueError, match='has no linear classifier but a backbone only; take classifier=False'):
        unmix.get_model(MODEL, classifier=True, trust=True)


@pytest.mark.slow
@pytest.mark.parametrize('lrs', [None, (10.0, 1.0)])
@pytest.mark.parametrize('layer', [None, 2])
def test_the_classifier_of_a_linear_evaluation(lrs: Any, layer: int | None, tmp_path: Path) -> None:
    """With its control beside it; of several learning rates the best one, as ``results.json`` says."""
    cfg = load_config('unmix::benchmarks/linear_resnet8_1xb128-coslr-20e_digits')
    cfg.model.head.lrs = lrs
    if layer is not None:
        cfg.model.update(layer=layer, pool=2)
    cfg.dump(tmp_path / 'linear.py')
    with DefaultScope.overwrite_default_scope('unmix'):
        model = MODELS.build(cfg.model).eval()
    for layers in model.modules():
        if isinstance(layers, nn.Linear):
            nn.init.normal_(layers.weight)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(config='linear')), tmp_path / 'epoch_1.pth')
    if lrs is not None:
        with pytest.raises(ValueError, match=r'several learning rates, and .*results\.json, which says .* is missing'):
            unmix.get_model(tmp_path / 'epoch_1.pth', classifier=True)
        (tmp_path / 'results.json').write_text('{"accuracy": {"head": 1.0}}')
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.head.logits(model.extract_feat(images))
        scores = unmix.get_model(tmp_path / 'epoch_1.pth', classifier=True)(images)
    assert torch.equal(scores, expected if lrs is None else expected[:, 1])


def linear_evaluation(folder: Path, **changes: Tensor) -> str:
    """Checkpoint of a classifier on the backbone that ``publish`` publishes; ``changes`` by name, ``_`` for dots."""
    state = torch.load(folder / 'epoch_1.pth')['state_dict']
    state = {name: tensor for name, tensor in state.items() if name.startswith('backbone.')}
    state |= {
        'head.fc.weight': torch.randn(10, 64),
        'head.fc.bias': torch.randn(10),
        'control.head.fc.bias': 0 * state['backbone.bn1.bias'],
    }
    torch.save(
        dict(state_dict=state | {name.replace('_', '.'): x for name, x in changes.items()}), folder / 'linear.pth'
    )
    return str(folder / 'linear.pth')


@pytest.mark.slow
def test_a_published_classifier_comes_with_its_backbone(own: FileServer, tmp_path: Path) -> None:
    config, linear = str(tmp_path / 'own' / 'configs' / f'{MODEL}.py'), linear_evaluation(tmp_path)
    checkpoint, folder = str(tmp_path / 'epoch_1.pth'), tmp_path / 'own' / 'weights'
    with pytest.raises(ValueError, match=r'(?s)published weights of .*\n- SHA256: .*\n\+ SHA256: .*--replace'):
        publish_model(config, checkpoint, folder, classifier=linear)
    assert not list(folder.iterdir())
    file = publish_model(config, checkpoint, folder, classifier=linear, replace=True)
    assert find_model(MODEL).content['Weights'] == f'weights/{file.name}'
    classifier = unmix.get_model(MODEL, classifier=True, trust=True)
    weights = torch.load(linear)['state_dict']
    assert classifier.state_dict().keys() == weights.keys() - {'control.head.fc.bias'}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in classifier.state_dict().items())
    assert own.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            dict(backbone_bn1_bias=torch.ones(16)),
            r'linear\.pth is not that of .*epoch_1\.pth: backbone\.bn1\.bias differs',
        ),
        (dict(head_fc_0_bias=torch.ones(10)), r'no single linear classifier but head.*model\.head\.lrs=None'),
    ],
    ids=['another backbone', 'several layers'],
)
def test_a_classifier_of_another_backbone_is_not_published(
    changes: dict[str, Tensor], message: str, own: FileServer, tmp_path: Path
) -> None:
    config, linear = str(tmp_path / 'own' / 'configs' / f'{MODEL}.py'), linear_evaluation(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        publish_model(config, str(tmp_path / 'epoch_1.pth'), tmp_path / 'own' / 'weights', classifier=linear)
    assert not (tmp_path / 'own' / 'weights').exists()


def change(metafile: Path, **changes: str | None) -> None:
    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    content['Models'][0] |= changes
    metafile.write_text(yaml.safe_dump(content), encoding='utf-8')


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (dict(SHA256=None), ValueError, r'entry of my-model_digits has Weights, and SHA256: none; expected 64'),
        (dict(Name='moco_digits'), ValueError, r'moco_digits of .*metafile\.yml is already in'),
        (dict(Weights='no.pth'), FileNotFoundError, r'weights of my-model_digits, .*no\.pth, do not exist'),
    ],
)
def test_errors_of_a_metafile(
    changes: dict, error: type[Exception], message: str, own: FileServer, tmp_path: Path
) -> None:
    change(tmp_path / 'own' / 'configs' / 'metafile.yml', **changes)
    with pytest.raises(error, match=message):
        unmix.zoo.download(MODEL)
    (tmp_path / 'own' / 'configs' / 'metafile.yml').write_text('Models: [{Name: x}]')
    with pytest.raises(ValueError, match=r'metafile\.yml has a model without Name or Config'):
        unmix.list_models()
    (tmp_path / 'own' / 'configs' / 'metafile.yml').write_text('Models: [')
    with pytest.raises(ValueError, match=r'metafile\.yml is no YAML: .* line \d'):
        unmix.list_models()
    (tmp_path / 'own' / 'model-index.yml').unlink()
    with pytest.raises(FileNotFoundError, match=r'model-index\.yml does not exist; UNMIX_MODEL_INDEX names it'):
        unmix.list_models()


@pytest.mark.slow
@pytest.mark.parametrize(('text', 'message'), [
    ('[1, 2]', 'holds a list; expected Import or Models'),
    ('Models: 3', r'Models is 3 \(int\); expected a list of mappings'),
    ('Models: [a, b]', r"Models is \['a', 'b'\] \(list\); expected a list of mappings"),
    ('Models: [{Name: 1, Config: c.py}]', r'model 1: Name is 1 \(int\); expected a str'),
    ('Models: [{Name: x, Config: [c.py]}]', r'model x: Config is .* \(list\); expected a str'),
    ('Models: [{Name: x, Config: c.py, Weights: 3}]', r'model x: Weights is 3 \(int\); expected a str'),
    ('Models: [{Name: x, Config: c.py, Metadata: y}]', r"model x: Metadata is 'y' \(str\); expected a dict"),
    ('Models: [{Name: x, Config: c.py, Results: {a: 1}}]', r'model x: Results is .* \(dict\); expected a list'),
    ('Models: [{Name: x, Config: c.py, Results: [1]}]', r'model x: Results has 1 \(int\); expected mappings with Met'),
    ('Models: [{Name: x, Config: c.py, Results: [{Metrics: 3}]}]', r'model x: Results has .* expected mappings'),
    ('a: !!python/object/apply:os.getcwd []', 'is no YAML: could not determine a constructor'),
    ('d: 2026-99-99', 'is no YAML: month must be in 1..12'),
    ('d: \x00', 'is no YAML: unacceptable character'),
])  # fmt: skip
def test_malformed_metafiles(text: str, message: str, own: FileServer, tmp_path: Path) -> None:
    metafile = tmp_path / 'own' / 'configs' / 'metafile.yml'
    metafile.write_text(text)
    with pytest.raises(ValueError, match=rf'metafile\.yml.* ?{message}'):
        unmix.list_models()


@pytest.mark.slow
def test_a_malformed_index(own: FileServer, tmp_path: Path) -> None:
    (tmp_path / 'own' / 'model-index.yml').write_text('Import: configs/metafile.yml')
    with pytest.raises(ValueError, match=r"model-index\.yml: Import is 'configs/metafile\.yml' .* a list of paths"):
        unmix.list_models()
    (tmp_path / 'own' / 'model-index.yml').write_bytes('Import: [ä.yml]'.encode('latin-1'))
    with pytest.raises(ValueError, match=r'model-index\.yml is no YAML: '):
        unmix.list_models()


CONFIGS = {
    'evil.py': "open({witness!r}, 'w').close()\nmodel = dict(type='MoCo', backbone=dict(type='ResNet', depth=8))\n",
    'evil.yaml': 'model: {{backbone: {{type: pathlib.Path.touch, self: !!python/object/apply:open [{witness}, w]}}}}\n',
    'evil.yml': '_base_: evil.py\n',
    'evil.json': '{{"custom_imports": {{"imports": ["evil"]}}, "model": {{"backbone": {{"type": "ResNet"}}}}}}\n',
}


@pytest.mark.slow
@pytest.mark.parametrize('config', CONFIGS)
def test_configs_of_another_index_are_read_only_with_trust(
    config: str, own: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    witness = tmp_path / 'witness'
    for name, text in CONFIGS.items():
        (tmp_path / 'own' / 'configs' / name).write_text(text.format(witness=str(witness)))
    monkeypatch.syspath_prepend(str(tmp_path / 'own' / 'configs'))
    file = publish(tmp_path, own)
    change(tmp_path / 'own' / 'configs' / 'metafile.yml', Config=f'configs/{config}')
    for call in (
        lambda: unmix.get_model(MODEL),
        lambda: unmix.get_model(MODEL, pretrained=False),
        lambda: unmix.extract_features(MODEL, tmp_path),
    ):
        with pytest.raises(ValueError, match=rf'{MODEL} is of the index .*{config} can execute any code.*trust=True'):
            call()
    assert MODEL in unmix.list_models(pretrained=True)
    assert unmix.zoo.download(MODEL).read_bytes() == file.read_bytes()
    assert CheckpointLoader.load_checkpoint(f'unmix::{MODEL}', 'cpu', None)['state_dict']
    main(['download', MODEL, '--directory', str(tmp_path / 'here')])
    assert 'without its config: ' in capsys.readouterr().out
    assert [path.suffix for path in (tmp_path / 'here').iterdir()] == ['.pth']
    assert not witness.exists()


@pytest.mark.slow
def test_trust_on_the_command_line(own: FileServer, tmp_path: Path) -> None:
    publish(tmp_path, own)
    main(['download', MODEL, '--directory', str(tmp_path / 'here'), '--trust'])
    assert {path.name for path in (tmp_path / 'here').iterdir()} >= {f'{MODEL}.py'}
    Image.new('L', (16, 16)).save(tmp_path / 'black.png')
    out = tmp_path / 'out.npz'
    with pytest.raises(SystemExit):
        main(['features', MODEL, str(tmp_path), '--out', str(out)])
    assert not out.exists()
    main(['features', MODEL, str(tmp_path), '--out', str(out), '--trust', '--num-workers', '0'])
    assert out.exists()
