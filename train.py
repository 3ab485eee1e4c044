"""Train: python train.py [group=choice] [key=value] …  (see README.md, or --help)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("train")
