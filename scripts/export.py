"""Export a run's model: python scripts/export.py run=DIR [format=onnx|torch_export]  (conf/export.yaml)."""

from lithydra.cli import main

if __name__ == "__main__":
    main("export")
