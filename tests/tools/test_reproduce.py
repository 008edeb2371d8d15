"""Tables of results, from runs that are there already: plan, statistics, files; and the pages that show them."""

import csv
import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from unmix.apis import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def tools() -> Any:
    """The modules of the tools; their folder is on no path otherwise."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT))
    try:
        names = ['reproduce', 'results', *(f'evidence.{name}' for name in ('plan', 'runs', 'estimates', 'tables'))]
        modules = {name.rpartition('.')[2]: importlib.import_module(f'tools.{name}') for name in names}
        yield SimpleNamespace(**modules)
    finally:
        sys.path[:] = before


def finished(folder: Path, knn: float) -> None:
    """A run with this accuracy; raw pixels have 50, untrained networks 40."""
    controls = dict(raw_pixels_top1=50.0, random_init_top1=40.0)
    folder.mkdir(parents=True)
    results = {metric: dict(controls, top1=knn) for metric in ('knn', 'linear', 'linear_10_per_class')}
    start = dict(commit='c0ffee', versions=dict(torch='2'), machine='one core', seconds=61.4)
    (folder / 'results.json').write_text(json.dumps(results))
    (folder / 'report.json').write_text(json.dumps(dict(starts=[start])))


@pytest.mark.slow
def test_a_table_of_finished_and_missing_runs(
    tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [tools.plan.Arm('moco', 'plain', tools.plan.digits('moco'), planned=3),
            tools.plan.Arm('moco', 'full', tools.plan.digits('moco', True), planned=3)]  # fmt: skip
    place = tools.runs.Place(tmp_path / 'work', 1, 'cpu')
    for seed, values in enumerate([(90.0, 92.0), (94.0, 97.0)]):
        for arm, value in zip(arms, values, strict=True):
            finished(place.of(arm, seed), value)
    trained = []

    def run(command: list[str], **_: Any) -> Any:
        """Train the run that the command is for, but for the second one, which fails."""
        trained.append(command)
        if len(trained) == 1:
            finished(Path(command[command.index('--work-dir') + 1], '..', 'other'), 0.0)
            finished_at = Path(command[command.index('--work-dir') + 1])
            for name in ('results.json', 'report.json'):
                (finished_at / name).write_text(
                    (finished_at.parent / 'other' / name).read_text().replace('0.0', '95.0')
                )
        return type('Ended', (), dict(returncode=len(trained) - 1))

    monkeypatch.setitem(tools.plan.TABLES, 'methods', lambda: iter(arms))
    monkeypatch.setattr(tools.runs.subprocess, 'run', run)
    arguments = ['methods', '--work-dir', str(tmp_path / 'work'), '--results', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *arguments, '--seeds', '2'])
    tools.reproduce.main()
    assert trained == []  # nothing is repeated
    content = json.loads((tmp_path / 'methods.json').read_text())
    plain, full = content['arms']
    assert (plain['seeds'], plain['top1']['knn'], full['top1']['linear']) == ([0, 1], [90.0, 94.0], [92.0, 97.0])
    assert (plain['raw_pixels']['knn'], plain['random_init']['knn'], plain['seconds']) == (50.0, [40.0, 40.0], [61, 61])
    assert (plain['digest'], len(content['environments'])) == (tools.runs.digest(arms[0], 1), 1)
    assert content['environments'][0] == dict(
        commit='c0ffee', versions=dict(torch='2'), machine='one core', device='cpu'
    )
    # What the table has recorded is not repeated where the work directories are gone, and stays in the table.
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *arguments, '--work-dir', str(tmp_path / 'new'), '--seeds', '2'])
    tools.reproduce.main()
    assert (trained, json.loads((tmp_path / 'methods.json').read_text())) == ([], content)
    assert tools.runs.recorded(tmp_path, 2, 'cpu') == tools.runs.recorded(tmp_path, 1, 'cuda') == {}  # other results
    # Of two values a and b the 95 % t-interval is 12.706 |a - b| / 2.
    text = (tmp_path / 'work' / 'methods.md').read_text()
    assert '| MoCo | plain | 150 | 2 of 3 | 92.0 ± 25.4 |' in text
    assert '| MoCo | Un-Mix minus plain | 2 | +2.5 ± 6.4 | 0.13 | not decided |' in text
    assert 'Seeds are missing: MoCo (2 of 3 each).' in text
    lines = list(csv.DictReader((tmp_path / 'work' / 'methods.csv').open()))
    assert [(line['column'], line['seed'], line['knn'], line['commit']) for line in lines[:2]] == [
        ('plain', '0', '90.0', 'c0ffee'), ('plain', '1', '94.0', 'c0ffee')]  # fmt: skip
    assert (tmp_path / 'work' / 'methods.png').stat().st_size > 1000
    capsys.readouterr()
    # All that is planned: seed 2 of both is trained, one fails; the table is written all the same.
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', *arguments])
    with pytest.raises(SystemExit, match='1 runs failed: moco, full, seed 2'):
        tools.reproduce.main()
    assert [command[2] for command in trained] == [arm.config for arm in arms]
    assert 'randomness.seed=2' in trained[0]
    assert '--resume' in trained[0]
    assert json.loads((tmp_path / 'methods.json').read_text())['arms'][0]['seeds'] == [0, 1, 2]
    assert 'missing: moco, plain, seed 2' in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_known_by_what_determines_its_result(tools: Any) -> None:
    config = tools.plan.digits('moco')
    same = tools.runs.digest(tools.plan.Arm('moco', 'plain', config), 1)
    assert tools.runs.digest(tools.plan.Arm('moco', 'x', config, {'default_hooks.checkpoint.interval': 7}), 1) == same
    changes: list[dict[str, Any]] = [{'optim_wrapper.optimizer.lr': 0.1}, {'train_dataloader.dataset.split': 'fit'}]
    others = [tools.runs.digest(tools.plan.Arm('moco', 'plain', config, change), 1) for change in changes]
    assert len({same, *others, tools.runs.digest(tools.plan.Arm('moco', 'plain', config), 2)}) == len(changes) + 2


@pytest.mark.slow
def test_the_search_is_on_other_writers_and_widens_where_the_best_is_at_its_edge(tools: Any) -> None:
    scores = {('vicreg', 'lr 0.004'): 97.0, ('moco', 'lr 0.1'): 97.0, ('simsiam', 'lr 0.1'): 97.0}
    arms = list(tools.plan.tune(lambda arm: scores.get((arm.row, arm.column), 96.0)))
    columns = {row: [arm.column for arm in arms if arm.row == row] for row in (*tools.plan.OLD, *tools.plan.NEW)}
    assert columns['vicreg'] == ['lr 0.002', 'lr 0.001', 'lr 0.004', 'lr 0.008']
    assert columns['simsiam'] == ['lr 0.1', 'lr 0.05', 'lr 0.2']
    assert columns['moco'][:6] == [
        'lr 0.05',
        'lr 0.025',
        'lr 0.1',
        'prob 0',
        'prob 0.5',
        'prob 1',
    ]  # no guess: not widened
    for arm in arms[::12]:
        cfg = load_config(arm.config, dict(arm.options))
        splits = [
            cfg.train_dataloader.dataset.split,
            cfg.test_dataloader.dataset.split,
            cfg.test_cfg.bank_dataloader.dataset.split,
        ]
        assert splits == ['fit', 'val', 'fit']
        assert 'Digits' in str(cfg.test_dataloader)
        assert cfg.model.head.get('num_instances', 776) == 776
    assert tools.plan.best_of({1: 5.0, 2: 7.0, 3: 7.0}) == 2
    assert tools.plan.best_of({1: 5.0, 2: None}) is None


def test_recipes_have_the_rates_that_the_search_chose(tools: Any) -> None:
    for key, found in tools.results.load('tune')['choices'].items():
        row, kind = key.split()
        if found['chosen'] is None:
            continue
        if kind == 'lr':
            assert load_config(f'unmix::quickstart/{row}_digits.py').optim_wrapper.optimizer.lr == float(
                found['chosen']
            )
        if kind == 'prob':
            mixing = load_config(f'unmix::quickstart/unmix-{row}_digits.py').model.unmix.mixing
            assert mixing.prob == float(found['chosen'])


def test_no_method_is_left_out(tools: Any) -> None:
    stems = {path.stem.removesuffix('_digits') for path in (ROOT / 'configs' / 'quickstart').glob('*_digits.py')}
    methods = {stem for stem in stems if f'unmix-{stem}' in stems}
    assert set(tools.plan.OLD) | set(tools.plan.NEW) == methods == {arm.row for arm in tools.plan.methods()}
    assert methods == set(tools.plan.RATES)


def test_estimates_holm_and_verdicts(tools: Any) -> None:
    x = [0.2, 0.5, -0.1, 0.4]
    found = tools.estimates.Estimate.of(x)
    interval = stats.ttest_1samp(x, 0).confidence_interval()
    assert math.isclose(found.mean - found.half, interval.low)
    assert math.isclose(found.p, stats.ttest_1samp(x, 0).pvalue)
    assert tools.estimates.Estimate.of([1.0, 1.0]).p == 0
    assert tools.estimates.Estimate.of([0.0, 0.0]).p == 1
    assert (str(tools.estimates.Estimate.of([2.0])), str(tools.estimates.Estimate.of([]))) == ('2.0', 'missing')
    # Holm's own rule, by hand: 3 * 0.01, then 2 * 0.02, then 0.5; never below the one before.
    assert tools.estimates.holm([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.04])
    assert tools.estimates.holm([0.03, 0.04]) == pytest.approx([0.06, 0.06])
    assert tools.estimates.verdict(tools.estimates.Estimate(0.1, 0.19, 9, 0.3), 0.3) == 'equivalent'
    assert tools.estimates.verdict(tools.estimates.Estimate(0.1, 0.21, 9, 0.3), 0.3) == 'not decided'
    assert tools.estimates.verdict(tools.estimates.Estimate(-0.2, 0.09, 9, 0.001), 0.01) == 'lower, equivalent'
    assert tools.estimates.verdict(tools.estimates.Estimate(2.0, 0.5, 9, 0.001), 0.001) == 'higher'
    assert tools.estimates.verdict(tools.estimates.Estimate(2.0, None, 1), None) == 'not known'
    cells = [dict(seeds=[0, 1, 3], top1=dict(knn=[1.0, 2.0, 9.0])), dict(seeds=[1, 0], top1=dict(knn=[1.0, 1.0]))]
    assert tools.estimates.difference(*cells) == tools.estimates.Estimate.of([0.0, 1.0])  # of the seeds that both have


def test_missing_runs_count_as_comparisons(tools: Any) -> None:
    arms = [dict(row='moco', column=column, seeds=[0, 1, 2], top1=dict(knn=values))
            for column, values in dict(plain=[1.0, 2.0, 3.0], full=[3.0, 4.1, 5.0], once=[]).items()]  # fmt: skip
    arms[2]['seeds'] = []
    content = dict(arms=arms, comparisons=[('moco', 'full', 'plain'), ('moco', 'once', 'plain')])
    (*_, found, p), (*_, lacking, none) = tools.estimates.comparisons(content)
    assert p == pytest.approx(2 * found.p)
    assert (lacking.n, none) == (0, None)
    assert tools.tables.half_price(content) == 'MoCo: not known, there are fewer than two seeds.'
    arms[2].update(seeds=[0, 1, 2], top1=dict(knn=[3.1, 4.1, 5.1]))
    content['comparisons'].append(('moco', 'once', 'full'))
    assert tools.tables.half_price(content) == 'MoCo: equivalent, +0.1 ± 0.1 points, n = 3.'
    arms[2]['top1']['knn'] = [3.4, 4.1, 5.1]
    assert tools.tables.half_price(content) == 'MoCo: equivalence is not shown, +0.2 ± 0.5 points, n = 3.'


def test_pages_have_the_numbers_of_the_results(tools: Any) -> None:
    assert tools.results.stale(ROOT) == {}, 'python tools/results.py'
    texts = [path.read_text(encoding='utf-8') for path in tools.results.pages(ROOT)]
    assert sum(text.count('results: ') for text in texts) > 20


@pytest.mark.parametrize('name', ['README.md', 'docs/custom_data.md', 'configs/quickstart/metafile.yml'])
def test_a_digit_that_was_changed_by_hand_is_found(
    tools: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, suffix = (ROOT / name).read_text(encoding='utf-8'), Path(name).suffix
    mark = tools.results.re.search(tools.results.OPEN[suffix], text)
    digit = next(index for index in range(mark.end(), len(text)) if text[index].isdigit())
    changed = text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(changed, encoding='utf-8')
    monkeypatch.setattr(tools.results, 'ROOT', tmp_path)
    with pytest.raises(SystemExit, match=r'run python tools/results\.py'):
        tools.results.main(['--check'])
    line = text[:digit].count('\n') + 1
    assert f'{name}:{line}: should be {text.splitlines()[line - 1]}' in capsys.readouterr().out
    assert path.read_text(encoding='utf-8') == changed
    tools.results.main([])
    assert path.read_text(encoding='utf-8') == text
    tools.results.main(['--check'])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('<!-- results: value nothing a b knn -->1<!-- /results -->', 'there is no nothing.json in results; known: '),
        ('<!-- results: guess folders -->1<!-- /results -->', r'page\.md: results: guess folders: expected a function'),
        ('<!-- results: value -->1<!-- /results -->', r'page\.md: results: value: expected a .* and a file of results'),
        (
            '<!-- results: value bfloat16 moco float32 knn -->1<!-- /results -->',
            'no arm moco float32; known: unmix-moco',
        ),
        ('<!-- results: value bfloat16 -->1<!-- /results -->', 'value bfloat16: .*missing 3 required'),
        ('<!-- results: rows folders -->1', '1 comments'),
        ('1<!-- /results -->', '0 comments'),
    ],
)
def test_marks_that_name_nothing(tools: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tools.results.render(text, '.md', 'page.md')


@pytest.mark.parametrize('content', [b'', b'[]', b'null', b'{"arms": ', b'\xff'])
def test_files_without_results_are_named(tools: Any, content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'cut.json').write_bytes(content)
    with pytest.raises(ValueError, match=r'results/cut\.json has no results .* make it by tools/reproduce\.py cut'):
        tools.results.load('cut', tmp_path)
    (tmp_path / 'README.md').write_bytes(b'\xff')
    with pytest.raises(ValueError, match=r'README\.md is not in UTF-8'):
        tools.results.stale(tmp_path)
