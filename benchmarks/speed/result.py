"""What a measured process leaves in its working directory for the process that started it; torch is not imported."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

FILE = "result.json"
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def write_result(**values: Any) -> None:
    """Write the measurements, the most memory that the process has held, and the names of the modules it imported.

    To be called before the interpreter ends: unloading torch touches 100 MB of libraries that were never used.
    """
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
    Path(FILE).write_text(json.dumps({**values, "peak_bytes": peak_bytes, "modules": list(sys.modules)}))


def read_result(directory: Path = Path()) -> dict[str, Any]:
    path = directory / FILE
    return json.loads(path.read_text()) if path.exists() else {}
