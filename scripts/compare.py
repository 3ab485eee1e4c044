"""Compare runs: python scripts/compare.py RUN RUN …  (settings: conf/compare.yaml)."""

from lithydra.cli import main_compare

if __name__ == "__main__":
    main_compare()
