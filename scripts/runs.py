"""All runs at a glance: python scripts/runs.py  (settings: conf/runs.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("runs")
