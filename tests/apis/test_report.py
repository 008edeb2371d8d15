"""The report of a run, its remaking, the list and the comparison of runs; read as files, and in a browser."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from engine_toy import SignalHook
from PIL import Image

from unmix.apis import build_runner, load_config
from unmix.apis.compare import comma_separated, grouped, paired
from unmix.cli import main
from unmix.engine import feature_pictures
from unmix.utils.run_files import RunFiles, find_runs, read_flat_config
from unmix.visualization.report import report_page, write_report

EVIL = '<script>alert(1)'
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason='there is no chromium or google-chrome')


def train(work_dir, images, labelled, seed=0, stop=None, unmix=True, **options):
    """Train a small network on a folder for two epochs of three steps; stop in the middle of step ``stop``."""
    dataset = dict(type='ImageFolder', data_root=str(images), labelled=labelled)
    options = {
        'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1, 'randomness.seed': seed,
        'train_dataloader.batch_size': 8, 'model.backbone.in_channels': 3, 'data_preprocessor.mean': [100.0] * 3,
        'data_preprocessor.std': [90.0] * 3, 'model.backbone.width': 4, 'model.backbone.num_splits': 1,
        'model.neck.in_dim': 16, 'model.neck.hidden_dim': 16, 'model.neck.out_dim': 8, 'model.head.dim': 8,
        'model.head.queue_size': 16, 'default_hooks.logger.interval': 1, 'default_hooks.health.interval': 2,
    } | options  # fmt: skip
    cfg = load_config(f'quickstart/{"unmix-" * unmix}moco_digits', options)
    views = dict(type='MultiView', num_views=2, transforms=[dict(type='RandomHorizontalFlip')])
    cfg.train_dataloader.dataset = dict(dataset, pipeline=views)
    for stage in ('val', 'test'):
        if not labelled:
            for key in ('cfg', 'dataloader', 'evaluator'):
                cfg[f'{stage}_{key}'] = None
            continue
        cfg[f'{stage}_dataloader'].dataset = cfg[f'{stage}_cfg'].bank_dataloader.dataset = dict(dataset)
        cfg[f'{stage}_evaluator'] = [dict(type='KNN', k=3)]
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    runner = build_runner(cfg)
    if stop is not None:
        runner.register_hook(SignalHook(stop))
        with pytest.raises(SystemExit):
            runner.train()
        return runner
    runner.train()
    if labelled:
        runner.test()
    return runner


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Work dirs: a run on class folders that was tested, one that was interrupted, one without labels."""
    folder = tmp_path_factory.mktemp('runs')
    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / 'images' / ('b', EVIL)[number % 2] / f'{number:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.random((16, 16)) * 100 + 100 * (number % 2)).astype(np.uint8)).save(path)
    out = folder / EVIL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_pictures, '_SHARE', 0)  # no t-SNE, however slow the machine is
        train(out / 'tested', folder / 'images', True)
        train(out / 'interrupted', folder / 'images', True, stop=4)
        train(out / 'unlabelled', folder / 'images', False)
    return out


class Tags(HTMLParser):
    """Start tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.mark.slow
def test_the_page_says_what_was_run_and_escapes_it(runs):
    text = (runs / 'tested' / 'report.html').read_text()
    assert 'MoCo + Un-Mix' in re.search('<title>(.*?)</title>', text)[1]
    tags = Tags(text)
    assert [tag.get('type') for tag in tags.named('script')] == ['application/json', None, None]
    assert not [tag for _, tag in tags.found if any(key.startswith('on') for key in tag)]
    addresses = [tag.get('src') or tag.get('href') for _, tag in tags.found if 'src' in tag or 'href' in tag]
    assert all(address.startswith('data:') for address in addresses)
    assert text.count('&lt;script&gt;alert(1)') > 3
    assert len(text) < 2_000_000
    results = json.loads((runs / 'tested' / 'results.json').read_text())['knn']
    for value in (results['top1'], results['random_init_top1'], results['raw_pixels_top1']):
        assert f'<td class="number">{value:.1f}</td>' in text
    for words in ('ended, 2 of 2 epochs', 'to repeat it', 'moco_digits.py:', '--cfg-options, instead of', 'seed 0'):
        assert words in text, words
    facts = json.loads((runs / 'tested' / 'report.json').read_text())
    assert (facts['images'], facts['batch'], facts['epochs'], len(facts['starts'])) == (24, 8, 2, 1)
    assert facts['embedding']['classes'] == [EVIL, 'b']
    assert 'of the class of their image' in facts['neighbours']['caption']
    assert Image.open(runs / 'tested' / 'neighbours.png').size > (500, 500)
    assert not list(runs.rglob('.report*'))  # no temporary file is left


@pytest.mark.slow
def test_the_state_of_each_run_is_told(runs, capsys):
    pages = {name: (runs / name / 'report.html').read_text() for name in ('interrupted', 'unlabelled')}
    assert 'interrupted before its end, 1 of 2 epochs' in pages['interrupted']
    assert 'Top-1 accuracy in percent of the last validation, epoch 1' in pages['interrupted']
    assert 'class="bars"' in pages['interrupted']  # one validation is a bar
    assert 'ended, 2 of 2 epochs' in pages['unlabelled']
    assert all((runs / name / 'neighbours.png').is_file() for name in pages)
    main(['runs', str(runs)])
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ['RUN', 'METHOD', 'DATA', 'SEED', 'EPOCHS', 'STATE', 'KNN', 'LINEAR', 'DATE']
    cells = [re.split(' {2,}', line) for line in lines]
    assert [(row[0], row[4], row[5]) for row in cells] == [
        ('interrupted', '1/2', 'interrupted'), ('tested', '2/2', 'ended'), ('unlabelled', '2/2', 'ended')]  # fmt: skip
    tested = json.loads((runs / 'tested' / 'results.json').read_text())['knn']['top1']
    assert cells[1][6] == f'{tested:.1f}'


@pytest.mark.slow
def test_the_report_is_made_again(runs, capsys, tmp_path):
    shutil.copytree(runs / 'tested', tmp_path / 'copy')
    (tmp_path / 'copy' / 'report.html').unlink()
    log = next((tmp_path / 'copy').glob('*/vis_data')).parent
    main(['report', str(log)])  # the folder of a start will do
    assert capsys.readouterr().out.strip() == str(tmp_path / 'copy' / 'report.html')
    facts = json.loads((tmp_path / 'copy' / 'report.json').read_text())
    assert [len(points) for points in facts['embedding']['points'].values()][:2] == [24, 24]
    assert 't-SNE' in (tmp_path / 'copy' / 'report.html').read_text()
    with pytest.raises(SystemExit):
        main(['report', str(runs)])
    assert 'holds no run' in (said := capsys.readouterr().err)
    assert 'Give one below it' in said


@pytest.mark.slow
def test_what_cannot_be_written_is_a_warning(runs, tmp_path):
    """The training ends as without; nothing half written is left."""
    for name in ('report.html', 'neighbours.png', 'curves.png'):
        (tmp_path / 'run' / name / 'in the way').mkdir(parents=True)
    train(tmp_path / 'run', runs.parent / 'images', True)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    for name in ('report.html', 'neighbours.png', 'curves.png'):
        assert log.count(f'{name} could not be made') == 1
    assert (tmp_path / 'run' / 'results.json').is_file()
    assert not [path for path in (tmp_path / 'run').iterdir() if path.name[0] == '.' and path.name != '.lock']


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(('name', 'plots', 'rows'), [('tested', 14, 3), ('interrupted', 13, 1), ('unlabelled', 13, 0)])
def test_a_browser_shows_plots_and_no_error(runs, name, plots, rows, tmp_path):
    dom, said = browse(runs / name / 'report.html', tmp_path)
    assert 'CONSOLE' not in said
    assert '<title>MoCo + Un-Mix on ImageFolder' in dom
    assert dom.count('<canvas') == dom.count('class="plot"') == plots
    results = dom.partition('<h2>Results</h2>')[2].partition('<h2>')[0]
    assert max(results.count('<tr') - 1, 0) == rows


def browse(path, profile):
    """Return the DOM of a page, and what the browser has said."""
    command = [
        BROWSER, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={profile}', '--enable-logging=stderr',
        '--window-size=390,800', '--virtual-time-budget=2000', '--dump-dom', path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def fake_run(folder, seed, top1, unmix=False, accuracies=(), **facts):
    """Write the files of a run."""
    stamp = f'20260101_00000{seed}'
    logs = folder / stamp / 'vis_data'
    logs.mkdir(parents=True)
    extra = ", unmix=dict(type='UnMix')" if unmix else ''
    config = f"model = dict(type='MoCo'{extra})\nrandomness = dict(seed={seed})\ntrain_cfg = dict(max_epochs=2)\n"
    (logs / 'config.py').write_text(config + 'train_dataloader = dict(batch_size=10)\n')
    records = [dict(step=step, loss=3.0 - step, lr=0.1, epoch=step) for step in (1, 2)]
    records += [{'step': epoch, 'knn/top1': value} for epoch, value in enumerate(accuracies, start=1)]
    (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n{"step": 3, "lo')  # killed
    run = [[f'{stamp}_0', 0]]
    (folder / 'run.json').write_text(json.dumps(dict(run=run, finished=2)))
    (folder / 'results.json').write_text(json.dumps(dict(knn=dict(top1=top1), seed=seed, epochs=2)))
    (folder / 'report.json').write_text(json.dumps(dict(run=run[0][0], starts=[dict(seconds=60)], **facts)))
    return RunFiles(folder)


@pytest.mark.slow
def test_seeds_are_paired(tmp_path, capsys):
    for seed, (plain, mixed) in enumerate([(50.0, 53.0), (60.0, 61.0), (55.0, 60.0)], start=1):
        fake_run(tmp_path / 'runs' / f'plain{seed}', seed, plain, accuracies=[40, plain])
        fake_run(tmp_path / 'runs' / f'mixed{seed}', seed, mixed, unmix=True, accuracies=[40, mixed])
    groups = grouped([RunFiles(path) for path in find_runs(tmp_path / 'runs')])
    assert [(group.name, group.unmix, len(group.runs), group.base) for group in groups] == [
        ('MoCo + Un-Mix', True, 3, 0), ('MoCo', False, 3, 0)]  # fmt: skip
    assert paired(groups)[1] == [['MoCo + Un-Mix - MoCo', '1, 2, 3', '+3.00 ± 2.00 (n=3)']]
    rows = list(csv.DictReader(io.StringIO(comma_separated(groups))))
    assert [(row['seed'], row['knn'], row['seconds'], row['images_seen']) for row in rows[3:]] == [
        ('1', '50.0', '60.0', '20'), ('2', '60.0', '60.0', '20'), ('3', '55.0', '60.0', '20')]  # fmt: skip
    main(['compare', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out')])
    printed = capsys.readouterr().out
    assert '| MoCo | 1, 2, 3 | 55.00 ± 5.00 (n=3) | 2 | 0:01:00 | 20 | ended |' in printed
    assert printed.startswith((tmp_path / 'out' / 'compare.md').read_text())
    assert "| model.unmix.type | 'UnMix' | - |" in printed
    page = (tmp_path / 'out' / 'compare.html').read_text()
    spec = json.loads(re.search('id="plots">(.*?)</script>', page)[1])[0]
    assert [(one['label'], one['dash'], one['values']) for one in spec['series']] == [
        ('MoCo + Un-Mix', False, [40, 58]), ('MoCo', True, [40, 55])]  # fmt: skip
    assert Image.open(tmp_path / 'out' / 'accuracy.png').size > (400, 300)


def test_an_earlier_run_in_the_work_dir_is_not_of_this_one(tmp_path):
    run = fake_run(tmp_path, 1, 50.0, accuracies=[40, 50])
    later = '29990101_000000'  # begins after all files were written
    (tmp_path / 'run.json').write_text(json.dumps(dict(run=[[f'{later}_1', 0]])))
    run = RunFiles(tmp_path)
    assert (run.logs, run.results, run.facts, run.state) == ([], {}, {}, 'interrupted')
    assert 'Nothing is logged yet' in report_page(run)


def test_runs_of_another_program_are_read(tmp_path):
    """MMEngine leaves neither run.json nor report.json; several starts are one run."""
    for stamp, steps in (('20260101_000000', (1, 2, 3)), ('20260102_000000', (3, 4))):
        logs = tmp_path / stamp / 'vis_data'
        logs.mkdir(parents=True)
        (logs / 'scalars.json').write_text(
            ''.join(json.dumps(dict(step=s, loss=float(s), epoch=s)) + '\n' for s in steps)
        )
        (logs / 'config.py').write_text("model = dict(type='BYOL')\nrandomness = dict(seed=5)\n")
    run = RunFiles(tmp_path)
    assert (run.method, run.seed, run.state, len(run.logs)) == ('BYOL', 5, 'unknown', 2)
    assert 'BYOL' in write_report(tmp_path).read_text()


def test_a_flat_config_is_read_without_being_run(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text("a = dict(b=[1, dict(c='d')], e={'f g': (-1, None)})\nh = print('run')\nimport os\n")
    assert read_flat_config(file) == dict(a={'b': [1, {'c': 'd'}], 'e': {'f g': [-1, None]}}, h="print('run')")


@pytest.mark.slow
def test_the_list_of_runs_imports_no_torch(tmp_path):
    fake_run(tmp_path / 'run', 3, 50.0)
    script = (
        'import sys\nfrom unmix.cli import main\nmain(sys.argv[1:])\n'
        "assert not {'torch', 'mmengine', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', script, 'runs', str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == [
        'run', 'MoCo', '-', '3', '2/2', 'ended', '50.0', '-', *done.stdout.split()[-2:]]  # fmt: skip
