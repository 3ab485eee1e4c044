"""Train a run again and compare bit for bit: python scripts/reproduce_run.py run=DIR  (conf/reproduce_run.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("reproduce_run")
