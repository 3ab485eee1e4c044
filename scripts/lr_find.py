"""Learning-rate range test: python scripts/lr_find.py [settings of train.py]  (settings: conf/lr_find.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("lr_find")
