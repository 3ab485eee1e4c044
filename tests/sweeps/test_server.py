"""The process that a sweep's jobs are forked from."""

import os
import sys
from pathlib import Path

from killing import in_child
from lithydra.run import provenance
from lithydra.sweeps import server

PROMISE = "17. What was run is recorded"


def test_the_server_notes_what_it_starts_from(tmp_path: Path) -> None:
    """Its jobs record the code that it has imported, not that which the checkout has when they start."""

    def task() -> None:
        def serve(self: server.JobServer) -> None:
            assert provenance._start is not None and "lithydra.training.train" in provenance._start.modules

        server.JobServer.serve = serve
        sys.argv = ["server", str(os.open(os.devnull, os.O_RDWR))]
        server.main()

    assert in_child(task, tmp_path / "log") == 0, (tmp_path / "log").read_text()
