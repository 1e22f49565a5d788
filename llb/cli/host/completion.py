"""`llb completion SHELL`: completion scripts, generated from the argument parser.

The scripts contain the commands and flags. Ids of models, nodes and keys come from `llb` when they are
completed, and nothing is completed for them while no server runs.
"""

from __future__ import annotations

import argparse
from shlex import quote

from msgspec import Struct, field

from llb.cli import output
from llb.cli.grammar.parser import build_parser

# Command that lists the values of an argument, by its metavar: the first column below a heading.
_VALUE_COMMANDS = {"ID": "models", "NODE": "nodes", "KEY": "keys"}
# Arguments that are files.
_FILES = frozenset({"FILE", "DIR", "BACKUP", "ID|FILE.gguf"})


class _Word(Struct):
    """Command or action: its summary, flags with help, words that may follow, and what its arguments are."""

    summary: str = ""
    flags: dict[str, str] = field(default_factory=dict)
    words: dict[str, _Word] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    value_command: str | None = None
    takes_file: bool = False


def print_script(options: argparse.Namespace) -> int:
    """`llb completion SHELL`"""
    root = _read_parser(build_parser())
    write = {"bash": _bash_script, "zsh": _zsh_script, "fish": _fish_script}[options.shell]
    output.print_line(write(root))
    return 0


def _read_parser(parser: argparse.ArgumentParser, summary: str = "") -> _Word:
    word = _Word(summary)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            summaries = {each.dest: each.help or "" for each in action._choices_actions}
            for name, child in action.choices.items():
                word.words[name] = _read_parser(child, summaries.get(name, ""))
        elif action.option_strings:
            word.flags |= dict.fromkeys(action.option_strings, action.help or "")
        else:
            metavar = action.metavar if isinstance(action.metavar, str) else ""
            word.value_command = word.value_command or _VALUE_COMMANDS.get(metavar)
            word.takes_file = word.takes_file or metavar in _FILES
            word.choices += tuple(action.choices or ())
    return word


def _candidates(word: _Word) -> list[str]:
    return [*word.words, *word.choices, *word.flags]


# The second words of `llb models` and so on: the first column of a table.
_LIST_VALUES = """llb {} 2>/dev/null | awk 'NR > 1 && $1 !~ /^[─-]/ {{print $1}}'"""


def _bash_script(root: _Word) -> str:
    cases: list[str] = []
    for name, command in root.words.items():
        cases.append(_bash_case(name, command))
        cases += [_bash_case(f"{name} {action}", word) for action, word in command.words.items()]
    body = "\n".join(cases)
    # zsh runs it too, where `path`, `words` and slices with names mean something else.
    return f"""# bash completion for llb
_llb() {{
    local typed=${{COMP_WORDS[COMP_CWORD]}} command="" word candidates="" index
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        case $word in
            -*) ;;
            *) [[ -z $command || $command != *" "* ]] && command="${{command:+$command }}$word" ;;
        esac
    done
    COMPREPLY=()
    case $command in
        "") candidates="{" ".join(_candidates(root))}" ;;
{body}
        *)
            # The argument of a command: its own case, without the last word.
            command=${{command% *}}
            case $command in
{body}
            esac
            ;;
    esac
    COMPREPLY+=($(compgen -W "$candidates" -- "$typed"))
}}
complete -F _llb llb"""


def _bash_case(path: str, word: _Word) -> str:
    parts = [f'candidates="{" ".join(_candidates(word))}"']
    if word.value_command is not None:
        parts.append(f'candidates+=" $({_LIST_VALUES.format(word.value_command)})"')
    if word.takes_file:
        parts.append('COMPREPLY=($(compgen -f -- "$typed"))')
    return f"        {quote(path)}) {'; '.join(parts)} ;;"


def _zsh_script(root: _Word) -> str:
    # zsh runs completions of bash; its own menu shows them.
    return f"#compdef llb\nautoload -U +X bashcompinit && bashcompinit\n{_bash_script(root)}"


def _fish_script(root: _Word) -> str:
    lines = ["# fish completion for llb", "complete -c llb -f"]
    lines += _fish_words(root, "__fish_use_subcommand")
    for name, command in root.words.items():
        lines += _fish_words(command, f"__fish_seen_subcommand_from {name}")
        for action, word in command.words.items():
            lines += _fish_words(
                word, f"__fish_seen_subcommand_from {name}; and __fish_seen_subcommand_from {action}"
            )
    return "\n".join(lines)


def _fish_words(word: _Word, condition: str) -> list[str]:
    def line(arguments: str, help_text: str = "") -> str:
        description = f" -d {quote(help_text)}" if help_text else ""
        return f"complete -c llb -n {quote(condition)} {arguments}{description}"

    lines = [line(f"-a {name}", child.summary) for name, child in word.words.items()]
    lines += [line(f"-a {choice}") for choice in word.choices]
    for flag, help_text in word.flags.items():
        lines.append(line(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}", help_text))
    if word.value_command is not None:
        lines.append(line(f"-a {quote('(' + _LIST_VALUES.format(word.value_command) + ')')}"))
    if word.takes_file:
        lines.append(line("-F"))
    return lines
