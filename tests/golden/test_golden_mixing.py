"""Boxes and mixed batches of the released code."""

import pytest
import torch
from fixtures import Golden, Recorded

from unmix.mixing import CutMix, UnMix, region_box


@pytest.mark.golden('c01_*')
def test_region_box(golden: Golden) -> None:
    for i, (height, width) in enumerate(zip(golden['dim2'], golden['dim3'], strict=True)):
        lam, center = float(golden['lam'][i]), (int(golden['cx'][i]), int(golden['cy'][i]))
        top, bottom, left, right = region_box((height, width), lam, center)
        assert (top, left, bottom, right) == tuple(golden['box'][i])
        image = torch.zeros(1, 1, height, width, device=golden.device)
        mixed, share = CutMix().apply(image, image + 1, (lam, *center))
        assert share == pytest.approx(golden['lam_adj'][i], abs=1e-12)
        assert mixed.sum() == (bottom - top) * (right - left)


@pytest.mark.golden('c02_*')
def test_mix(golden: Golden) -> None:
    unmix = UnMix(mixing=dict(type='RandomMixing', prob=golden.hp['prob']))
    for i, view in enumerate(golden.tensor('in_im1')):
        rng = Recorded(random=[golden['r'][i]], beta=[golden['lam'][i]], integers=[golden['cx'][i], golden['cy'][i]])
        mixture, lam = unmix.mix(view, rng)
        golden.check(mixture, 'mixed', i)
        golden.compare(lam, golden['o64_lam_final'][i], f'lam_final[{i}]')
        if 'o64_mixed_flip' in golden:
            golden.check(mixture.flip(0), 'mixed_flip', i)
