"""Anonymisation: secrets, addresses and names are gone, what helps stays, equal texts stay equal."""

from __future__ import annotations

import time

import pytest

from llb.security.anonymizer import Anonymizer
from llb.security.redaction import SecretRedactor

MOST_CHARACTERS = 20_000


@pytest.fixture
def anonymizer() -> Anonymizer:
    redactor = SecretRedactor()
    redactor.register("correct horse battery")
    anonymizer = Anonymizer(redactor)
    anonymizer.register_names("node", "attic", "llb", "pc")
    anonymizer.register_names("person", "alice")
    return anonymizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password correct horse battery!", "password [redacted]!"),
        ("key sk-0123456789abcdef0123", "key [redacted]"),
        ("http://me:pw12345@10.0.0.7:8080/v1", "http://<address-1>:8080/v1"),
        ("at https://gpu-box:8000, gpu-box answers", "at https://<host-1>:8000, <host-1> answers"),
        ("http://[fd00::1]:80 and fd00::1", "http://<address-1>:80 and <address-1>"),
        ("from 192.168.1.20 and fe80::1%eth0", "from <address-2> and <address-1>"),
        ("mail bob@corp.example.com", "mail <email-1>"),
        ("host nas.local, llm.example.org:443", "host <host-1>, <host-2>:443"),
        ("52:54:00:12:34:56", "<mac-1>"),
        ("/home/carol/llb and /home/carol", "/home/<person-1>/llb and /home/<person-1>"),
        ("node Attic of alice (attic-2)", "node <node-1> of <person-1> (attic-2)"),
    ],
)
def test_what_is_replaced(anonymizer: Anonymizer, text: str, expected: str) -> None:
    assert anonymizer.anonymize(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-29T10:43:10Z INFO llb.server: listening on http://127.0.0.1:8080 and http://[::1]:8080",
        "0.0.0.0 and ::",
        "https://huggingface.co/org/name",
        "llama-3.2-1b-instruct-q4_k_m.gguf, libcuda.so.1, driver 550.54.15, 3.11.2",
        "llb.gateway.http.client: line 12, file_download.py:120",
        "AA:BB:CC:DD:EE:FF:00:11:22:33",
        "this pc runs llb",
    ],
)
def test_what_stays(anonymizer: Anonymizer, text: str) -> None:
    assert anonymizer.anonymize(text) == text


def test_a_long_word_takes_no_longer_than_many_short_ones(anonymizer: Anonymizer) -> None:
    """The time per character is what counts, so a word ten times as long takes no more than that."""

    def processor_s(length: int) -> float:
        words = ["a" * length, "a." * (length // 2), "1." * (length // 2), "a://" * (length // 4)]
        before = time.process_time()
        anonymizer.anonymize(" ".join(words * (MOST_CHARACTERS // length)))
        return time.process_time() - before

    processor_s(100)
    assert processor_s(MOST_CHARACTERS) < 20 * processor_s(100)
