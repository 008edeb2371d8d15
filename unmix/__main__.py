"""``python -m unmix`` is the command ``unmix``, also where its script is not on the path."""

from unmix.cli import main

if __name__ == '__main__':
    main()
