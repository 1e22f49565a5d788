"""Models whose chat template has tools: SmolLM2 with one written into it, and a model that follows a script.

A model of 135 million parameters cannot drive a coding agent, and an agent's prompt does not fit into its
context. `write_scripted_model` makes a real GGUF for llama.cpp that generates fixed texts: the call of a tool
that the agent offers, and an answer once the result of a tool is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from tests.ggufs import Array, gpt2_byte_tokens

# The form of Hermes and Qwen, which llama.cpp recognises.
TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools

You may call a function. The functions are listed within <tools></tools>:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>

For each call return a JSON object within <tool_call></tool_call>:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ message.content or '' }}{% for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

END = "<|im_end|>"
_PIECE_LENGTH = 12
_TEMPLATE_KEY = "tokenizer.chat_template"


def write_tool_model(path: Path, source: Path) -> Path:
    """Write the model `source` with TOOL_TEMPLATE as its chat template. Returns `path`."""
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(path, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", _TEMPLATE_KEY):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind is GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    writer.add_chat_template(TOOL_TEMPLATE)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return _close(writer, path)


def write_scripted_model(path: Path, calls: dict[str, dict[str, Any]], answer: str, *, context: int) -> Path:
    """Write a model that calls the first tool of `calls` that a request offers, with the given arguments, and
    that says `answer` where the last message is the result of a tool or no such tool is offered.

    One layer without any effect: the next token depends on the last one only. The template ends with a token
    from which the text to generate begins. Returns `path`.
    """
    scripts = {"answer": answer}
    for name, arguments in calls.items():
        call = json.dumps({"name": name, "arguments": arguments})
        scripts[name] = f"<tool_call>\n{call}\n</tool_call>"
    starts = {name: f"<|start:{name}|>" for name in scripts}
    tokens = gpt2_byte_tokens()
    bytes_as_text = list(tokens)
    control = ["<|bos|>", "<|im_start|>", END, *starts.values()]
    tokens += control
    types = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(control)
    successors: dict[int, int] = {}
    end = tokens.index(END)
    for name, text in scripts.items():
        last = tokens.index(starts[name])
        for piece in _unique_pieces(text, set(tokens), bytes_as_text):
            tokens.append(piece)
            types.append(gguf.TokenType.NORMAL)
            successors[last] = last = len(tokens) - 1
        successors[last] = end

    embedding_size = -(-(len(successors) + 1) // 32) * 32
    embedding: Array = np.zeros((len(tokens), embedding_size), dtype=np.float32)
    output: Array = np.zeros((len(tokens), embedding_size), dtype=np.float32)
    embedding[:, 0] = 1
    for dimension, (token, successor) in enumerate(successors.items(), start=1):
        embedding[token] = 0
        embedding[token, dimension] = 1
        output[successor, dimension] = 10
    output[bytes_as_text.index("."), 0] = 1

    writer = GGUFWriter(path, "llama")
    writer.add_name("scripted")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_block_count(1)
    writer.add_embedding_length(embedding_size)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_rope_dimension_count(_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(tokens.index("<|bos|>"))
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(_scripted_template(calls, starts))
    zeros = {
        "attn_q": (_HEAD, embedding_size),
        "attn_k": (_HEAD, embedding_size),
        "attn_v": (_HEAD, embedding_size),
        "attn_output": (embedding_size, _HEAD),
        "ffn_gate": (32, embedding_size),
        "ffn_up": (32, embedding_size),
        "ffn_down": (embedding_size, 32),
    }
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(embedding_size, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for norm in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{norm}.weight", np.ones(embedding_size, dtype=np.float32))
    for name, shape in zeros.items():
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, dtype=np.float32))
    return _close(writer, path)


_HEAD = 32


def _scripted_template(calls: dict[str, dict[str, Any]], starts: dict[str, str]) -> str:
    start = "{%- set ns = namespace(start='" + starts["answer"] + "') %}"
    if_tool_result = "{% if messages[-1].role != 'tool' %}{% for tool in tools or [] %}"
    for name in reversed(calls):
        if_tool_result += (
            "{% if tool.function.name == '"
            + name
            + "' %}{% set ns.start = '"
            + starts[name]
            + "' %}{% endif %}"
        )
    if_tool_result += "{% endfor %}{% endif %}"
    prompt, _, _ = TOOL_TEMPLATE.rpartition("{%- if add_generation_prompt %}")
    return (
        prompt
        + "{%- if add_generation_prompt %}"
        + start
        + if_tool_result
        + "<|im_start|>assistant\n{{ ns.start }}{% endif %}"
    )


def _unique_pieces(text: str, taken: set[str], bytes_as_text: list[str]) -> list[str]:
    """Split `text` into tokens that are not in `taken`: llama.cpp refuses a vocabulary with duplicates."""
    mapped = "".join(bytes_as_text[byte] for byte in text.encode())
    pieces: list[str] = []
    while mapped:
        length = _PIECE_LENGTH
        while mapped[:length] in taken and length < len(mapped):
            length += 1
        piece, mapped = mapped[:length], mapped[length:]
        while piece in taken:
            piece = pieces.pop() + piece
        taken.add(piece)
        pieces.append(piece)
    return pieces


def _close(writer: GGUFWriter, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
