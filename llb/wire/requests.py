"""Request history, usage totals and budgets."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field


class RequestView(Struct, frozen=True, kw_only=True):
    """Inference request; `time` is its arrival.

    `user` owns the key or the session; `key_id` is None for a session, both are None for commands on the
    host. `endpoint` is the route; `endpoint_id` is set in place of `node_id` where an endpoint answered, and
    then `node_name` is its name. `ttft_ms` is the time to the first token. Tokens and cost are None if
    unknown.
    """

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
    cost_usd: float | None
    queue_ms: int
    ttft_ms: int | None
    duration_ms: int
    has_text: bool
    endpoint_id: str | None = None


class RequestPage(Struct, frozen=True, kw_only=True):
    """Page of requests, newest first; `next_cursor` is `?before=` of the next page, None at the end.

    `history_days` and `history_text` are the settings in effect.
    """

    requests: tuple[RequestView, ...]
    next_cursor: int | None
    history_days: int
    history_text: bool


class RequestText(Struct, frozen=True, kw_only=True):
    """Prompt and answer; long ones are truncated to the end of the prompt and the beginning of the answer."""

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
    USER = "user"


class UsageBucket(StrEnum):
    HOUR = "hour"
    DAY = "day"


class UsageView(Struct, frozen=True, kw_only=True):
    """Requests of one model, key or node in one hour or day of UTC.

    Without a key these are the sessions of `user`, or the commands on the host if that is None too.
    `cost_usd` is the sum of the costs that are known, None without any.
    """

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
    cost_usd: float | None
    duration_ms: int
    # `key`, if it is that of an endpoint.
    endpoint_id: str | None = None


class UsageReport(Struct, frozen=True, kw_only=True):
    """Usage, oldest first, without empty buckets; `truncated` if older buckets are left out."""

    by: UsageBy
    bucket: UsageBucket
    start: str = field(name="from")
    end: str = field(name="to")
    usage: tuple[UsageView, ...]
    truncated: bool


class BudgetScope(StrEnum):
    KEY = "key"
    PROVIDER = "provider"


class BudgetPeriod(StrEnum):
    DAY = "day"
    MONTH = "month"


class NewBudget(Struct, frozen=True, kw_only=True):
    """The most that a key or a provider may spend in a day or a month of UTC.

    The `id` of a provider is that of an endpoint, or a kind of endpoint: `openai`, `anthropic`, `google`.
    """

    scope: BudgetScope
    id: str
    period: BudgetPeriod
    limit_usd: float


class BudgetView(NewBudget, frozen=True, kw_only=True):
    """Budget with what was used of it in the present period."""

    used_usd: float


class BudgetList(Struct, frozen=True):
    budgets: tuple[BudgetView, ...]


class NewBudgets(Struct, frozen=True):
    """All budgets, in place of the present ones."""

    budgets: tuple[NewBudget, ...]


class ChartSubject(StrEnum):
    NODE = "node"
    MODEL = "model"


class ChartSpan(StrEnum):
    RECENT = "recent"
    DAY = "day"


class ChartPoint(Struct, frozen=True, kw_only=True):
    """Figures of a node or a model at a time in Unix seconds.

    `requests` were answered since the point before. The last four are of nodes only, between 0 and 1.
    """

    at: float
    requests: int = 0
    tokens_per_second: float = 0.0
    active_requests: int = 0
    queued: int = 0
    memory_bytes: int = 0
    cpu_usage: float | None = None
    memory_usage: float | None = None
    gpu_usage: float | None = None
    gpu_memory_usage: float | None = None


class ChartSeries(Struct, frozen=True, kw_only=True):
    id: str
    points: tuple[ChartPoint, ...]


class ChartReport(Struct, frozen=True, kw_only=True):
    """Points of all nodes or models, oldest first, `interval_seconds` apart."""

    by: ChartSubject
    span: ChartSpan
    interval_seconds: float
    series: tuple[ChartSeries, ...]
