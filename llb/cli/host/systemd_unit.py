"""Unit of systemd that runs llb: its text, for the whole system or for one user. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from llb.cli.errors import CommandError

UNIT_NAME = "llb.service"
# The first line of a unit that may be replaced and removed.
MARKER = "# Written by 'llb service install', which replaces it. Own lines belong into 'systemctl edit llb'."
# After what the server takes itself: it ends its process if a disk or a driver hangs.
STOP_MARGIN_S = 15.0
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
# systemd ends a line at some of them, and what follows would be a setting of its own.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

# An engine on a GPU needs its devices and compiles code: no PrivateDevices, no MemoryDenyWriteExecute, and no
# ProtectClock, which limits the devices to that of the clock. llb finds out which program calls it and how
# much memory there is: no ProtectProc, no ProcSubset. The sandbox of the engines needs Landlock and seccomp,
# which @system-service of systemd 252 does not have.
_HARDENING = """\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
KeyringMode=private
UMask=0077
"""
# Only the manager of the system can do these.
_SYSTEM_HARDENING = """\
ProtectSystem=strict
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
RemoveIPC=yes
"""


class ServiceUnit(Struct, frozen=True, kw_only=True):
    """Contents of a unit. `groups` and `writable_paths` are for the system's unit only.

    `nvidia_modprobe` makes the devices of NVIDIA's driver, which no unprivileged process can after a reboot.
    """

    command: Sequence[str]
    home: Path
    environment_file: Path
    stop_timeout_s: float
    user: str | None = None
    groups: Sequence[str] = ()
    writable_paths: Sequence[Path] = ()
    needs_low_port: bool = False
    nvidia_modprobe: Path | None = None


def render_unit(unit: ServiceUnit) -> str:
    """Return the text of the unit; `unit.user` is None for the unit of one user.

    Raises `CommandError` for a word that no line of a unit can have.
    """
    is_system = unit.user is not None
    lines = [
        MARKER,
        "",
        "[Unit]",
        "Description=llb, one address for local language models",
        *(["Wants=network-online.target", "After=network-online.target"] if is_system else []),
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={join_words(unit.command)}",
        # The command kill is in a package that small systems do not have.
        'ExecReload=/bin/sh -c "kill -HUP ${MAINPID}"',
        "SyslogIdentifier=llb",
        "Restart=on-failure",
        "RestartSec=2",
        # Wrong usage does not become right.
        "RestartPreventExitStatus=2",
        # The first start may have to migrate a large database.
        "TimeoutStartSec=600",
        f"TimeoutStopSec={round(unit.stop_timeout_s + STOP_MARGIN_S)}",
        # The engines answer until the server has drained, and end with it.
        "KillMode=mixed",
        # The kernel may end an engine that needs too much memory; the server starts it again.
        "OOMPolicy=continue",
        "LimitNOFILE=65536",
        f"Environment={join_values([f'LLB_HOME={unit.home}'])}",
        f"EnvironmentFile=-{escape_specifiers(str(unit.environment_file))}",
    ]
    if unit.user is not None:
        lines += _system_lines(unit, unit.user)
    lines += ["", *_HARDENING.splitlines(), *(_SYSTEM_HARDENING.splitlines() if is_system else [])]
    lines += ["", "[Install]", f"WantedBy={'multi-user' if is_system else 'default'}.target", ""]
    return "\n".join(lines)


def _system_lines(unit: ServiceUnit, user: str) -> list[str]:
    capability = "CAP_NET_BIND_SERVICE" if unit.needs_low_port else ""
    lines = [
        f"User={user}",
        f"Group={user}",
        f"SupplementaryGroups={' '.join(unit.groups)}",
        "StateDirectory=llb",
        "StateDirectoryMode=0700",
        "CacheDirectory=llb",
        "CacheDirectoryMode=0700",
        "Environment=HOME=/var/lib/llb XDG_CACHE_HOME=/var/cache/llb",
        f"AmbientCapabilities={capability}",
        f"CapabilityBoundingSet={capability}",
        *(f"ReadWritePaths={join_values([str(path)])}" for path in unit.writable_paths),
    ]
    if unit.nvidia_modprobe is not None:
        # The prefix runs it as root (`+`) and lets the service start if it fails (`-`).
        lines.append(f"ExecStartPre=-+{join_words([str(unit.nvidia_modprobe), '-u', '-c=0'])}")
    return lines


def join_words(words: Sequence[str]) -> str:
    """Return words as a command line of a unit: quoted, and without specifiers and variables."""
    return join_values([word.replace("$", "$$") for word in words])


def join_values(values: Sequence[str]) -> str:
    """Return values of a setting other than a command line: quoted, and without specifiers."""
    return " ".join(_quote(escape_specifiers(value)) for value in values)


def escape_specifiers(text: str) -> str:
    """Return `text` without specifiers. Raises `CommandError` for control characters."""
    if _CONTROL_CHARACTER.search(text):
        raise CommandError(f"{text!r} contains a control character, which a service cannot have.")
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    if _PLAIN_WORD.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
