"""Print a config as it will run: inherited, with options merged and checked.

python tools/misc/print_config.py unmix::quickstart/unmix-moco_digits.py --cfg-options train_dataloader.batch_size=64
python tools/misc/print_config.py unmix::quickstart/unmix-moco_digits.py --where

With --where each line is a value, the file and line that it comes from, and those that it has overridden.
"""

import os

from unmix.apis.command import argument_parser, configure, run_tool
from unmix.config.origin import origins


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument('--where', action='store_true', help='print where each value comes from')
    args = parser.parse_args()
    cfg = configure(args)
    if not args.where:
        print(cfg.pretty_text)
        return
    for key, (value, places) in origins(cfg).items():
        first, *overridden = (place if isinstance(place, str) else os.path.relpath(str(place)) for place in places)
        print(f'{key} = {value!r}  # {first}' + (f', instead of {", ".join(overridden)}' if overridden else ''))


if __name__ == '__main__':
    run_tool(main)
