"""The report of the doctor as one HTML file, with pictures inside."""

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from unmix.apis.findings import Part, summary
from unmix.datasets import BaseDataset
from unmix.datasets.decode import read_image
from unmix.datasets.transforms import to_pil
from unmix.utils.names import shown
from unmix.visualization.page import Page, picture, safe

PICTURES, NAMES = 8, 200  # of a finding
_SIDE = 96


def page(report: Mapping[str, Any]) -> str:
    """Return the report of :func:`unmix.apis.doctor.examine_data` as HTML that needs no other file."""
    parts = {part.name: part for part in report['parts']}
    html = Page(f'Images of {shown(report["data"])}')
    html.add('<h2>Findings</h2>')
    if not report['findings']:
        html.add('<p>Nothing is wrong.</p>')
    for finding in report['findings']:
        names = '\n'.join(shown(name) for name in finding.images[:NAMES])
        more = f'\nand {len(finding.images) - NAMES} more' if len(finding.images) > NAMES else ''
        html.add(
            f'<h3 class="{finding.severity}">{finding.severity}: {safe(finding.kind)}, {safe(finding.part)}</h3>',
            f'<p>{safe(finding.text)}</p>',
            *(_picture(parts[part], row) for part, row in finding.shown[:PICTURES]),
            f'<pre>{safe(names + more)}</pre>' if names else '',
        )
    for name, part in parts.items():
        html.add(f'<h2>{safe(name)}</h2><pre>{safe(json.dumps(summary(part), indent=1))}</pre>')
    return html.text()


def _picture(part: Part, row: int) -> str:
    """Return a small picture, nothing if the image cannot be read."""
    leaf, number = part.leaves[part.leaf[row]], int(part.row[row])
    try:
        data = leaf.encoded(number) if isinstance(leaf, BaseDataset) else None
        if data is None:
            image = to_pil(leaf.read(number)[0]).convert('RGB')
        else:
            image = read_image('', data, getattr(leaf, 'exif', True))
    except (OSError, ValueError, AttributeError):
        return ''
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return f'<figure class="image">{picture(image)}{safe(shown(part.image(row)))}</figure>'
