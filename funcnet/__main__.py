"""``python -m funcnet``: the ``funcnet`` command."""

from funcnet.cli import main

if __name__ == "__main__":
    main()
