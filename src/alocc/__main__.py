"""``python -m alocc``: the command line, also where a launcher such as torchrun starts it."""

from alocc.cli import main

if __name__ == "__main__":  # not in processes that a training starts
    main()
