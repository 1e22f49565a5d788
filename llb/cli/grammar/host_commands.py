"""Arguments of the commands for this host: checks, engine builds, backups."""

from __future__ import annotations

from llb.cli.grammar.command_parser import CommandAdder, CommandParser, add_actions
from llb.cli.grammar.flags import add_json_flag, add_settings, add_yes_flag, parse_positive_int
from llb.policy.engine_build.choice import GPU_BUILDS

# Default of --keep.
KEPT_BACKUPS = 7


def add_host_commands(commands: CommandAdder) -> None:
    """Add the commands from `doctor` to `version`."""
    doctor = commands.add(
        "doctor", "find problems of this host, and their remedies", "host.doctor:run_doctor"
    )
    add_settings(doctor, excluded="home")
    doctor.add_argument(
        "--health",
        action="store_true",
        default=False,
        help="only ask the server whether it can serve requests, for health checks",
    )
    add_json_flag(doctor)
    _add_settings_command(commands)
    _add_engine(commands)
    _add_service(commands)
    _add_backup(commands)
    _add_restore(commands)
    _add_support_bundle(commands)
    _add_upgrade(commands)
    _add_completion(commands)
    commands.add("version", "print the version", "main:version")


def _add_backup(commands: CommandAdder) -> None:
    backup = commands.add(
        "backup",
        "save the database, also while the server runs",
        "host.database:backup",
        examples=(
            "llb backup ~/llb.backup",
            "llb backup ~/llb.backup --models /mnt/usb/models",
            "llb backup --to /mnt/usb/backups --keep 14",
            "llb backup verify ~/llb.backup",
        ),
        details="'verify' restores a backup, or the newest of a directory, into a temporary directory and "
        "says what it would bring back (default: the newest automatic backup).",
    )
    backup.add_argument("file", nargs="?", metavar="FILE", default=None, help="file to write, or: verify")
    backup.add_argument("verified", nargs="?", metavar="BACKUP", default=None, help="after verify")
    backup.add_argument("--to", metavar="DIR", default=None, help="write a new file into DIR instead")
    backup.add_argument(
        "--keep",
        metavar="N",
        type=parse_positive_int,
        default=None,
        help=f"with --to: remove all but the N newest backups of DIR (default: {KEPT_BACKUPS})",
    )
    backup.add_argument("--force", action="store_true", default=False, help="replace FILE if it exists")
    backup.add_argument(
        "--models", metavar="DIR", default=None, help="also copy the verified model files to DIR"
    )


def _add_restore(commands: CommandAdder) -> None:
    restore = commands.add(
        "restore", "replace the database by a backup; the previous one is kept", "host.database:restore"
    )
    restore.add_argument("file", metavar="FILE")
    restore.add_argument(
        "--models",
        metavar="DIR",
        default=None,
        help="also restore the model files that 'backup' copied to DIR",
    )
    restore.add_argument(
        "--revive",
        action="store_true",
        default=False,
        help="also bring back keys, users, nodes and passwords that were revoked since",
    )
    add_yes_flag(restore)


def _add_support_bundle(commands: CommandAdder) -> None:
    bundle = commands.add(
        "support-bundle",
        "write what a maintainer needs to help, without secrets",
        "host.support_bundle:write_bundle",
        details="Shows the text first, then asks. Nothing is sent.",
    )
    bundle.add_argument(
        "file", nargs="?", metavar="FILE", default=None, help="default: llb-support-….txt here"
    )
    add_yes_flag(bundle)


def _add_upgrade(commands: CommandAdder) -> None:
    upgrade = commands.add(
        "upgrade",
        "show how to upgrade, and newer versions",
        "host.upgrade:describe_upgrade",
    )
    upgrade.add_argument(
        "--check",
        action="store_true",
        default=False,
        help="ask the package index of pip for newer versions; nothing is downloaded",
    )
    add_json_flag(upgrade)


def _add_completion(commands: CommandAdder) -> None:
    completion = commands.add(
        "completion",
        "print a completion script for bash, zsh or fish",
        "host.completion:print_script",
        examples=(
            "llb completion bash > ~/.local/share/bash-completion/completions/llb",
            "llb completion zsh > ~/.zfunc/_llb",
            "llb completion fish > ~/.config/fish/completions/llb.fish",
        ),
    )
    completion.add_argument(
        "shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish"
    )


def _add_service(commands: CommandAdder) -> None:
    service = commands.add(
        "service",
        "run llb as a service of systemd: install, status, uninstall",
        None,
        examples=(
            "sudo llb service install",
            "llb service install --user --port 8081",
            "llb service install --print",
        ),
    )
    actions = add_actions(service, is_required=True)
    install = actions.add(
        "install",
        "write the unit, enable and start it; again to change it",
        "host.service:install",
        details="The flags become those of the service. Secrets of this command (LLB_ADMIN_PASSWORD, "
        "HF_TOKEN, the join token) are stored in a file of their own, readable by root or by the user.",
    )
    _add_user_flag(install)
    install.add_argument(
        "--print", action="store_true", default=False, help="print the unit, and change nothing"
    )
    add_settings(install, excluded="home")
    _add_user_flag(actions.add_json("status", "show whether the service runs", "host.service:status"))
    _add_user_flag(
        actions.add("uninstall", "stop and remove the service; its data stays", "host.service:uninstall")
    )


def _add_user_flag(parser: CommandParser) -> None:
    parser.add_argument(
        "--user", action="store_true", default=False, help="the service of this user, without root"
    )


def _add_settings_command(commands: CommandAdder) -> None:
    command = commands.add(
        "settings",
        "show the settings, and change some while the server runs",
        "host.settings:list_settings",
        remote=True,
        examples=(
            "llb settings",
            "llb settings set parallel 8",
            "llb settings set hf_token < token.txt",
            "llb settings reset parallel",
        ),
        details="A changed value takes effect at once and stays after a restart; 'parallel' and 'context' "
        "apply to models that are loaded from then on.",
    )
    add_json_flag(command)
    actions = add_actions(command)
    change = actions.add("set", "change a setting", "host.settings:set_setting", remote=True)
    change.add_argument("name", metavar="NAME", help="as 'llb settings' lists it")
    change.add_argument(
        "value", metavar="VALUE", nargs="?", default=None, help="new value; a secret is asked for instead"
    )
    reset = actions.add(
        "reset", "return to the value that llb was started with", "host.settings:reset_setting", remote=True
    )
    reset.add_argument("name", metavar="NAME", help="as 'llb settings' lists it")


def _add_engine(commands: CommandAdder) -> None:
    engine = commands.add("engine", "list, install and select builds of llama.cpp", "host.engine:list_builds")
    add_json_flag(engine)
    actions = add_actions(engine)
    actions.add_json("list", "list the builds on this host", "host.engine:list_builds")
    install = actions.add(
        "install",
        "install the best build for the GPUs of this host, and try it",
        "host.engine:install_build",
    )
    install.add_argument(
        "variant",
        nargs="?",
        metavar="BUILD",
        default=None,
        help=f"{', '.join(GPU_BUILDS)} (default: automatic)",
    )
    add_yes_flag(install)
    use = actions.add("use", "use a build, or with auto the best one again", "host.engine:use_build")
    use.add_argument("variant", metavar="BUILD", help="auto, cpu, or one that is installed")
