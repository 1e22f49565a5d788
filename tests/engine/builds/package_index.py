"""Package index for pip on a free port of this host, with wheels that are made here.

A wheel of the fake `xllamacpp` runs the installed one, and pretends that its processor is a GPU too.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Becomes the package of the installed llama.cpp, whose modules it takes, then changes what that says.
_WRAPPER = """
import importlib.machinery
import sys
from pathlib import Path

_own = str(Path(__file__).parents[1])
_spec = importlib.machinery.PathFinder.find_spec("xllamacpp", [path for path in sys.path if path != _own])
__path__ = list(_spec.submodule_search_locations)
exec(compile(Path(_spec.origin).read_text(), _spec.origin, "exec"))
"""
_PRETENDED_GPU = """
import types

_get_device_info = get_device_info

def get_device_info():
    gpu = {**_get_device_info()[-1], "name": "Vulkan0", "description": "Pretended GPU"}
    gpu["device_id"] = "0000:09:00.0"
    gpu["type"] = types.SimpleNamespace(name="GGML_BACKEND_DEVICE_TYPE_GPU")
    return [gpu, *_get_device_info()]
"""
# The same, with tokens that are not those of the CPU.
_WRONG_RESULTS = """
_Params = CommonParams

def CommonParams():
    params = _Params()
    params.rope_freq_base = 2.0
    return params
"""
WORKING = _WRAPPER + _PRETENDED_GPU
WRONG = WORKING + _WRONG_RESULTS
WITHOUT_GPU = _WRAPPER
ABORTING = (
    WORKING
    + """
import os

class Server:
    def __init__(self, params):
        os.write(2, b"CUDA error: no kernel image is available\\n")
        os.abort()
"""
)
NOT_IMPORTABLE = "raise ImportError('libcublas.so.12: cannot open shared object file')\n"


def write_wheel(directory: Path, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Write a wheel with these files."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: llb\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        for path, text in contents.items()
    ]
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return wheel


def add_package(root: Path, index: str, name: str, version: str, files: Mapping[str, str]) -> Path:
    """Add a wheel to an index below `root`, with its page; returns the wheel."""
    directory = root / index / name
    wheel = write_wheel(directory, name, version, files)
    (directory / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return wheel


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serve_index(root: Path) -> Iterator[str]:
    """Serve `root`; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
