"""Evaluate a run: python scripts/evaluate.py run=DIR [split=test|val|train]  (settings: conf/evaluate.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("evaluate")
