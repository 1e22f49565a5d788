"""Values of settings as text: what each parser takes, refuses and makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llb.config import values
from llb.texts.coded_text import CodedText


def refusal(parse: Callable[[str], object], text: str) -> str:
    """Clause with which a parser refuses a text."""
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    return str(refused.value)


def test_a_number_has_both_bounds() -> None:
    parse = values.integer_between(1, 64)
    assert [parse(text) for text in ("1", "64", " 7 ")] == [1, 64, 7]
    for text in ("0", "65", "-1"):
        assert refusal(parse, text) == "is not between 1 and 64"
    for text in ("", "1.5", "0x10"):
        assert refusal(parse, text) == "is not a whole number"


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.one_of("debug", "info"), "info", "info"),
        (values.parse_switch, "YES", True),
        (values.parse_switch, "Off", False),
        (values.parse_positive_size, "1", 1),
        (values.parse_rate, "20MB/s", 20_000_000),
        (values.parse_rate, "20MB", 20_000_000),
        (values.parse_rate, "0", None),
        (values.parse_rate, "unlimited", None),
        (values.parse_drain_timeout, "0", 0.0),
        (values.parse_drain_timeout, "1h", 3600.0),
        (values.parse_backup_interval, "off", None),
        (values.parse_backup_interval, "60", 60.0),
        (values.parse_positive_duration, "1ms", 0.001),
        (values.parse_node_name, "a" * 63, "a" * 63),
        (values.parse_node_name, "9.a_B-c", "9.a_B-c"),
        (values.parse_list, " a, ,b,", ("a", "b")),
        (values.parse_networks, "10.1.2.3/8, ::1", ("10.0.0.0/8", "::1/128")),
        (values.parse_networks, "", ()),
        (values.parse_base_url, "https://h:1/hf/", "https://h:1/hf"),
        (values.parse_base_url, "http://[::1]:8080", "http://[::1]:8080"),
        # One address has one text.
        (values.parse_llb_url, "HTTP://Attic:8080/", "http://attic:8080"),
        (values.parse_llb_url, "https://[FE80::1]", "https://[fe80::1]"),
        (values.parse_path, "/data", Path("/data")),
    ],
)
def test_what_is_taken(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "clause"),
    [
        (values.one_of("debug", "info"), "Info", "is not one of debug, info"),
        (values.parse_switch, "", "is not on or off"),
        (values.parse_positive_size, "0", "must be more than zero"),
        (values.parse_rate, "0/s", "must be more than zero"),
        (values.parse_rate, "-1", "is not a size such as 8GB"),
        (values.parse_drain_timeout, "-1", "is not between 0 and 1h"),
        (values.parse_drain_timeout, "61m", "is not between 0 and 1h"),
        (values.parse_backup_interval, "59s", "is less than a minute; off means no automatic backups"),
        (values.parse_backup_interval, "-1", "is less than a minute; off means no automatic backups"),
        (values.parse_positive_duration, "0", "must be more than zero"),
        (values.parse_positive_duration, "-1", "must be more than zero"),
        (values.parse_networks, "::1, lan", "contains 'lan', which is not an address or a network"),
        (values.parse_path, "", "is empty"),
        (values.parse_path, "/a\0b", "contains a character that no path may have"),
    ],
)  # fmt: skip
def test_what_is_refused(parse: Callable[[str], object], text: str, clause: str) -> None:
    assert refusal(parse, text) == clause


@pytest.mark.parametrize("text", ["", "-a", ".a", "a b", "a/b", "ä", "a\n", "a" * 64])
def test_a_name_that_no_node_may_have(text: str) -> None:
    assert refusal(values.parse_node_name, text).startswith("must consist of at most 63 letters")


@pytest.mark.parametrize(
    "text", ["host:8080", "ftp://h", "http://", "http://:80", "http://[::1", "http://h:x", "http://h:65536", "http://h:0"]
)  # fmt: skip
def test_no_url(text: str) -> None:
    assert refusal(values.parse_base_url, text) == "is not a URL such as http://host:8080"
    assert refusal(values.parse_llb_url, text) == "is not the address of an llb, such as http://host:8080"


@pytest.mark.parametrize(
    "text", ["http://h/x", "http://h?a=1", "http://h#a", "http://me@h", "http://me:x@h", "http://@h"]
)
def test_no_address_of_an_llb(text: str) -> None:
    assert refusal(values.parse_llb_url, text).startswith("is not the address of an llb")


def test_a_url_is_shown_without_its_credential() -> None:
    assert values.format_url("https://me:pass@hub:8/x") == "https://hub:8/x"
    assert values.format_url("https://hub/x") == "https://hub/x"


def test_what_is_shown_is_taken_again() -> None:
    assert values.parse_rate(values.format_rate(None)) is None
    assert values.parse_rate(values.format_rate(1_500_000)) == 1_500_000
    assert values.parse_backup_interval(values.format_backup_interval(None)) is None
    assert values.parse_backup_interval(values.format_backup_interval(5400.0)) == 5400.0
    assert values.parse_list(values.format_list(("a", "b")) or "") == ("a", "b")
    assert (values.format_list(()), values.format_optional_size(None)) == (None, None)
    assert [values.parse_switch(values.format_switch(on)) for on in (True, False)] == [True, False]


def test_a_clause_that_the_page_shows_has_a_code() -> None:
    with pytest.raises(ValueError, match="between") as refused:
        values.integer_between(1, 64)("65")
    assert isinstance(refused.value.args[0], CodedText)


@pytest.mark.parametrize(
    ("text", "token"),
    [("hf_x\n", "hf_x"), (" hf_x\r\n", "hf_x"), ("\n", None), ("hf_x-Y.9~+/=", "hf_x-Y.9~+/=")],
)
def test_the_token_of_the_hub_without_blanks_around_it(text: str, token: str | None) -> None:
    assert values.parse_hub_token(text) == token


@pytest.mark.parametrize(
    ("text", "offline"),
    [("1", True), ("TRUE", True), ("on", True), ("0", False), ("", False), ("maybe", False)],
)
def test_offline_as_the_library_of_the_hub_reads_it(text: str, offline: bool) -> None:
    assert values.parse_hub_switch(text) is offline


@pytest.mark.parametrize(
    ("text", "path"),
    [("/llb", "/llb"), ("/tools/llb/", "/tools/llb"), ("/", ""), ("/a.b-c_d~e", "/a.b-c_d~e")],
)
def test_a_base_path(text: str, path: str) -> None:
    assert values.parse_own_base_path(text) == path


@pytest.mark.parametrize(
    "text",
    ["llb", "//evil", "/a//b", "/../a", "/a b", "/%2e", "https://a/", "/api", "/v1/x", "/assets", "/models/"],
)
def test_a_base_path_that_cannot_be_one(text: str) -> None:
    assert refusal(values.parse_own_base_path, text)


def test_a_base_path_has_a_length() -> None:
    assert values.parse_own_base_path("/" + "a" * 199) == "/" + "a" * 199
    assert refusal(values.parse_own_base_path, "/" + "a" * 200) == "is not a path such as /llb"
