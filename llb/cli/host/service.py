"""`llb service`: llb as a service of systemd, started at boot and again after a failure."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from llb.base import installation, platform_compat, runfile
from llb.base.installation import InstallKind
from llb.cli import output
from llb.cli.errors import CommandError
from llb.cli.grammar.flags import flags_of
from llb.cli.host.systemd_unit import MARKER, UNIT_NAME, ServiceUnit, render_unit
from llb.config import DEFAULT_HOST, SECRET_FIELDS, SETTINGS, Config, default_home, load_config

SYSTEM_HOME = Path("/var/lib/llb")
SERVICE_USER = "llb"
# Groups that own the devices of GPUs, on distributions that have them.
GPU_GROUPS = ("video", "render")
# What ProtectHome= hides from the service.
HIDDEN_DIRECTORIES = (Path("/home"), Path("/root"), Path("/run/user"))
OPERATIONS_PAGE = "docs/operations.md"
STOP_OF_SERVER_S = 14.0
COMMAND_TIMEOUT_S = 30.0
START_TIMEOUT_S = 660.0
_SHOWN_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "StatusText",
    "NRestarts",
)


class ServiceScope(Struct, frozen=True):
    """Where the unit of the system, or of one user, and its environment file are."""

    is_user: bool
    unit_path: Path
    environment_file: Path

    @property
    def systemctl(self) -> list[str]:
        return ["systemctl", *(["--user"] if self.is_user else [])]

    @property
    def log_command(self) -> str:
        return f"journalctl {'--user ' if self.is_user else ''}-u llb"


def scope_of(*, is_user: bool, root: Path = Path("/")) -> ServiceScope:
    """Scope of the system below `root`, or of this user."""
    if not is_user:
        return ServiceScope(False, root / "etc/systemd/system" / UNIT_NAME, root / "etc/llb/llb.env")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return ServiceScope(True, base / "systemd/user" / UNIT_NAME, base / "llb/llb.env")


# --- llb service install ------------------------------------------------------------------------------


def install(options: argparse.Namespace) -> int:
    """`llb service install`"""
    scope = scope_of(is_user=options.user)
    flags = flags_of(options)
    config = _config_of(flags, scope)
    unit = build_unit(config, flags, scope)
    if options.print:
        output.print_line(render_unit(unit).rstrip())
        return 0
    require_systemd(scope)
    if not scope.is_user:
        require_root(f"{installation.command_path()} service install")
    if scope.unit_path.exists() and not scope.unit_path.read_text(errors="replace").startswith(MARKER):
        raise CommandError(f"{scope.unit_path} exists and was not written by llb: move it away first.")
    if not scope.is_user:
        uid, gids = _ensure_user(SERVICE_USER)
        for path, is_written in _needed_paths(unit.command, config):
            require_access(path, uid, gids, is_written=is_written)
    _require_password(config)
    write_environment_file(scope.environment_file, os.environ, flags)
    scope.unit_path.parent.mkdir(parents=True, exist_ok=True)
    scope.unit_path.write_text(render_unit(unit))
    _run([*scope.systemctl, "daemon-reload"])
    _run([*scope.systemctl, "enable", UNIT_NAME])
    try:
        _run([*scope.systemctl, "restart", UNIT_NAME], timeout_s=START_TIMEOUT_S)
    except CommandError as error:
        raise CommandError(
            f"The service was installed but does not start: '{scope.log_command} -n 20' says why. ({error})"
        ) from None
    _print_installed(scope, config)
    return 0


def build_unit(config: Config, flags: Mapping[str, str | list[str]], scope: ServiceScope) -> ServiceUnit:
    """Unit for these settings; what is not in `flags` is read by the service itself."""
    stop_timeout_s = config.drain_timeout_s + STOP_OF_SERVER_S
    command = [*installation.program_command(), *_flags_as_arguments(flags)]
    if scope.is_user:
        return ServiceUnit(
            command=command,
            home=config.home,
            environment_file=scope.environment_file,
            stop_timeout_s=stop_timeout_s,
        )
    modprobe = find_root_program("nvidia-modprobe")
    writable = [config.home, config.models_dir, *([config.backup_to] if config.backup_to else [])]
    writable += [config.log_file.parent] if config.log_file else []
    return ServiceUnit(
        command=command,
        home=config.home,
        environment_file=scope.environment_file,
        stop_timeout_s=stop_timeout_s,
        user=SERVICE_USER,
        groups=[name for name in GPU_GROUPS if _has_group(name)],
        writable_paths=[path for path in writable if not path.is_relative_to(SYSTEM_HOME)],
        needs_low_port=any(0 < port < 1024 for port in (config.port, config.ollama_port or 0)),
        nvidia_modprobe=modprobe,
    )


def find_root_program(name: str, search_path: str | None = None) -> Path | None:
    """Find a program that root may run: only root can change it, or what is on the way to it.

    The `PATH` of a shell may lead through directories of its user.
    """
    found = shutil.which(name, path=search_path)
    if found is None:
        return None
    program = Path(found).resolve()
    for each in (program, *program.parents):
        status = each.stat()
        if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
    return program


def _config_of(flags: Mapping[str, str | list[str]], scope: ServiceScope) -> Config:
    """Settings with which the service will run. Raises `SetupError`."""
    # LLB_HOME of this shell is the home of this user.
    own_home = os.environ.get("LLB_HOME") or default_home() if scope.is_user else SYSTEM_HOME
    home = str(flags.get("home") or own_home)
    passed_on = {setting.env for setting in SETTINGS if setting.field in SECRET_FIELDS}
    # The service does not have the environment of this shell.
    environment = {name: value for name, value in os.environ.items() if name in passed_on}
    return load_config({**flags, "home": home}, environment)


def _flags_as_arguments(flags: Mapping[str, str | list[str]]) -> list[str]:
    """Arguments of the service: paths are absolute, and secrets are in its environment file instead."""
    arguments: list[str] = []
    for setting in SETTINGS:
        value = flags.get(setting.field)
        if value is None or setting.flag is None or setting.field in SECRET_FIELDS or setting.field == "home":
            continue
        if setting.is_switch:
            arguments.append(setting.flag)
            continue
        for text in value if isinstance(value, list) else [value]:
            parsed = setting.parse(text)
            arguments += [setting.flag, str(parsed) if isinstance(parsed, Path) else text]
    return arguments


def write_environment_file(
    path: Path, environment: Mapping[str, str], flags: Mapping[str, str | list[str]]
) -> None:
    """Add the secrets of this shell to the lines of the file, with mode 0600.

    systemd reads the file before it changes the user.
    """
    given = {
        setting.env: str(flags.get(setting.field) or environment.get(setting.env) or "")
        for setting in SETTINGS
        if setting.field in SECRET_FIELDS
    }
    lines = path.read_text().splitlines() if path.exists() else [_ENVIRONMENT_HINT]
    for name, value in given.items():
        if value:
            lines = [line for line in lines if not line.startswith(f"{name}=")]
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{name}="{escaped}"')
    path.parent.mkdir(parents=True, exist_ok=True)
    platform_compat.write_private_file(path, "\n".join([*lines, ""]).encode())


_ENVIRONMENT_HINT = (
    "# Environment of the llb service: one NAME=value a line, such as HTTPS_PROXY=http://proxy:3128"
)


def _needed_paths(command: Sequence[str], config: Config) -> list[tuple[Path, bool]]:
    """Files and directories that the service has to read, or with True to write."""
    program = [Path(word) for word in command[:2] if word.startswith("/")]
    if installation.kind() is not InstallKind.FILE:
        # The service unpacks llb.pyz for itself.
        program.append(Path(__file__).resolve().parents[2])
    read = [*program, config.catalog, config.tls_cert, config.tls_key]
    log_dir = None if config.log_file is None else config.log_file.parent
    written = [config.home, config.models_dir, config.backup_to, log_dir]
    return [
        *((path, False) for path in read if path is not None),
        *((path, True) for path in written if path is not None and not path.is_relative_to(SYSTEM_HOME)),
    ]


def require_access(path: Path, uid: int, gids: Sequence[int], *, is_written: bool = False) -> None:
    """Raise `CommandError` if a process of this user cannot use `path`, in a unit that protects homes."""
    resolved = path.resolve()
    for hidden in HIDDEN_DIRECTORIES:
        if path.is_relative_to(hidden) or resolved.is_relative_to(hidden):
            raise CommandError(
                f"{path} is in {hidden}, which the service cannot read: move it elsewhere (a program into "
                "/opt/llb, for example), or use 'llb service install --user'."
            )
    for part in (*reversed(resolved.parents), resolved):
        try:
            status = part.stat()
        except FileNotFoundError:
            raise CommandError(
                f"{part} does not exist: create it, and give it to the user {SERVICE_USER}."
            ) from None
        # Search for the directories on the way.
        wanted = 0o1
        if part == resolved:
            wanted = 0o7 if is_written else 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
        shift = 6 if status.st_uid == uid else 3 if status.st_gid in gids else 0
        if (status.st_mode >> shift) & wanted != wanted:
            raise CommandError(
                f"The user {SERVICE_USER} of the service cannot {'write' if is_written else 'read'} {part}: "
                "change its permissions, or use 'llb service install --user'."
            )


def _require_password(config: Config) -> None:
    """Refuse the default password on the network at the first start, as the server would."""
    is_first_start = not config.database_path.exists() and config.join is None
    if is_first_start and config.listen_host != DEFAULT_HOST and config.admin_password is None:
        raise CommandError(
            f"Listening on {config.listen_host} needs a password: set LLB_ADMIN_PASSWORD for this command, "
            "and it is stored for the service."
        )


def _ensure_user(name: str) -> tuple[int, list[int]]:
    """User id and group ids of the service's user, who is created if there is none."""
    import pwd

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if shutil.which("useradd") is None:
            raise CommandError(f"There is no user {name}, and no useradd: create that user first.") from None
        home, shell = str(SYSTEM_HOME), "/usr/sbin/nologin"
        _run(["useradd", "--system", "--user-group", "--home-dir", home, "--shell", shell, name])
        entry = pwd.getpwnam(name)
    return entry.pw_uid, os.getgrouplist(name, entry.pw_gid)


def _has_group(name: str) -> bool:
    if sys.platform == "win32":
        return False
    import grp

    with suppress(KeyError):
        grp.getgrnam(name)
        return True
    return False


def _print_installed(scope: ServiceScope, config: Config) -> None:
    info = None
    with suppress(OSError):
        info = runfile.find_running_server(config.home)
    where = "" if info is None else f" at {info.url}"
    output.print_line(
        f"llb runs as a service{where}, and starts with this {'user' if scope.is_user else 'host'}."
    )
    output.print_line(f"Data: {config.home}. Log: {scope.log_command}. Unit: {scope.unit_path}.")
    command = installation.command_path()
    if scope.is_user:
        output.print_line(
            f"It ends when you log out, unless: loginctl enable-linger {os.environ.get('USER', '')}".rstrip()
        )
    else:
        output.print_line(f"Commands: sudo -u {SERVICE_USER} {command} --home {config.home} models")


# --- llb service status and uninstall -----------------------------------------------------------------


def status(options: argparse.Namespace) -> int:
    """`llb service status`: exit status 0 if the service runs."""
    scope = find_scope(is_user=options.user)
    require_systemd(scope)
    shown = _show(scope)
    is_active = shown.get("ActiveState") == "active"
    if options.json:
        output.print_json(
            {
                "active": is_active,
                "state": shown.get("SubState"),
                "enabled": shown.get("UnitFileState") == "enabled",
                "pid": int(shown.get("MainPID") or 0) or None,
                "restarts": int(shown.get("NRestarts") or 0),
                "unit": str(scope.unit_path),
            }
        )
        return int(not is_active)
    if not scope.unit_path.exists():
        raise CommandError("No service is installed: 'llb service install' does that.")
    state = f"{shown.get('ActiveState')} ({shown.get('SubState')})"
    text = shown.get("StatusText")
    output.print_line(
        f"{state}{f', {text}' if text else ''}, {shown.get('UnitFileState')} at the start of the host"
    )
    output.print_line(
        f"Process: {shown.get('MainPID')}, restarted {shown.get('NRestarts')} times after failures"
    )
    output.print_line(f"Unit: {scope.unit_path}. Log: {scope.log_command}")
    return int(not is_active)


def uninstall(options: argparse.Namespace) -> int:
    """`llb service uninstall`: data, user and environment file stay."""
    scope = find_scope(is_user=options.user)
    require_systemd(scope)
    if not scope.unit_path.exists():
        raise CommandError("No service is installed.")
    if not scope.is_user:
        require_root(f"{installation.command_path()} service uninstall")
    if not scope.unit_path.read_text(errors="replace").startswith(MARKER):
        raise CommandError(f"{scope.unit_path} was not written by llb: remove it yourself.")
    # The running answers end first.
    _run([*scope.systemctl, "disable", "--now", UNIT_NAME], timeout_s=None)
    scope.unit_path.unlink()
    _run([*scope.systemctl, "daemon-reload"])
    home = _config_of(flags_of(options), scope).home
    output.print_line(
        f"The service is removed. Its data stays in {home}, its secrets in {scope.environment_file}."
    )
    return 0


def find_scope(*, is_user: bool) -> ServiceScope:
    """The system's service; this user's with `is_user`, or if it is the only one."""
    system, own = scope_of(is_user=False), scope_of(is_user=True)
    return own if is_user or (own.unit_path.exists() and not system.unit_path.exists()) else system


def require_systemd(scope: ServiceScope) -> None:
    """Raise `CommandError` where no systemd runs that could take the unit."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        raise CommandError(
            f"This host does not run systemd: {OPERATIONS_PAGE} says how llb is started by launchd, by "
            "Windows, and in a container."
        )
    if scope.is_user:
        try:
            _run([*scope.systemctl, "show-environment"])
        except CommandError:
            raise CommandError(
                "The systemd of this user cannot be reached: log in as the user, rather than with su or sudo."
            ) from None


def require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise CommandError(f"The service of the system needs root: sudo {command}, or with --user your own.")


def _show(scope: ServiceScope) -> dict[str, str]:
    shown = _run([*scope.systemctl, "show", UNIT_NAME, f"--property={','.join(_SHOWN_PROPERTIES)}"])
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def _run(command: Sequence[str], timeout_s: float | None = COMMAND_TIMEOUT_S) -> str:
    """Run a program of the system; returns its output. Raises `CommandError` with its last line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{command[0]} failed: {error}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CommandError(f"{' '.join(command[:3])} failed: {lines[-1]}")
    return done.stdout
