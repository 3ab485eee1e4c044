"""Links inside a run's or a sweep's directory, which may be a stranger's: what is written there stays there."""

import os
from pathlib import Path

from lithydra.errors import ConfigError

# Each session of wandb links to a log in its own cache; it makes the link anew, and writes nothing through it.
OF_WANDB = "wandb/*/logs/debug-core.log"


def refuse_links_out(directory: Path) -> None:
    """Raise ConfigError where a link in `directory` leads out of it: a file would be written to where it leads."""
    root = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not path.is_symlink() or path.relative_to(directory).match(OF_WANDB):
                continue
            if not path.resolve().is_relative_to(root):
                raise ConfigError(
                    f"{path}: a link to {os.readlink(path)}, out of {directory}; nothing is written there"
                )
