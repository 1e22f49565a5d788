"""What llb is made of: the locked packages, and under which licence each is.

`python -m tests.licences` prints docs/licences.md; with `--bill-of-materials` it reads a bill in CycloneDX's
format, and prints docs/sbom.cdx.json.

Run by `./install.sh lock`, when the locked packages are installed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK_FILE, TEST_LOCK_FILE = ROOT / "requirements.lock", ROOT / "requirements-test.lock"
# What llb.pyz has besides.
PROGRAM_FILE_LOCK = ROOT / "tools" / "onefile" / "requirements.lock"
BUILD_ONLY = frozenset({"hatchling", "editables", "pathspec", "pluggy", "trove-classifiers"})
_PIN_LINE = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*(?:\\)?$"
)
_HASH_LINE = re.compile(r"^\s+--hash=sha256:[0-9a-f]{64}(?: \\)?$")
LICENCES_HEADER = """# Licences

llb's own code is in this repository. The packages that `./install.sh run` installs beside it, in the versions of `requirements.lock`, on Linux; each
says of itself under which licence it is. Made by `./install.sh lock`, from what is installed.

| package | version | licence |
| --- | --- | --- |"""


@dataclass(frozen=True)
class LockedPackage:
    """One line of a lock file; `hashes` of all files of that version."""

    name: str
    version: str
    environment_marker: str | None
    hash_count: int

    @property
    def is_applicable(self) -> bool:
        """Whether it is installed on this system."""
        return self.environment_marker is None or Marker(self.environment_marker).evaluate()


def parse_lock_file(path: Path) -> Iterator[LockedPackage]:
    """Raises `ValueError` for a line that is neither a pin nor the hash of one."""
    pin: re.Match[str] | None = None
    hashes = 0
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if pin is not None and _HASH_LINE.match(line):
            hashes += 1
            continue
        if pin is not None:
            yield LockedPackage(canonicalize_name(pin["name"]), pin["version"], pin["marker"], hashes)
        pin, hashes = _PIN_LINE.match(line), 0
        if line and pin is None:
            raise ValueError(f"{path.name}: {line!r}")


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


def render_licences() -> str:
    lines = [
        f"| {pin.name} | {pin.version} | {licence_of(pin.name)} |"
        for pin in parse_lock_file(LOCK_FILE)
        if pin.is_applicable
    ]
    added = [
        f"`llb.pyz` also has {pin.name} {pin.version} (licence: {licence_of(pin.name)}), for "
        "`llb engine install` where Python has none."
        for pin in parse_lock_file(PROGRAM_FILE_LOCK)
    ]
    return "\n".join([LICENCES_HEADER, *lines, "", *added, "", *price_list_lines(), ""])


def price_list_lines() -> list[str]:
    """Where the price list that ships comes from."""
    prices = json.loads((ROOT / "prices.json").read_text(encoding="utf-8"))
    package = prices["source"].replace("_", "-")
    return [
        f"`prices.json`, the prices of the providers, is made from the data of {package} as of {prices['date']}, by",
        f"`python -m tools.make_prices`. Its licence: {prices['licence']}.",
    ]


def without_addresses(value: Any) -> Any:
    """Return a bill without the web addresses of the packages, two thirds of it: their index has them."""
    if isinstance(value, list):
        return [without_addresses(each) for each in value]
    if isinstance(value, dict):
        return {name: without_addresses(each) for name, each in value.items() if name != "externalReferences"}
    return value


if __name__ == "__main__":
    if sys.argv[1:] == ["--bill-of-materials"]:
        print(json.dumps(without_addresses(json.load(sys.stdin)), indent=2, sort_keys=True))
    else:
        print(render_licences(), end="")
