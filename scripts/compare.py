"""Compare runs: python scripts/compare.py RUN RUN …  (settings: conf/compare.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("compare")
