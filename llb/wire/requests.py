"""The history of requests, and totals."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field


class RequestView(Struct, frozen=True, kw_only=True):
    """One inference request. `time` is when it came. `user` is whose key or session it was; `key_id` None for a session,
    both None for the commands on the host. `ttft_ms` is the time to the first token. Tokens are None where not known."""

    id: int
    time: str
    request_id: str
    key_id: str | None
    key_name: str | None
    user_id: str | None
    user: str | None
    model: str | None
    node_id: str | None
    node_name: str | None
    endpoint: str
    stream: bool
    status: int
    error_code: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    queue_ms: int
    ttft_ms: int | None
    duration_ms: int
    has_text: bool


class RequestPage(Struct, frozen=True, kw_only=True):
    """Newest first; `next_cursor` goes into `?before=` for what is older, None at the end. The rest is what is kept."""

    requests: tuple[RequestView, ...]
    next_cursor: int | None
    history_days: int
    history_text: bool


class RequestText(Struct, frozen=True, kw_only=True):
    """What was asked and answered, within a limit: of a prompt its end is kept, of an answer its beginning."""

    prompt: str | None = None
    prompt_truncated: bool = False
    answer: str | None = None
    answer_truncated: bool = False


class RequestDetail(RequestView, frozen=True, kw_only=True):
    text: RequestText | None


class UsageBy(StrEnum):
    MODEL = "model"
    KEY = "key"
    NODE = "node"


class UsageBucket(StrEnum):
    HOUR = "hour"
    DAY = "day"


class UsageView(Struct, frozen=True, kw_only=True):
    """The requests that came in one hour or day of UTC for one model, key or node. Without a key it is the sessions of
    `user`, or, where that is None too, the commands on the host."""

    bucket: str
    key: str | None
    name: str | None
    user_id: str | None
    user: str | None
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_ms: int


class UsageReport(Struct, frozen=True, kw_only=True):
    """Oldest first, nothing for a time without requests; `truncated`: what is older than the first was left out."""

    by: UsageBy
    bucket: UsageBucket
    start: str = field(name="from")
    end: str = field(name="to")
    usage: tuple[UsageView, ...]
    truncated: bool
