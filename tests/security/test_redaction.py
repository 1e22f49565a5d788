"""Redaction of provider keys in text and logs."""

from __future__ import annotations

import io
import logging

import pytest

from llb.base.logs.log_setup import JsonFormatter, TextFormatter
from llb.security.redaction import REDACTED, SecretRedactor, redact_logs

SECRET = 'p4ss "word"/with+signs=='


@pytest.fixture
def redactor() -> SecretRedactor:
    redactor = SecretRedactor()
    redactor.register(SECRET, None, "", "abc")
    return redactor


def test_registered_secrets_are_redacted_in_each_form(redactor: SecretRedactor) -> None:
    escaped = SECRET.replace('"', '\\"')
    encoded = "p4ss%20%22word%22%2Fwith%2Bsigns%3D%3D"
    text = f'{SECRET} ?key={encoded} {{"key": "{escaped}"}}'
    assert redactor.redact(text) == f'{REDACTED} ?key={REDACTED} {{"key": "{REDACTED}"}}'
    assert (
        redactor.redact("abc is too short to be told from a word")
        == "abc is too short to be told from a word"
    )


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-0123456789abcdefghijklmn.",
        "invalid x-api-key: 0123456789abcdef",
        '{"x-goog-api-key": "AIzaSyA0123456789abcdefghijklmnopqrstuv"}',
        "authorization: Bearer hf_0123456789abcdef",
        "key gsk_0123456789abcdef0123456789 is revoked",
        "the node shows llbn-0123456789abcdefghijklmnopqrst",
        "llb-local-0123456789abcdefghijklmnopqrst of run.json",
    ],
)
def test_unknown_credentials_are_recognised_by_their_form(redactor: SecretRedactor, text: str) -> None:
    redacted = redactor.redact(text)
    assert REDACTED in redacted
    assert "0123456789" not in redacted


@pytest.mark.parametrize(
    "text", ["the bearer of news", "sk-learn and risk-averse-people-like-it", "api-key: set"]
)
def test_ordinary_text_stays(redactor: SecretRedactor, text: str) -> None:
    assert redactor.redact(text) == text


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_secret_enters_a_log(redactor: SecretRedactor, formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    redact_logs(redactor, [handler, handler])
    logger = logging.Logger("llb.test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        logger.exception("with %s", SECRET)
    assert stream.getvalue().count(REDACTED) == 2
    assert "word" not in stream.getvalue()
