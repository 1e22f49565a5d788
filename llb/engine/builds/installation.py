"""Installation of an additional build with pip, into a directory of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from llb.base.installation import pip_command, pip_environment
from llb.engine.builds.overlays import Overlay, OverlayStore
from llb.hardware.device_query import last_line
from llb.policy.engine_build.choice import CUDA_12, CUDA_13, DOWNLOAD_BYTES

# The index of xllamacpp: one per variant, all with the same version numbers.
INDEX_URL = "https://xorbitsai.github.io/xllamacpp/whl"
INDEX_VARIABLE = "LLB_ENGINE_INDEX"
LOCKS = Path(__file__).with_name("locks")
# What the wheels of CUDA for Linux link to and do not bring. Those of CUDA 13 were not tried.
_RUNTIME_PACKAGES = {
    CUDA_12: ("nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cublas-cu12==12.8.4.1"),
    CUDA_13: ("nvidia-cuda-runtime==13.2.51", "nvidia-cublas==13.4.0.1"),
}
# Settings of pip that do not decide where packages come from.
_PIP_SETTINGS = frozenset(
    {"PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_RETRIES"}
    | {"PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"}
)
# The download, its contents in a temporary directory, and the installed copy.
_DISK_FACTOR = 3


class InstallFailed(Exception):
    """A build could not be installed; the text says why."""


class BuildSource(Struct, frozen=True):
    """Where a build comes from. Without `lock` nothing says that its files are the expected ones."""

    variant: str
    version: str
    url: str
    runtime_packages: tuple[str, ...]
    lock: Path | None
    download_bytes: int


class BuildInstaller:
    """Installs builds of the installed version of xllamacpp into `store`. All methods block."""

    def __init__(
        self,
        store: OverlayStore,
        *,
        index_url: str = INDEX_URL,
        locks: Path = LOCKS,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._store = store
        self._index_url = environ.get(INDEX_VARIABLE) or index_url
        self._locks = locks
        self._environ = environ

    def source_of(self, variant: str) -> BuildSource:
        """Return where the build comes from."""
        lock = self._locks / f"{variant}.lock"
        # A lock of another version is of no use for this one.
        is_locked = lock.exists() and self._store.version in lock.read_text(encoding="utf-8")
        return BuildSource(
            variant,
            self._store.version,
            f"{self._index_url.rstrip('/')}/{variant}/",
            _RUNTIME_PACKAGES.get(variant, ()) if sys.platform.startswith("linux") else (),
            lock if is_locked else None,
            DOWNLOAD_BYTES[variant],
        )

    def install(self, source: BuildSource) -> Overlay:
        """Download and unpack a build, which is not verified yet. Raises `InstallFailed`."""
        try:
            with self._store.new_directory(source.variant) as directory:
                self._check_disk(directory, source)
                if source.lock is not None:
                    self._run_pip(directory, "--require-hashes", "--requirement", str(source.lock))
                else:
                    # This index only, whatever pip is configured to use: other indexes have the same version.
                    wheel = f"xllamacpp=={source.version}"
                    self._run_pip(directory, "--index-url", source.url, wheel, own_index=True)
                    if source.runtime_packages:
                        self._run_pip(directory, *source.runtime_packages)
                if not (directory / "xllamacpp").is_dir():
                    raise InstallFailed("the package has no module xllamacpp")
        except OSError as error:
            raise InstallFailed(f"{error.filename or self._store.directory}: {error.strerror}") from None
        overlay = self._store.find(source.variant)
        if overlay is None:
            raise InstallFailed("its directory is gone")
        return overlay

    def _check_disk(self, directory: Path, source: BuildSource) -> None:
        needed, free = source.download_bytes * _DISK_FACTOR, shutil.disk_usage(directory).free
        if free < needed:
            where = f"{directory.parent} has {free / 1e9:.1f} GB"
            raise InstallFailed(f"it needs about {needed / 1e9:.1f} GB of free disk, {where}")

    def _run_pip(self, directory: Path, *arguments: str, own_index: bool = False) -> None:
        environment = pip_environment(self._environ)
        if own_index:
            environment = {
                name: value
                for name, value in environment.items()
                if not name.startswith("PIP_") or name in _PIP_SETTINGS
            } | {"PIP_CONFIG_FILE": os.devnull}
        command = [
            *pip_command(), "install", "--target", str(directory), "--no-deps",
            "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", *arguments,
        ]  # fmt: skip
        if not sys.stderr.isatty():
            command.append("--quiet")
        # Its progress is for the user, its errors are for the report.
        done = subprocess.run(
            command, env=environment, stdout=sys.__stderr__, stderr=subprocess.PIPE, check=False
        )
        if done.returncode != 0:
            raise InstallFailed(last_line(done.stderr) or f"pip ended with status {done.returncode}")
