"""Try a run in the browser: python scripts/serve.py run=DIR  (settings: conf/serve.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("serve")
