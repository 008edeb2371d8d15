"""Print a config as it will run: inherited, with options merged and checked.

python tools/misc/print_config.py unmix::quickstart/unmix-moco_digits.py --cfg-options train_dataloader.batch_size=64
"""

from unmix.apis.command import argument_parser, configure, run_tool


def main() -> None:
    print(configure(argument_parser(__doc__).parse_args()).pretty_text)


if __name__ == '__main__':
    run_tool(main)
