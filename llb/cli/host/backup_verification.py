"""`llb backup verify`: proves that a backup can be restored, without touching the data directory."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from llb.cli import output
from llb.cli.errors import CommandError, UsageError
from llb.cli.host.sealed_secrets import list_sealed
from llb.cli.options import home_of
from llb.config import load_config
from llb.security.secret_box import KEY_FILE_NAME, SecretBox, SecretUnreadable
from llb.store.backup_rotation import list_backups
from llb.store.database import Reader
from llb.store.restore_rehearsal import CheckedSecrets, RehearsedBackup, rehearse_restore

# The word after `llb backup`.
VERIFY = "verify"


def verify_backup(options: argparse.Namespace) -> int:
    """`llb backup verify [BACKUP]`: exit status 1 for a backup that cannot be restored."""
    if options.to is not None or options.keep is not None or options.models is not None or options.force:
        raise UsageError("'llb backup verify' takes no flags: it only reads.")
    home = home_of(options)
    given = options.verified
    backup = _find_backup(
        load_config({"home": str(home)}).backup_dir if given is None else Path(given).expanduser().absolute()
    )
    secret_box = SecretBox(home / KEY_FILE_NAME)
    rehearsed = asyncio.run(rehearse_restore(backup, lambda db: _check_secrets(db, secret_box)))
    for line in _describe(backup, rehearsed, home):
        output.print_line(line)
    return 0


async def _check_secrets(db: Reader, secret_box: SecretBox) -> CheckedSecrets:
    readable: list[str] = []
    unreadable: list[str] = []
    for secret, name in (await list_sealed(db)).items():
        try:
            secret_box.open(secret.sealed, secret.owner)
            readable.append(name)
        except SecretUnreadable:
            unreadable.append(name)
    return CheckedSecrets(readable, unreadable)


def _find_backup(path: Path) -> Path:
    """The file itself, or the newest backup of a directory. Raises `CommandError`."""
    if path.is_file():
        return path
    backups = list_backups(path)
    if not backups:
        what = "no backup in" if path.is_dir() else "no file"
        raise CommandError(f"There is {what} {path}: name a file that 'llb backup' wrote.")
    return backups[-1]


def _describe(backup: Path, rehearsed: RehearsedBackup, home: Path) -> list[str]:
    counts = (
        ("user", rehearsed.users),
        ("key", rehearsed.keys),
        ("node", rehearsed.nodes),
        ("model", rehearsed.models),
        ("request", rehearsed.requests),
    )
    parts = [f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in counts]
    size, saved_at = output.format_size(backup.stat().st_size), output.format_time(backup.stat().st_mtime)
    lines = [
        f"{backup} ({size}, {saved_at}) can be restored: {', '.join(parts)}.",
    ]
    if not rehearsed.has_checksum:
        lines.append("It has no checksum, because an older llb wrote it: changes do not show.")
    secrets, key_file = rehearsed.secrets, home / KEY_FILE_NAME
    if secrets.readable:
        count = len(secrets.readable)
        noun = "secret is" if count == 1 else "secrets are"
        lines.append(f"{count} {noun} readable with {key_file}, which is not in the backup: keep it too.")
    lines += [f"{name} is not readable with {key_file}: enter it again." for name in secrets.unreadable]
    return lines
