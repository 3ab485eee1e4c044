"""Links inside a run's or a sweep's directory, which may be a stranger's: what is written there stays there."""

import os
from pathlib import Path

from lithydra.errors import ConfigError


def refuse_links_out(directory: Path) -> None:
    """Raise ConfigError where a link in `directory` leads out of it: a file would be written to where it leads."""
    root = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise ConfigError(
                    f"{path}: a link to {os.readlink(path)}, out of {directory}; nothing is written there"
                )
