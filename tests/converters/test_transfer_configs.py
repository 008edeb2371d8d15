"""The recipes for detectron2 and mmdet say the same, and name what is there; neither library is needed."""

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

BENCHMARKS = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks'
RECIPES = [
    ('voc0712_faster_rcnn_r50_c4_24k.yaml', 'faster-rcnn_r50-c4_8xb2-24k_voc0712.py'),
    ('coco_mask_rcnn_r50_c4_2x.yaml', 'mask-rcnn_r50-c4_8xb2-180k_coco.py'),
]


def read_yaml(name: str) -> dict[str, dict[str, Any]]:
    """A recipe of detectron2 with its base; tuples are strings there, as detectron2 reads them."""
    config = yaml.safe_load((BENCHMARKS / 'detectron2' / name).read_text())
    base = read_yaml(config.pop('_BASE_')) if '_BASE_' in config else {}
    return merge(base, config)


def merge(base: Any, config: Any) -> Any:
    if isinstance(config, dict):
        return {key: merge(base.get(key, {}), config[key]) if key in config else base[key] for key in base | config}
    return ast.literal_eval(config) if isinstance(config, str) and config.startswith('(') else config


@pytest.mark.parametrize(('theirs', 'ours'), RECIPES)
def test_both_libraries_train_by_the_same_recipe(theirs, ours):
    d2, mm = read_yaml(theirs), runpy.run_path(str(BENCHMARKS / 'mmdet' / ours))
    preprocessor = mm['model']['data_preprocessor']
    assert d2['MODEL']['PIXEL_MEAN'] == preprocessor['mean']
    assert d2['MODEL']['PIXEL_STD'] == preprocessor['std']
    assert d2['INPUT']['FORMAT'] == 'RGB'
    assert preprocessor['bgr_to_rgb']
    assert d2['SOLVER']['MAX_ITER'] == mm['train_cfg']['max_iters'] == mm['param_scheduler'][1]['end']
    assert list(d2['SOLVER']['STEPS']) == mm['param_scheduler'][1]['milestones']
    assert d2['SOLVER'].get('WARMUP_ITERS', 1000) == mm['param_scheduler'][0]['end']  # detectron2's default is 1000
    assert d2['SOLVER']['IMS_PER_BATCH'] == 8 * 2
    assert '8xb2' in ours
    if 'train_pipeline' in mm:  # VOC's sides are those of the config that mmdet's inherits from
        assert list(d2['INPUT']['MIN_SIZE_TRAIN']) == [side for _, side in mm['train_pipeline'][2]['scales']]
    assert d2['MODEL']['MASK_ON'] == ours.startswith('mask')
    backbone, head = mm['model']['backbone'], mm['model']['roi_head']['shared_head']
    assert d2['MODEL']['BACKBONE']['FREEZE_AT'] == backbone['frozen_stages'] + 1 == 0  # nothing is frozen
    assert d2['MODEL']['RESNETS']['NORM'] == backbone['norm_cfg']['type'] == head['norm_cfg']['type'] == 'SyncBN'
    assert not d2['MODEL']['RESNETS']['STRIDE_IN_1X1']
    assert backbone['style'] == head['style'] == 'pytorch'
    assert mm['model']['roi_head'].get('bbox_head', {}).get('num_classes', 80) == d2['MODEL']['ROI_HEADS'].get(
        'NUM_CLASSES', 80
    )


@pytest.mark.parametrize(('theirs', 'ours'), RECIPES)
def test_the_heads_with_a_norm_are_there(theirs, ours):
    def classes(path: Path) -> set[str]:
        return {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
            if isinstance(node, ast.ClassDef)
        }

    mm = runpy.run_path(str(BENCHMARKS / 'mmdet' / ours))
    (module,) = mm['custom_imports']['imports']
    assert mm['model']['roi_head']['shared_head']['type'] in classes(BENCHMARKS / 'mmdet' / f'{module}.py')
    assert read_yaml(theirs)['MODEL']['ROI_HEADS']['NAME'] in classes(BENCHMARKS / 'detectron2' / 'train_net.py')
