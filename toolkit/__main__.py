"""python -m toolkit: the command line of `cli.py`."""

from toolkit.cli.main import main

if __name__ == "__main__":
    main()
