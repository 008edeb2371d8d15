"""The command that makes the report of a run again."""

import argparse
import json
from collections.abc import Sequence

from unmix.utils.files import atomic_path
from unmix.utils.run_files import FACTS, RunFiles
from unmix.visualization.report import write_report

DESCRIPTION = """Make report.html of a run again, from the files in its work dir, with t-SNE of all images.

%(prog)s work_dirs/NAME
"""


def report(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Write ``report.html``; ``prog`` is the name of the command in messages."""
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run', help='work dir of a training or evaluation')
    run = RunFiles(parser.parse_args(arguments).run)
    facts = run.facts
    if facts.get('embedding'):
        from unmix.engine.feature_pictures import add_embeddings  # imports the networks

        facts['embedding'] = add_embeddings(facts['embedding'], facts.get('seed') or 0)
        with atomic_path(run.path / FACTS) as temporary:
            temporary.write_text(json.dumps(facts), encoding='utf-8')
    print(write_report(run.path))
