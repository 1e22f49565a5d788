"""Simple first implementation with Sanic and aiohttp: a key, JSON, forward. `python naive.py PORT
ENGINE-PORT`, in a venv with both.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import json
import sys
from typing import Any

import aiohttp
from sanic import Request, Sanic

KEY = "Bearer sk-bench"
app: Any = Sanic("naive")


@app.before_server_start
async def open_client(app: Any) -> None:
    app.ctx.client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )


@app.after_server_stop
async def close_client(app: Any) -> None:
    await app.ctx.client.close()


@app.post("/v1/chat/completions")
async def forward(request: Request) -> None:
    assert request.headers.get("authorization") == KEY
    assert json.loads(request.body)["model"]
    url = f"http://127.0.0.1:{app.ctx.engine_port}/v1/chat/completions"
    async with app.ctx.client.post(
        url, data=request.body, headers={"Content-Type": "application/json"}
    ) as answer:
        response = await request.respond(status=answer.status, content_type=answer.headers["Content-Type"])
        async for data in answer.content.iter_any():
            await response.send(data)
        await response.eof()


if __name__ == "__main__":
    app.ctx.engine_port = int(sys.argv[2])
    app.run(host="127.0.0.1", port=int(sys.argv[1]), single_process=True, access_log=False, motd=False)
