"""Arguments of the commands for this host: checks, engine builds, backups."""

from __future__ import annotations

from llb.cli.grammar.command_parser import CommandAdder, add_actions
from llb.cli.grammar.flags import add_json_flag, add_settings, add_yes_flag
from llb.policy.engine_build.choice import GPU_BUILDS


def add_host_commands(commands: CommandAdder) -> None:
    """Add `doctor`, `engine`, `backup`, `restore`, `completion`, `version`."""
    doctor = commands.add(
        "doctor", "find problems of this host, and their remedies", "host.doctor:run_doctor"
    )
    add_settings(doctor, excluded="home")
    add_json_flag(doctor)
    _add_engine(commands)
    backup = commands.add(
        "backup",
        "save the database, also while the server runs",
        "host.database:backup",
        examples=("llb backup ~/llb.backup", "llb backup ~/llb.backup --models /mnt/usb/models"),
    )
    backup.add_argument("file", metavar="FILE")
    backup.add_argument("--force", action="store_true", default=False, help="replace FILE if it exists")
    backup.add_argument(
        "--models", metavar="DIR", default=None, help="also copy the verified model files to DIR"
    )
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
    commands.add("version", "print the version", "main:version")


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
