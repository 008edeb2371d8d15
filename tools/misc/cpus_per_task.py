"""Print how many CPUs a process of a run needs: the most workers of a data loader, and one for itself.

python tools/misc/cpus_per_task.py CONFIG [arguments of tools/train.py or tools/test.py]
"""

from collections.abc import Iterator, Mapping
from typing import Any

from unmix.apis.command import argument_parser, run_tool
from unmix.config import load_config


def workers(node: Any) -> Iterator[int]:
    """Yield each ``num_workers`` below ``node``."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from [value] if key == 'num_workers' else workers(value)


def main() -> None:
    """Print the number."""
    args, _ = argument_parser(__doc__).parse_known_args()
    print(1 + max(workers(load_config(args.config, args.cfg_options).to_dict()), default=0))


if __name__ == '__main__':
    run_tool(main)
