"""Build of a release, into dist/: wheel, sdist, llb.pyz and their checksums.

    python -m tools.onefile [--project DIR] [--out DIR] [--wheels DIR] [--python 3.N …] [--preset N]

It needs pip, hatchling and packaging: `./install.sh build` has them. `--project` builds another checkout,
`--python` a smaller file, for these Pythons only, and `--preset 0` (of xz) a larger one in two thirds of the
time.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from tools.onefile.archive import PRESET, write_program_file
from tools.onefile.wheels import BuildError, Wheel, download, read_lock, select_runtime

ROOT = Path(__file__).parents[2]
MINORS = (11, 12, 13)
# pip, for `llb engine install`: Debian's Python has none.
ADDITIONS = Path(__file__).with_name("requirements.lock")
PROGRAM_NAME, CHECKSUMS_NAME = "llb.pyz", "SHA256SUMS"
DOCUMENTS = ("LICENSE", "NOTICE", "docs/licences.md", "docs/sbom.cdx.json")


def build_distributions(project: Path, out: Path) -> Wheel:
    """Build wheel and sdist; returns the wheel. Raises `BuildError`."""
    out.mkdir(parents=True, exist_ok=True)
    for old in (*out.glob("llb-*.whl"), *out.glob("llb-*.tar.gz")):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out.resolve())]
    done = subprocess.run(command, cwd=project, capture_output=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"the wheel could not be built: {done.stderr.decode()}")
    [wheel] = out.glob("llb-*.whl")
    return Wheel(wheel)


def build_program_file(
    project: Path,
    own: Wheel,
    wheels: Path,
    out: Path,
    minors: Sequence[int] = MINORS,
    preset: int = PRESET,
) -> Path:
    """Build llb.pyz from the wheel of llb and the locked packages. Raises `BuildError`."""
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    additions = read_lock(ADDITIONS)
    locked = [*read_lock(project / "requirements.lock"), *additions]
    roots = [*map(Requirement, described["dependencies"]), *(each.requirement for each in additions)]
    files_by_tag: dict[str, dict[str, bytes]] = {}
    glibc = (0, 0)
    for minor in minors:
        found = download(locked, minor, wheels / f"cp3{minor}")
        runtime = [own, *select_runtime(roots, found, minor)]
        glibc = max(glibc, *(wheel.glibc for wheel in runtime))
        files_by_tag[f"cp3{minor}"] = {name: data for wheel in runtime for name, data in wheel.files()}
    target = out / PROGRAM_NAME
    write_program_file(
        target,
        files_by_tag,
        version=described["version"],
        glibc=glibc,
        documents={
            Path(name).name: (project / name).read_bytes() for name in DOCUMENTS if (project / name).exists()
        },
        preset=preset,
    )
    return target


def write_checksums(out: Path) -> None:
    """Write the SHA-256 of every file of the release, as `sha256sum --check` reads them."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(out.iterdir())
        if path.name != CHECKSUMS_NAME
    ]
    (out / CHECKSUMS_NAME).write_text("".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, default=ROOT)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--wheels", type=Path, default=ROOT / "build" / "wheels")
    names = [f"3.{minor}" for minor in MINORS]
    parser.add_argument("--python", action="append", choices=names, help="(default: all)")
    parser.add_argument(
        "--preset", type=int, choices=range(10), default=PRESET, help="(default: %(default)s)"
    )
    options = parser.parse_args()
    minors = [int(name.removeprefix("3.")) for name in options.python or names]
    try:
        own = build_distributions(options.project, options.out)
        program = build_program_file(
            options.project, own, options.wheels, options.out, minors, options.preset
        )
    except BuildError as error:
        print(f"tools.onefile: {error}", file=sys.stderr)
        return 1
    shutil.copy(options.project / "docs" / "sbom.cdx.json", options.out / "llb.cdx.json")
    write_checksums(options.out)
    for path in sorted(options.out.iterdir()):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    print(f"Run it: {program}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
