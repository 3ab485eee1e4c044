"""Predict image files: python scripts/predict.py run=DIR input=FILE|FOLDER|GLOB  (settings: conf/predict.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("predict")
