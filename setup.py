"""Packaging. ``UNMIX_MM`` chooses the MMEngine installed along: official (default), onedl, or none (keep yours)."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
MIM_FILES = ('configs', 'tools', 'model-index.yml')  # where mim, and configs named unmix::..., look: unmix/.mim

# The two families share their import names and overwrite each other, so an extra (which only adds) cannot do this.
MMENGINE = {
    'official': ['mmengine>=0.10.5,<1.0', 'mmcv-lite>=2.1.0,<3.0'],
    'onedl': ['onedl-mmengine>=0.10.10,<1.0', 'onedl-mmcv>=2.3.5,<3.0'],
    'none': [],
}
TENSORBOARD = ['tensorboard>=2.16']
# mkdocs 2 has neither plugins nor themes; ruff breaks the lines of signatures.
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.6,<10', 'mkdocstrings[python]>=1.0', 'ruff>=0.15']
TESTS = ['pytest>=8.0', 'pytest-xdist>=3.6', 'ruff>=0.15', 'mypy>=1.18', 'setuptools>=77.0.3', *TENSORBOARD]


def mmengine_requirements() -> list[str]:
    """Requirements for the value of ``UNMIX_MM``; upper bounds because unmix/compat.py uses private hooks."""
    choice = os.environ.get('UNMIX_MM', 'official')
    if choice not in MMENGINE:
        raise SystemExit(
            f'UNMIX_MM={choice!r} is unknown; expected one of {", ".join(MMENGINE)}: official installs mmengine and '
            'mmcv-lite, onedl installs onedl-mmengine and onedl-mmcv, none keeps what the environment has'
        )
    return MMENGINE[choice]


def fill_mim(folder: Path, link: bool) -> None:
    """Make ``folder`` hold exactly ``MIM_FILES``, as links to the checkout or as copies.

    Raises:
        FileNotFoundError: A copy is to be made of what does not exist.
    """
    if folder.is_dir():
        shutil.rmtree(folder)  # removes links, not what they point to
    folder.mkdir(parents=True)
    for name in MIM_FILES:
        source, target = ROOT / name, folder / name
        if link:
            try:
                target.symlink_to(os.path.relpath(source, folder))
                continue
            except OSError as error:  # Windows without the right to make links
                print(f'{target} becomes a copy, not a link ({error}): install again after a change in {name}')
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))
        else:
            shutil.copyfile(source, target)


class BuildPyWithMim(build_py):
    """Links in the checkout for an editable install (PEP 660), copies in the build folder for a wheel."""

    def run(self) -> None:
        package = Path(self.build_lib, 'unmix')
        if self.editable_mode:
            fill_mim(ROOT / 'unmix' / '.mim', link=True)
        elif package.is_dir():
            shutil.rmtree(package)  # an earlier build's modules that are gone from the checkout
        super().run()
        if not self.editable_mode:
            fill_mim(package / '.mim', link=False)


class SdistWithMim(sdist):
    """Copies in the archive, so that an unpacked one works without a build."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        fill_mim(Path(base_dir, 'unmix', '.mim'), link=False)


version: dict[str, str] = {}
exec((ROOT / 'unmix' / 'version.py').read_text(encoding='utf-8'), version)
readme = ROOT / 'README.md'

setup(
    name='unmix',
    version=version['__version__'],
    description='Un-Mix: self-supervised image representation learning with mixed images, on MMEngine',
    long_description=readme.read_text(encoding='utf-8') if readme.is_file() else '',
    long_description_content_type='text/markdown',
    author='The unmix authors',
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    keywords='self-supervised learning, contrastive learning, mixup, cutmix, computer vision, pytorch, mmengine',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=['unmix', 'unmix.*']),
    package_data={'unmix': ['py.typed', 'datasets/*.txt', 'visualization/page/*']},
    include_package_data=False,
    zip_safe=False,
    entry_points={'console_scripts': ['unmix = unmix.cli:main']},
    install_requires=[
        'torch>=2.6.0',  # the first whose weights_only=True cannot be bypassed (CVE-2025-32434)
        'torchvision>=0.21.0',
        'numpy>=1.26',
        'opencv-python>=4.8',  # by this name in every MMCV; the headless one beside it would overwrite it
        'scikit-learn>=1.4',
        'matplotlib>=3.7',
        'rich>=13.0',
        'pooch>=1.8',  # downloads
        'packaging>=21',  # requirements, in is_installed
        'numba>=0.61',  # makes the views; without it torch does, several times slower
        'simplejpeg>=1.7',  # decodes JPEG; without it PIL does
        *mmengine_requirements(),
    ],
    extras_require={
        'tests': TESTS,
        'dev': [*TESTS, *DOCS, 'pre-commit>=3.5', 'build>=1.2'],
        'docs': DOCS,
        'bench': ['albumentations>=2.0'],  # tools/benchmarks/views.py compares with it
        'peers': ['lightly>=1.5.20', 'pytorch-lightning'],  # tests compare losses, benchmarks speed with theirs
        'tensorboard': TENSORBOARD,
        'parquet': ['pyarrow>=15'],
        'datasets': ['datasets>=2.19'],  # HuggingFaceDataset
        'timm': ['timm>=1.0.16'],  # TIMMBackbone
        'lmdb': ['lmdb>=1.4'],  # backend_args=dict(backend='lmdb')
        'tifffile': ['tifffile>=2023.7'],  # decoder='tifffile'
        'turbojpeg': ['PyTurboJPEG>=1.7'],  # decoder='turbojpeg'
        'heif': ['pillow-heif>=0.16'],  # PIL reads .heic with it
        'umap': ['umap-learn>=0.5'],
        **{name: [name] for name in ('aim', 'clearml', 'dvclive', 'mlflow', 'neptune', 'wandb')},  # loggers
        'export': ['safetensors>=0.4', 'onnx>=1.17', 'onnxscript>=0.2'],
    },
    cmdclass={'build_py': BuildPyWithMim, 'sdist': SdistWithMim},
)
