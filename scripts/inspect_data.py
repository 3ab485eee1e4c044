"""Look at a data set: python scripts/inspect_data.py data=NAME [setting of train.py]  (settings: conf/train.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("inspect_data")
