"""What llb is made of: the locked packages, and under which licence each is. `python -m tests.licences` prints docs/licences.md.

Run by `./install.sh lock`, when the locked packages are installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK, TEST_LOCK = ROOT / "requirements.lock", ROOT / "requirements-test.lock"
BUILD_ONLY = frozenset({"hatchling", "editables", "pathspec", "pluggy", "trove-classifiers"})
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*(?:\\)?$")
_SHA256 = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$")
HEAD = """# Licences

llb's own code is in this repository. The packages that `./install.sh run` installs beside it, in the versions of `requirements.lock`, on Linux; each
says of itself under which licence it is. Made by `./install.sh lock`, from what is installed.

| package | version | licence |
| --- | --- | --- |"""


@dataclass(frozen=True)
class Pin:
    """One line of a lock file; `hashes` of all files of that version."""

    name: str
    version: str
    marker: str | None
    hashes: int

    @property
    def applies(self) -> bool:
        """Whether it is installed on this system."""
        return self.marker is None or Marker(self.marker).evaluate()


def pins(lock: Path) -> Iterator[Pin]:
    """Raises `ValueError` for a line that is neither a pin nor the hash of one."""
    pin: re.Match[str] | None = None
    hashes = 0
    for line in [*lock.read_text(encoding="utf-8").splitlines(), ""]:
        if pin is not None and _SHA256.match(line):
            hashes += 1
            continue
        if pin is not None:
            yield Pin(canonicalize_name(pin["name"]), pin["version"], pin["marker"], hashes)
        pin, hashes = _PIN.match(line), 0
        if line and pin is None:
            raise ValueError(f"{lock.name}: {line!r}")


def licence_of(name: str) -> str:
    """As the package says itself: an SPDX expression, else its classifiers, else its own words."""
    about: Any = metadata.metadata(name)
    if (expression := about.get("License-Expression")) is not None:
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or ()
        if line.startswith("License :: ")
    ]
    said = (about.get("License") or "").strip().splitlines()
    return " / ".join(classified) or (said[0] if said else "not said")


def licences() -> str:
    lines = [f"| {pin.name} | {pin.version} | {licence_of(pin.name)} |" for pin in pins(LOCK) if pin.applies]
    return "\n".join([HEAD, *lines, ""])


if __name__ == "__main__":
    print(licences(), end="")
