"""What a request body must not ask of an engine, however it is spelt; and what is known without the Hub."""

from __future__ import annotations

import pytest

from tests.harness import Llb


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (
            rb'{"model": "tiny", "messages": [{"content": [{"image_url": {"url": "http://x/y"}}]}]}',
            "image_url",
        ),
        (
            rb'{"model": "tiny", "messages": [{"content": [{"image\u005furl": {"url": "http://x/y"}}]}]}',
            "image_url",
        ),
        (rb'{"model": "tiny", "n_probs": 21}', "n_probs"),
        (rb'{"model": "tiny", "logprobs": true, "top_logprobs": 100000}', "top_logprobs"),
        (rb'{"model": "tiny", "logprobs": 100000}', "logprobs"),
        (rb'{"model": "tiny", "keep_alive": "-nonsense"}', "keep_alive"),
    ],
)
async def test_refused(llb: Llb, body: bytes, param: str) -> None:
    await llb.pull("tiny")
    answer = await llb.http.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_request", param)
