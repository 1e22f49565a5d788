"""Command and environment of the processes that run llama.cpp."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from msgspec import Struct, field

from llb.policy.engine_build.choice import CPU

# Environment variables for processes that run llama.cpp: paths, and the set-up of GPU libraries. Never a
# token, a proxy, or a variable of llb or the Hub.
_ALLOWED_ENV = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "SYSTEMROOT",
        "WINDIR",
        "USERPROFILE",
        "LOCALAPPDATA",
        "APPDATA",
        "PROGRAMDATA",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
    ]
)
_ALLOWED_ENV_PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "GGML_", "HIP_", "ROCR_", "HSA_", "AMD_", "VK_", "ONEAPI_", "SYCL_", "ZE_",
    "OMP_", "GOMP_", "MTL_",
)  # fmt: skip
# The threads of an engine wait for each other hundreds of times per token. By default they spin, for tens of
# milliseconds if necessary. On shared cores a thread then spins for another one that is not running, and a
# loaded machine becomes twenty times slower (bench/README.md, "Shared cores"). With this limit a thread
# sleeps after this number of iterations.
_SPIN_ENV = {"GOMP_SPINCOUNT": "1000"}
_SECRET_ENV_WORDS = ("TOKEN", "SECRET", "PASSWORD", "_KEY")


@cache
def installed_version() -> str:
    """Return the version of the installed xllamacpp, empty without one."""
    try:
        return metadata.version("xllamacpp")
    except metadata.PackageNotFoundError:
        return ""


class EngineBuild(Struct, frozen=True):
    """Build of llama.cpp that engines run: the installed package, or one in a directory of its own.

    `import_path` comes before the installed packages; `library_paths` hold libraries that it needs.
    `rejected` are builds that do not work on this host, with the reason. `is_fixed`: the user chose it.
    """

    variant: str = CPU
    version: str = field(default_factory=installed_version)
    import_path: Path | None = None
    library_paths: tuple[Path, ...] = ()
    rejected: tuple[tuple[str, str], ...] = ()
    is_fixed: bool = False

    @property
    def llama_build(self) -> int | None:
        """Number of llama.cpp's build, the last part of the version of xllamacpp; None if that has none."""
        number = self.version.rpartition(".")[2]
        return int(number) if number.isdecimal() else None


def engine_command(*arguments: str) -> tuple[str, ...]:
    """Return the command of the engine worker: this interpreter, isolated from the working directory."""
    return (sys.executable, "-P", "-m", "llb.engine.worker", *arguments)


def engine_environment(environ: Mapping[str, str], build: EngineBuild | None = None) -> dict[str, str]:
    """Return the environment of an engine: allowed variables, import path of `build` and llb, spin limit."""
    allowed = {
        name: value
        for name, value in environ.items()
        if (name.upper() in _ALLOWED_ENV or name.upper().startswith(_ALLOWED_ENV_PREFIXES))
        and not any(word in name.upper() for word in _SECRET_ENV_WORDS)
    }
    build = build or EngineBuild()
    import_paths = [path for path in (build.import_path, Path(__file__).resolve().parents[2]) if path]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, import_paths))}
    if build.library_paths:
        inherited = [path for path in (allowed.get("LD_LIBRARY_PATH"),) if path]
        paths["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, build.library_paths), *inherited])
    return _SPIN_ENV | allowed | paths
