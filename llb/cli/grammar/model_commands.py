"""Arguments of the commands for models."""

from __future__ import annotations

from llb.cli.grammar.command_parser import CommandAdder
from llb.cli.grammar.flags import (
    add_json_flag,
    add_model_argument,
    add_yes_flag,
    parse_duration_flag,
    parse_int,
    parse_positive_int,
    parse_size_flag,
    parse_sizes,
    parse_temperature,
)

# Like `ls` in Ollama and Docker, these list what is on the disk.
PULLED_ALIASES = ("ls", "list")


def add_model_commands(commands: CommandAdder) -> None:
    """Add `models`, `show`, `pull`, `rm`, `import`, `chat`, `ps`, `load`, `unload`, `fit`."""
    models = commands.add(
        "models",
        "list models",
        "models:list_models",
        remote=True,
        examples=("llb models", "llb models code 7b", "llb models --pulled --json"),
        aliases=PULLED_ALIASES,
        details="'llb ls' lists the pulled models.",
    )
    models.add_argument(
        "words", nargs="*", metavar="WORD", default=[], help="only models that match all words"
    )
    models.add_argument(
        "--pulled", action="store_true", default=False, help="only pulled models, with disk use and last use"
    )
    add_json_flag(models)

    show = commands.add("show", "show the details of a model", "loading:show_model", remote=True)
    add_model_argument(show)
    add_json_flag(show)

    pull = commands.add(
        "pull",
        "download a model",
        "pull:pull_model",
        remote=True,
        details="Shows the progress until the model is ready. Ctrl-C ends the display and not the download; "
        "'llb rm ID' cancels it.",
        examples=("llb pull llama-3.2-1b",),
    )
    add_model_argument(pull)

    rm = commands.add(
        "rm",
        "remove models from every node, or cancel their downloads",
        "models:remove_models",
        remote=True,
        details="'llb models --pulled' shows what each model takes on the disk, and when it was last used.",
        examples=("llb rm llama-3.2-1b", "llb rm llama-3.2-1b qwen3-4b --yes"),
    )
    rm.add_argument(
        "model_ids", metavar="ID", nargs="+", help="ids of the models, as 'llb models' lists them"
    )
    add_yes_flag(rm)

    import_ = commands.add(
        "import",
        "use a model file that is on this host already",
        "models:import_model",
        details="The file must be one of a model that 'llb models' lists; its sha256 identifies it.",
        examples=("llb import ~/Downloads/Llama-3.2-1B-Instruct-Q4_K_M.gguf",),
    )
    import_.add_argument("file", metavar="FILE", help="GGUF file")
    import_.add_argument(
        "--model", metavar="ID", default=None, help="model of the file, if its name does not match one"
    )
    _add_chat(commands)
    _add_loading(commands)
    _add_fit(commands)


def _add_chat(commands: CommandAdder) -> None:
    chat = commands.add(
        "chat",
        "chat with a model, or get one answer to PROMPT",
        "chat.command:chat",
        remote=True,
        details="Piped input is the prompt, or is appended to PROMPT; '-' as PROMPT reads it too. "
        "In a conversation, /help lists the commands.",
        examples=(
            "llb chat llama-3.2-1b",
            'llb chat llama-3.2-1b "Why is the sky blue?" --temperature 0',
            'llb chat llama-3.2-1b "Summarise:" < notes.txt',
            'llb chat gemma-3-4b-it "What is this?" --image photo.jpg',
        ),
        aliases=("run",),
    )
    add_model_argument(chat)
    chat.add_argument("prompt", nargs="*", metavar="PROMPT", default=[], help="words of the prompt")
    chat.add_argument("--system", metavar="TEXT", default=None, help="system prompt")
    chat.add_argument(
        "--max-tokens",
        metavar="N",
        type=parse_positive_int,
        default=None,
        help="maximum length of the answer in tokens",
    )
    chat.add_argument(
        "--temperature",
        metavar="T",
        type=parse_temperature,
        default=None,
        help="randomness, 0 to 2 (default: the model's)",
    )
    chat.add_argument(
        "--seed", metavar="N", type=parse_int, default=None, help="number that makes an answer repeatable"
    )
    chat.add_argument(
        "--image",
        dest="images",
        metavar="FILE",
        action="append",
        default=[],
        help="image for the first message, repeatable",
    )
    chat.add_argument(
        "--json", action="store_true", default=False, help="print the response of the API; needs a prompt"
    )


def _add_loading(commands: CommandAdder) -> None:
    ps = commands.add("ps", "list the loaded models", "loading:list_loaded", remote=True)
    add_json_flag(ps)
    load = commands.add(
        "load",
        "load a model into memory",
        "loading:load_model",
        remote=True,
        details="Context, slots and keep-alive are kept for later loads of the model.",
        examples=("llb load qwen3-4b", "llb load qwen3-4b --context 32768 --slots 2 --keep-alive 1h"),
    )
    add_model_argument(load)
    load.add_argument("--context", metavar="N", type=parse_positive_int, default=None, help="tokens per slot")
    load.add_argument(
        "--slots", metavar="N", type=parse_positive_int, default=None, help="concurrent requests"
    )
    load.add_argument(
        "--keep-alive",
        metavar="TIME",
        type=parse_duration_flag,
        default=None,
        help="time until an idle engine is unloaded: 10m, -1 for never",
    )
    load.add_argument(
        "--node",
        dest="nodes",
        metavar="NODE",
        action="append",
        default=None,
        help="name or id, repeatable (default: every node that has the model)",
    )
    unload = commands.add(
        "unload", "free the memory of a model", "loading:unload_model", remote=True, aliases=("stop",)
    )
    add_model_argument(unload)


def _add_fit(commands: CommandAdder) -> None:
    fit = commands.add(
        "fit",
        "show how a model would run on this host, or on another",
        "models:show_fit",
        remote=True,
        examples=("llb fit qwen3-4b", "llb fit qwen3-4b --vram 24GB,8GB --ram 64GB", "llb fit model.gguf"),
    )
    fit.add_argument("model", metavar="ID|FILE.gguf", help="model, or a GGUF file of this host")
    fit.add_argument(
        "--vram", metavar="SIZE[,SIZE…]", type=parse_sizes, default=None, help="memory of each GPU: 24GB,8GB"
    )
    fit.add_argument(
        "--ram", metavar="SIZE", type=parse_size_flag, default=None, help="memory of the host: 16GB"
    )
    fit.add_argument("--context", metavar="N", type=parse_positive_int, default=None, help="tokens per slot")
    fit.add_argument(
        "--slots", metavar="N", type=parse_positive_int, default=None, help="concurrent requests"
    )
    add_json_flag(fit)
