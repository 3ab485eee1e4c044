"""What a process of lithydra prints of its own messages and of the libraries'."""

import logging
import sys
import warnings


def set_up_logging() -> None:
    """Our own messages to the terminal, without decoration; of the libraries, only warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lithydra").setLevel(logging.INFO)
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # it tells what it raises again
    for name in ("lightning.pytorch", "lightning.fabric"):
        lightning = logging.getLogger(name)
        lightning.handlers.clear()
        lightning.setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15; nothing that a person can mend.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")
