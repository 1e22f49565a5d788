"""Codes of sentences: made, sent to another host and restored there."""

from __future__ import annotations

import msgspec

from llb.texts.coded_text import CodedText, capitalized
from llb.texts.text_codes import CodedError, TextCode, restore_text, text_code_of
from llb.texts.text_columns import decode_text, encode_code, plain_text
from llb.wire import ReplicaReport, ReplicaState

CAUSE = CodedText("network_timeout", "it did not answer in time")
TEXT = CodedText("hub_unreachable", "{who} cannot be reached: {cause}", who="node {attic}", cause=CAUSE)
CODE = TextCode(
    code="hub_unreachable", values={"who": "node {attic}", "cause": TextCode(code="network_timeout")}
)


def test_a_sentence_is_its_template_with_the_values() -> None:
    assert TEXT == "node {attic} cannot be reached: it did not answer in time"
    assert text_code_of(TEXT) == CODE
    assert text_code_of(str(TEXT)) is None
    assert text_code_of(None) is None
    assert text_code_of(capitalized(CAUSE)) == TextCode(code="network_timeout")
    assert capitalized("x") == "X"


def test_an_error_crosses_hosts_and_the_database_with_its_code() -> None:
    sent = ReplicaReport(model_id="tiny", attempt=1, state=ReplicaState.ERROR, error=TEXT)
    assert (type(sent.error), sent.error_code) == (str, CODE)
    received = msgspec.json.decode(msgspec.json.encode(sent), type=ReplicaReport)
    assert received == sent
    assert text_code_of(received.error_text) == CODE
    row = plain_text(received.error_text), encode_code(received.error_text)
    assert text_code_of(decode_text(*row)) == CODE
    assert decode_text(*row) == TEXT


def test_an_earlier_version_sends_no_code() -> None:
    report = msgspec.json.decode(
        b'{"type": "replica", "model_id": "tiny", "attempt": 1, "state": "error", "error": "disk"}',
        type=ReplicaReport,
    )
    assert (report.error_text, report.error_code) == ("disk", None)
    assert decode_text("disk", None) == restore_text("disk", None) == "disk"
    assert (plain_text(None), encode_code(None), decode_text(None, None)) == (None, None, None)
    assert CodedError().error_text is None
