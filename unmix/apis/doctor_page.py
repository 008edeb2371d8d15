"""The report of the doctor as one HTML file, with pictures inside."""

import base64
import html
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from unmix.apis.findings import Part, summary
from unmix.datasets import BaseDataset
from unmix.datasets.decode import read_image
from unmix.datasets.transforms import to_pil
from unmix.utils.names import shown

PICTURES, NAMES = 8, 200  # of a finding
_SIDE = 96
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
.error{color:#a40000}.warning{color:#8f5902}.note{color:#555}pre{background:#f4f4f4;padding:.6em;overflow:auto}
figure{display:inline-block;margin:.3em;width:104px;vertical-align:top;font-size:11px;overflow-wrap:anywhere}"""


def page(report: Mapping[str, Any]) -> str:
    """Return the report of :func:`unmix.apis.doctor.examine_data` as HTML that needs no other file."""
    parts = {part.name: part for part in report['parts']}
    rows = [
        f'<h2>{_safe(name)}</h2><pre>{_safe(json.dumps(summary(part), indent=1))}</pre>' for name, part in parts.items()
    ]
    found = []
    for finding in report['findings']:
        names = '\n'.join(shown(name) for name in finding.images[:NAMES])
        more = f'\nand {len(finding.images) - NAMES} more' if len(finding.images) > NAMES else ''
        pictures = ''.join(_picture(parts[part], row) for part, row in finding.shown[:PICTURES])
        found.append(
            f'<h3 class="{finding.severity}">{finding.severity}: {_safe(finding.kind)}, {_safe(finding.part)}</h3>'
            f'<p>{_safe(finding.text)}</p>{pictures}' + (f'<pre>{_safe(names + more)}</pre>' if names else '')
        )
    title = f'Images of {_safe(shown(report["data"]))}'
    body = '\n'.join(['<h2>Findings</h2>', *(found or ['<p>Nothing is wrong.</p>']), *rows])
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<style>{_STYLE}</style></head><body><h1>{title}</h1>\n{body}\n</body></html>\n'
    )


def _safe(words: str) -> str:
    return html.escape(words.encode('utf-8', 'backslashreplace').decode())


def _picture(part: Part, row: int) -> str:
    """Return a small picture, nothing if the image cannot be read."""
    leaf, number = part.leaves[part.leaf[row]], int(part.row[row])
    try:
        data = leaf.encoded(number) if isinstance(leaf, BaseDataset) else None
        image = to_pil(leaf.read(number)[0]).convert('RGB') if data is None else read_image('', data)
    except (OSError, ValueError, AttributeError):
        return ''
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    image.save(buffer := io.BytesIO(), 'PNG')
    source = base64.b64encode(buffer.getvalue()).decode()
    name = _safe(shown(part.image(row)))
    return f'<figure><img src="data:image/png;base64,{source}" alt="">{name}</figure>'
