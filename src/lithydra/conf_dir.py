"""Where conf/ is: the configs of the checkout that a command runs in. Torch is not imported here."""

import re
import sys
from functools import cache
from pathlib import Path

TARGET = re.compile(r"""_target_['"]?\s*:\s*['"]?([\w.]+)""")


def find_conf() -> Path:
    """conf/ beside the script that was started, or beside its folder (scripts/); else that of the package's checkout.

    A package that is installed without `-e` lies elsewhere than the conf/ of the checkout that train.py is run from.
    """
    script = Path(sys.argv[0]).resolve() if sys.argv and sys.argv[0] else Path(__file__)
    package = Path(__file__).resolve().parents[2]
    beside = (script.parent / "conf", script.parent.parent / "conf")
    return next((folder for folder in beside if (folder / "train.yaml").is_file()), package / "conf")


CONF = find_conf()


@cache
def named_targets(conf: Path = CONF) -> frozenset[str]:
    """Every `_target_` that a file of conf/ names: what a person lets lithydra call."""
    return frozenset(name for path in conf.rglob("*.yaml") for name in TARGET.findall(path.read_text(errors="replace")))
