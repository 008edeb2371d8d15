"""The shape of the code: imports run one way and in no circle, nothing of a machine stands in it."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted((ROOT / 'unmix').rglob('*.py'))
    if '.mim' not in path.parts
}
# Rooms, from the one that everything may import to the ones that nothing below may.
LEVELS = [{'registry', 'version', 'utils', 'config'}, {'mixing'}, {'datasets', 'models'},
          {'checkpoint', 'evaluation', 'visualization', 'converters', 'testing'}, {'compat'},
          {'engine', 'zoo'}, {'apis'}, {'cli'}, {'__main__'}]  # fmt: skip


def imports(name: str, everywhere: bool = False) -> set[str]:
    """Modules of the package that a module imports, at its top level or anywhere."""
    tree = ast.parse(MODULES[name].read_text())
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if MODULES[name].name == '__init__.py' else name.rpartition('.')[0]
            for _ in range(node.level - 1):
                package = package.rpartition('.')[0]
            base = f'{package}.{node.module}' if node.level and node.module else package if node.level else node.module
            found |= {f'{base}.{alias.name}' if f'{base}.{alias.name}' in MODULES else base for alias in node.names}
    return {target for target in found if target in MODULES and target != name}


def test_no_import_circles():
    graph = {name: imports(name) for name in MODULES}
    while leaves := {name for name, targets in graph.items() if not targets & graph.keys()}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, f'these modules import each other in a circle: {sorted(graph)}'


def test_the_table_of_what_mmcv_and_opencv_do():
    """docs/architecture.md names each module that imports one of them."""
    found = {}
    for name, path in MODULES.items():
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or '' for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
        if libraries := {module.partition('.')[0] for module in names} & {'cv2', 'mmcv'}:
            found[name.removeprefix('unmix.')] = libraries
    page = (ROOT / 'docs' / 'architecture.md').read_text().partition('## What MMCV and OpenCV do')[2].partition('##')[0]
    rows = [line.split('|')[1:3] for line in page.splitlines() if line.startswith('| `')]
    assert {name.strip(' `'): set(re.findall(r'`(\w+)`', libraries)) for name, libraries in rows} == found


def test_imports_run_one_way():
    level = {room: i for i, rooms in enumerate(LEVELS) for room in rooms}
    for name in MODULES:
        if name.count('.') == 0:
            continue
        own = level[name.split('.')[1]]
        for target in imports(name, everywhere=True) - {'unmix'}:
            assert level[target.split('.')[1]] <= own, f'{name} imports {target}, which lies above it'


def test_nothing_of_a_machine_is_in_the_project():
    listed = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    pattern = re.compile(r'(?<![\w.])/(?:home|root|Users)/\w')
    for name in listed:
        path = ROOT / name
        if path.suffix in {'.py', '.md', '.yml', '.toml', '.sh', '.cfg', '.cff', '.in'} and path != Path(__file__):
            match = pattern.search(path.read_text())
            assert match is None, f'{name} names {match.group()}'


def test_text_files_are_utf_8_in_every_locale():
    """Each call that reads or writes text names the encoding; without it the locale decides."""
    found = []
    for path in [*(ROOT / 'unmix').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
            owner = getattr(getattr(node.func, 'value', None), 'id', '')
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            mode = node.args[-1] if node.args else None
            binary = name == 'open' and (isinstance(mode, ast.Name) or any('b' in text for text in texts[-1:]))
            other = owner in ('os', 'Image', 'tarfile') or (name == 'read_text' and texts)
            named = any(keyword.arg == 'encoding' for keyword in node.keywords)
            if name in ('open', 'read_text', 'write_text', 'fdopen') and not (binary or other or named):
                found.append(f'{path.relative_to(ROOT)}:{node.lineno}')
    assert not found


def test_assertions_only_narrow_types():
    """``python -O`` leaves them out, so no input may be checked by one."""
    found = []
    for path in [*(ROOT / 'unmix').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Assert):
                test = node.test
                narrow = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
                if not narrow or ast.unparse(test.comparators[0]) != 'None':
                    found.append(f'{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}')
    assert not found
