"""Smoke test of packaging/Containerfile without a container engine and without a registry.

    python -m tools.container_smoke ROOT [--target cpu]

ROOT is a root file system with Python, as debootstrap makes it from Debian's packages; it stands in for the
base image and is changed:

    debootstrap --variant=minbase \\
        --include=python3,python3-venv,python-is-python3,ca-certificates bookworm ROOT

The instructions of the file are carried out there (COPY, RUN in a chroot, ENV, USER), then its command is
started as its user, who has no entry in /etc/passwd: without a password it must refuse to listen, with one
it must become healthy, by the health check of the file, stop on SIGTERM, and start again with its data.
Needs root. `--pip-config FILE` is copied to the place of pip.conf, for a machine with a package index of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CONTAINERFILE = PROJECT / "packaging" / "Containerfile"
HEALTHY_DEADLINE_S = 90.0
STOP_DEADLINE_S = 30.0
CHROOT, MOUNT, UNSHARE = "/usr/sbin/chroot", "/usr/bin/mount", "/usr/bin/unshare"
NAMESPACE_VARIABLE = "SMOKE_NAMESPACE"
ROOT_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


@dataclass
class Stage:
    """One stage of the file: its name, what it begins with, and its instructions in order."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """State that the instructions of a stage build up, beside the files."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    directory: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)


def parse_containerfile(text: str) -> list[Stage]:
    """Return the stages. Knows the instructions that the file of this project uses; others raise."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\\n", " ", text)
    stages: list[Stage] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, base))
        elif stages:
            stages[-1].instructions.append((instruction, rest.strip()))
        elif instruction != "ARG":
            raise ValueError(f"{instruction} before FROM")
    return stages


def lineage_of(stages: list[Stage], target: str) -> list[Stage]:
    """Return the stages that lead to `target`, those that it copies from first."""
    by_name = {stage.name: stage for stage in stages}
    stage = by_name[target]
    found = lineage_of(stages, stage.base) if stage.base in by_name else []
    for instruction, rest in stage.instructions:
        source = re.match(r"--from=(\S+)", rest)
        if instruction == "COPY" and source:
            found = [*(each for each in lineage_of(stages, source[1]) if each not in found), *found]
    return [*found, stage]


class ChrootBuilder:
    """Carries out instructions in one root file system; all stages share it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def build(self, stages: list[Stage]) -> Image:
        """Carry out the stages in order; returns the image of the last one, and of those it is based on."""
        images: dict[str, Image] = {}
        image = Image()
        for stage in stages:
            image = images.get(stage.base, Image())
            for instruction, rest in stage.instructions:
                self._apply(image, instruction, rest)
            images[stage.name] = image
        return image

    def _apply(self, image: Image, instruction: str, rest: str) -> None:
        print(f"{instruction} {rest[:100]}", flush=True)
        match instruction:
            case "WORKDIR":
                image.directory = rest
                self.path_of(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(image, shlex.split(rest))
            case "RUN":
                environment = {**ROOT_ENVIRONMENT, **image.environment}
                command = ["sh", "-ec", f"cd {shlex.quote(image.directory)} && {rest}"]
                subprocess.run(self.command_of(image, command), env=environment, check=True)
            case "ENV":
                image.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                image.user = rest
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.health_check = json.loads(rest.partition(" CMD ")[2])
            case "VOLUME" | "EXPOSE":
                pass
            case _:
                raise ValueError(f"unknown instruction {instruction}")

    def _copy(self, image: Image, words: list[str]) -> None:
        if words[0].startswith("--from="):
            # The stages share their files.
            _require(words[1:2] == words[2:], f"COPY {words}: the path must stay")
            return
        *sources, target = words
        for source in map(PROJECT.joinpath, sources):
            place = self.path_of(str(Path(image.directory) / target))
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True)
            else:
                place = place / source.name if target.endswith("/") else place
                shutil.copy2(source, place)

    def path_of(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def command_of(self, image: Image, command: list[str]) -> list[str]:
        """Command that runs in the root file system as the user of the image, in group 0 as in containers."""
        return [CHROOT, f"--userspec={image.user}:0", "--groups=", str(self._root), *command]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"The container file does not work: {message}")


def check_image(builder: ChrootBuilder, image: Image, port: int) -> None:
    """Start the command of the image and check what the image promises. Raises `SystemExit`."""
    command = builder.command_of(image, [*image.entrypoint, *image.command, "--port", str(port)])
    health = builder.command_of(image, image.health_check)

    def is_healthy() -> bool:
        return subprocess.run(health, env=image.environment, check=False, capture_output=True).returncode == 0

    passwd = builder.path_of("/etc/passwd").read_text()
    _require(f":{image.user}:" not in passwd, "the user has an entry in /etc/passwd")
    refused = subprocess.run(command, env=image.environment, capture_output=True, text=True, check=False)
    _require(refused.returncode == 1 and "LLB_ADMIN_PASSWORD" in refused.stderr, refused.stderr)
    print(f"without a password: {refused.stderr.strip().splitlines()[-1]}")
    _require(not is_healthy(), "it is healthy without a server")
    for attempt in ("first", "second"):
        started_at = time.monotonic()
        with subprocess.Popen(
            command, env={**image.environment, "LLB_ADMIN_PASSWORD": "correct horse battery"}
        ) as process:
            try:
                while not is_healthy():
                    _require(process.poll() is None, "it has ended")
                    is_late = time.monotonic() - started_at > HEALTHY_DEADLINE_S
                    _require(not is_late, "it did not become healthy")
                print(f"{attempt} start: healthy after {time.monotonic() - started_at:.1f} s")
                sandbox = builder.command_of(image, [*image.entrypoint, "doctor", "--json"])
                shown = subprocess.run(
                    sandbox, env=image.environment, capture_output=True, text=True, check=False
                )
                findings = json.loads(shown.stdout)["findings"]
                bad = [finding for finding in findings if finding["level"] == "bad"]
                _require(not bad, str(bad))
                owner = builder.path_of("/data/llb.db").stat().st_uid
                _require(owner == int(image.user), f"the database belongs to {owner}")
            finally:
                process.send_signal(signal.SIGTERM)
            status = process.wait(STOP_DEADLINE_S)
            _require(status == 0, f"it stopped with {status}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Smoke test of packaging/Containerfile in a chroot.")
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--port", type=int, default=18_080)
    parser.add_argument("--pip-config", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("chroot needs root")
    if os.environ.get(NAMESPACE_VARIABLE) != "1":
        # The mounts belong to this process, and end with it.
        os.environ[NAMESPACE_VARIABLE] = "1"
        words = [sys.executable, "-m", "tools.container_smoke", *sys.argv[1:]]
        os.execv(UNSHARE, [UNSHARE, "--mount", "--propagation", "private", *words])  # noqa: S606
    root = options.root.resolve()
    for source in (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")):
        shutil.copy2(source, root / source.relative_to("/"))
    if options.pip_config is not None:
        shutil.copy2(options.pip_config, root / "etc" / "pip.conf")
    mounts = {"proc": ["-t", "proc", "proc"], "sys": ["--rbind", "/sys"], "dev": ["--rbind", "/dev"]}
    for name, words in mounts.items():
        subprocess.run([MOUNT, *words, str(root / name)], check=True)
    builder = ChrootBuilder(root)
    stages = lineage_of(parse_containerfile(CONTAINERFILE.read_text()), options.target)
    check_image(builder, builder.build(stages), options.port)
    print("The container file works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
