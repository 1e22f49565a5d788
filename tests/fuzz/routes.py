"""Generated requests to every route: `python -m tests.fuzz.routes --st PATH [--seconds 60] [--seed 1]`.

PATH is the `st` of Schemathesis, which wants a virtual environment of its own (`pip install
schemathesis==4.32.5`). Each role has an llb of its own, with a model that answers. Exits 1 with what
Schemathesis found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from llb.api.middleware.auth_middleware import SESSION_COOKIE
from llb.wire import Scope
from tests.ggufs import write_chat_model
from tests.harness import write_catalog
from tests.hub import HubStandIn
from tests.processes import LlbProcess

PASSWORD = "asked by nobody in particular"
MODEL = "chat"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "negative_data_rejection",
)
# To ask for a model that is not Ready is a 503 by contract, and so it would be after a pull of a model
# without weights.
EXCLUDED_OPERATIONS = ("models.register", "ollama.pull")
ANONYMOUS, USER, ADMIN, UNKNOWN_KEY = (
    "anonymous",
    "a user's session",
    "an administrator's session",
    "an unknown key",
)
KEY_ROLE_PREFIX = "a key for "
ROLES = (ANONYMOUS, UNKNOWN_KEY, *(KEY_ROLE_PREFIX + scope.value for scope in Scope), USER, ADMIN)


def credential_headers(llb: LlbProcess, role: str) -> tuple[str, ...]:
    """The header with which `role` calls."""
    if role == ANONYMOUS:
        return ()
    if role == UNKNOWN_KEY:
        return ("Authorization: Bearer sk-unknown",)
    if role in (USER, ADMIN):
        name = "ann" if role == USER else "admin"
        llb.http.post("/api/users", json={"username": "ann", "password": PASSWORD, "role": "user"})
        answer = httpx.post(
            f"{llb.url}/api/auth/login",
            json={"username": name, "password": PASSWORD},
            trust_env=False,
            timeout=60,
        ).raise_for_status()
        return (f"Cookie: {SESSION_COOKIE}={answer.cookies[SESSION_COOKIE]}", f"Origin: {llb.url}")
    scope = role.removeprefix(KEY_ROLE_PREFIX)
    made = llb.http.post("/api/keys", json={"name": scope, "scopes": [scope]}).raise_for_status()
    return (f"Authorization: Bearer {made.json()['key']}",)


def schemathesis_command(
    st: str, llb: LlbProcess, headers: Sequence[str], seconds: int, seed: int
) -> Iterator[str]:
    yield from (st, "run", f"{llb.url}/api/openapi.json", "--checks", ",".join(CHECKS))
    yield from ("--phases", "examples,coverage,fuzzing", "-n", "30", "--seed", str(seed))
    yield from ("--continue-on-failure", "--max-time", str(seconds), "--no-color")
    for operation in EXCLUDED_OPERATIONS:
        yield from ("--exclude-operation-id", operation)
    for header in headers:
        yield from ("-H", header)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--st", required=True, help="Schemathesis' command")
    parser.add_argument("--seconds", type=int, default=60, help="for each role")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=ROLES, help="only this one")
    options = parser.parse_args()
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="llb-routes-") as name, HubStandIn() as hub:
        directory = Path(name)
        model = write_chat_model(directory / f"{MODEL}.gguf")
        hub.add_repo(f"test/{MODEL}", {f"{MODEL}.gguf": model})
        catalog = write_catalog(directory / "catalog.json", {"id": MODEL, "size_bytes": model.stat().st_size})
        for number, role in enumerate(ROLES):
            if options.role not in (None, role):
                continue
            home = directory / str(number)
            flags = ("--catalog", str(catalog), "--host", "127.0.0.1")
            with LlbProcess(home, *flags, HF_ENDPOINT=hub.url, LLB_ADMIN_PASSWORD=PASSWORD) as llb:
                llb.register_model(MODEL)
                llb.wait_for_status(MODEL, "Ready")
                print(f"=== {role}", flush=True)
                headers = credential_headers(llb, role)
                asked = [*schemathesis_command(options.st, llb, headers, options.seconds, options.seed)]
                if subprocess.run(asked, check=False, cwd=directory).returncode:
                    failed.append(role)
    sys.exit(f"found something as {', '.join(failed)}" if failed else None)


if __name__ == "__main__":
    main()
