"""Train: python train.py [group=choice] [key=value] …  (see README.md, or --help)."""

from lithydra.cli import main_train

if __name__ == "__main__":
    main_train()
