"""Report on a sweep: python scripts/report.py sweep=DIR  (settings: conf/report.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("report")
