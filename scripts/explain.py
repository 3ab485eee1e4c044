"""Show what a prediction rests on: python scripts/explain.py run=DIR [images=[0,7]]  (settings: conf/explain.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("explain")
