"""Engine worker, `python -m llb.engine.worker`: one llama.cpp server with one model, until stdin ends.

It reads an `EngineSpec` as one JSON line on stdin, and writes a `WorkerReady` line to stdout once the model
is loaded; the log of llama.cpp goes to stderr. Exit status: 0 stdin ended, 2 invalid specification, 3
llama.cpp rejected the load. With `--devices` it prints the kind and the compute devices of this build of
llama.cpp as JSON instead, with `--sandbox` which restrictions are in effect on this host.
"""

from __future__ import annotations

import ctypes
import http.client
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec

from llb.base import platform_compat
from llb.engine.builds.kind import build_kind
from llb.engine.sandbox import restrictions
from llb.engine.sandbox.memory_limit import apply_data_limit
from llb.engine.spec import (
    EXIT_BAD_SPEC,
    EXIT_LOAD_REJECTED,
    EngineKind,
    EngineSpec,
    PoolingType,
    WorkerReady,
)
from llb.engine.template_trial import try_template
from llb.policy.memory import DRAFT_TOKENS, NGRAM_DRAFT_TOKENS
from llb.wire import Speculation

# llama.cpp's `verbosity`: 1 errors, 2 warnings, 3 events, 4 everything about the model.
LLAMA_LOG_VERBOSITY = 3
# Verbosity while the model is loaded; the output includes the sizes of the buffers.
LLAMA_LOAD_VERBOSITY = 4
# In addition to one thread per slot: health checks and tokenization must not wait for generation.
EXTRA_HTTP_THREADS = 4
PROPS_TIMEOUT_S = 10.0
# Maximum silence within a request, which the gateway writes at once. Each connection takes a thread, of at
# most 1024: half requests of another user of the host would keep the requests of llb waiting.
REQUEST_READ_TIMEOUT_S = 15
# As `--n-cpu-moe` of llama.cpp selects them.
EXPERT_TENSORS = r"ffn_(up|down|gate_up|gate)_(ch|)exps"
# Tokens that have to be the same before what followed them is drafted, and the least number to draft.
NGRAM_MATCH_TOKENS, NGRAM_MIN_TOKENS = 16, 2
# More layers than any model has.
ALL_LAYERS = 9999
# Even without layers on a GPU, llama.cpp creates a context on each (up to 1.5 GB of VRAM, which the plan does
# not count) and computes prompts there. An empty list hides all devices of Vulkan.
HIDE_GPUS_ENV = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""}


def main(arguments: list[str]) -> int:
    """Run the worker; returns its exit status."""
    platform_compat.kill_with_parent()
    # Ctrl-C in a terminal reaches the whole process group on systems without sessions.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    report = _redirect_stdout()
    if arguments == ["--devices"]:
        devices = list_devices()
        kind = build_kind(_import_xllamacpp(), [str(device["name"]) for device in devices])
        report.write(msgspec.json.encode({"build": kind, "devices": devices}) + b"\n")
        report.flush()
        return 0
    if arguments == ["--sandbox"]:
        no_files = restrictions.EngineAccess()
        in_effect = restrictions.restrict_loading(no_files)
        restrictions.restrict_serving(no_files, in_effect)
        report.write(msgspec.json.encode(in_effect) + b"\n")
        report.flush()
        return 0
    try:
        spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineSpec)
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"invalid engine specification: {error}\n")
        return EXIT_BAD_SPEC
    if not any(spec.gpu_layers):
        os.environ.update(HIDE_GPUS_ENV)
    if spec.data_limit_bytes is not None:
        apply_data_limit(spec.data_limit_bytes)
    query_props = _start_props_query(spec)
    access = restrictions.EngineAccess(
        paths=restrictions.model_paths(spec.model_path, spec.projector_path, spec.draft_path),
        gpu=any(spec.gpu_layers),
    )
    sandbox = restrictions.restrict_loading(access)
    xllamacpp = _import_xllamacpp()

    params = build_llama_params(spec)
    threshold = _log_threshold()
    if threshold is not None:
        params.verbosity = LLAMA_LOAD_VERBOSITY
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_LOAD_REJECTED
    if threshold is not None:
        threshold.value = LLAMA_LOG_VERBOSITY
    ready = query_props(server.listening_address)
    restrictions.restrict_serving(access, sandbox)
    report.write(ready + b"\n")
    report.flush()
    while sys.stdin.buffer.read(4096):
        pass
    # Not `return`: the destructor of the server would wait for running requests, whose clients are gone.
    os._exit(0)


def build_llama_params(spec: EngineSpec) -> Any:
    """Return `spec` as xllamacpp's CommonParams: loopback, own key, no web page, no CORS, offline."""
    xllamacpp = _import_xllamacpp()

    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [spec.api_key]
    params.cors_origins = ""
    params.cors_credentials = False
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.offline = True
    # The gateway sends heartbeats itself; it would take a ping for the first token.
    params.sse_ping_interval = -1
    params.n_threads_http = spec.slots + EXTRA_HTTP_THREADS
    params.timeout_read = REQUEST_READ_TIMEOUT_S
    params.verbosity = LLAMA_LOG_VERBOSITY

    params.model.path = spec.model_path
    params.model_alias = {spec.alias}
    if spec.projector_path is not None:
        params.mmproj.path = spec.projector_path
        params.mmproj_use_gpu = any(spec.gpu_layers)
    load_modes = xllamacpp.llama_load_mode
    params.load_mode = load_modes.LLAMA_LOAD_MODE_MMAP if spec.mmap else load_modes.LLAMA_LOAD_MODE_NONE
    _place_layers(params, spec)
    if spec.draft_path is not None:
        _add_draft(params, spec, spec.draft_path)
    if spec.speculation is not None:
        _add_speculation(params, spec.speculation)
    # `policy.memory` has made the plan; llama.cpp's own fitting adds a second to the start.
    params.fit_params = False
    params.cpuparams.n_threads = spec.threads
    params.cpuparams_batch.n_threads = spec.threads

    params.n_parallel = spec.slots
    # llama.cpp divides it among the slots.
    params.n_ctx = spec.context_length * spec.slots
    params.kv_unified = False
    # Dropping the beginning of a prompt silently is worse than an error.
    params.ctx_shift = False
    params.n_predict = spec.context_length
    params.n_batch = spec.batch_tokens
    params.n_ubatch = spec.ubatch_tokens
    params.cache_ram_mib = spec.prompt_cache_bytes >> 20
    params.n_ctx_checkpoints = spec.context_checkpoints
    cache_type = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{spec.kv_cache_type.name}")
    # Quantized values need flash attention, which llama.cpp then switches on itself.
    params.cache_type_k = params.cache_type_v = cache_type
    params.use_jinja = True
    params.warmup = True

    if spec.kind is not EngineKind.CHAT:
        params.embedding = True
    pooling = PoolingType.RANK if spec.kind is EngineKind.RERANKING else spec.pooling
    if pooling is not None:
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{pooling.name}")
    return params


def _place_layers(params: Any, spec: EngineSpec) -> None:
    """Put the layers on the GPUs of the plan; by default llama.cpp spreads every model over all of them."""
    xllamacpp = _import_xllamacpp()
    params.n_gpu_layers = sum(spec.gpu_layers)
    if spec.expert_layers_on_host:
        layers = "|".join(str(index) for index in range(spec.expert_layers_on_host))
        params.tensor_buft_overrides = rf"blk\.({layers})\.{EXPERT_TENSORS}=CPU"
    used = [index for index, count in enumerate(spec.gpu_layers) if count]
    if len(used) > 1:
        params.tensor_split = [*spec.gpu_layers, *[0] * (len(params.tensor_split) - len(spec.gpu_layers))]
    elif len(spec.gpu_layers) > 1 and used:
        params.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
        params.main_gpu = used[0]
        if spec.projector_path is not None:
            # The encoder would be built on the first GPU.
            gpus = [device["name"] for device in list_devices() if device["kind"] == "gpu"]
            params.mmproj_device = gpus[used[0]]


def _add_draft(params: Any, spec: EngineSpec, path: str) -> None:
    """Let the model at `path` draft tokens, which the main model verifies together."""
    xllamacpp = _import_xllamacpp()
    speculative = params.speculative
    speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    speculative.draft.mparams.path = path
    speculative.draft.n_max = DRAFT_TOKENS
    speculative.draft.n_gpu_layers = 0 if spec.draft_gpu is None else ALL_LAYERS
    # With a model on one GPU, the draft inherits `main_gpu`, an index that its own list would not have.
    if spec.draft_gpu is not None and sum(1 for count in spec.gpu_layers if count) > 1:
        gpus = [device["name"] for device in list_devices() if device["kind"] == "gpu"]
        speculative.draft.devices = gpus[spec.draft_gpu]


def _add_speculation(params: Any, speculation: Speculation) -> None:
    """Let the model draft tokens for itself, and verify them together."""
    kinds = _import_xllamacpp().common_speculative_type
    speculative = params.speculative
    if speculation is Speculation.MTP:
        # llama.cpp then loads the weights of the head.
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_MTP]
        speculative.draft.n_max = DRAFT_TOKENS
    else:
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_MOD]
        speculative.ngram_mod.n_match = NGRAM_MATCH_TOKENS
        speculative.ngram_mod.n_min = NGRAM_MIN_TOKENS
        speculative.ngram_mod.n_max = NGRAM_DRAFT_TOKENS


def list_devices() -> list[dict[str, object]]:
    """Return the devices of llama.cpp: name, description, kind (cpu, gpu, igpu, accel), memory in bytes."""
    xllamacpp = _import_xllamacpp()

    return [
        {
            "name": device["name"],
            "description": device["description"],
            "kind": device["type"].name.rpartition("_")[2].lower(),
            "device_id": device["device_id"],
            "memory_total_bytes": device["memory_total"],
            "memory_free_bytes": device["memory_free"],
        }
        for device in xllamacpp.get_device_info()
    ]


def _import_xllamacpp() -> Any:
    """Import xllamacpp where it is needed: it is a shared library of 34 MB."""
    return importlib.import_module("xllamacpp")


def _log_threshold() -> ctypes.c_int | None:
    """Return the verbosity of llama.cpp's log, for a change while it runs; None where its library does not
    export it.
    """
    try:
        return ctypes.c_int.in_dll(
            ctypes.CDLL(_import_xllamacpp().xllamacpp.__file__), "common_log_verbosity_thold"
        )
    except (AttributeError, OSError, ValueError):
        return None


def _start_props_query(spec: EngineSpec) -> Callable[[str], bytes]:
    """Return a function that asks the server at an address for its limits; it returns the ready report.

    The sandbox makes no connection, not even to this process. So the question is asked by a child that exists
    before the sandbox, and before anything hostile was read; it ends with its parent.
    """
    if not sys.platform.startswith("linux"):
        return lambda address: _query_server_props(address, spec)
    address_reader, address_writer = os.pipe()
    answer_reader, answer_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(address_writer)
        status = 1
        try:
            address = os.read(address_reader, 256).decode()
            if address:
                os.write(answer_writer, _query_server_props(address, spec))
            status = 0
        finally:
            os._exit(status)
    os.close(address_reader)
    os.close(answer_writer)

    def ask(address: str) -> bytes:
        os.write(address_writer, address.encode())
        os.close(address_writer)
        with os.fdopen(answer_reader, "rb") as answer:
            report = answer.read()
        os.waitpid(pid, 0)
        if not report:
            raise RuntimeError("the server does not tell its limits")
        return report

    return ask


def _query_server_props(address: str, spec: EngineSpec) -> bytes:
    """Return the ready report: the context length per slot in effect, and what the chat template prints."""
    parts = urlsplit(address)
    host, port = parts.hostname or "127.0.0.1", parts.port or 0

    def connect() -> http.client.HTTPConnection:
        return http.client.HTTPConnection(host, port, timeout=PROPS_TIMEOUT_S)

    connection = connect()
    try:
        connection.request("GET", "/props", headers={"Authorization": f"Bearer {spec.api_key}"})
        props = msgspec.json.decode(connection.getresponse().read())
    finally:
        connection.close()
    ready = WorkerReady(
        host=host,
        port=port,
        context_length=int(props["default_generation_settings"]["n_ctx"]),
        slots=int(props["total_slots"]),
        template=try_template(connect, spec.api_key, props) if spec.kind is EngineKind.CHAT else None,
    )
    return msgspec.json.encode(ready)


def _redirect_stdout() -> BinaryIO:
    """Reserve stdout for the report; returns it. Output of libraries goes to stderr from now on."""
    report = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
