"""Conversations and presets of the Playground."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from llb.texts.text_codes import TextCode

ID_PATTERN = r"^[0-9A-Za-z-]{1,64}$"
MAX_TITLE_CHARS, MAX_SYSTEM_CHARS, MAX_STOP_CHARS = 200, 200_000, 4000
MAX_IMAGES, MAX_FILES = 16, 16
MAX_PARAMETERS = 32
MAX_MODEL_CHARS, MAX_NODE_NAME_CHARS = 200, 255
MAX_IMPORTED_CONVERSATIONS = 500

ItemId = Annotated[str, Meta(pattern=ID_PATTERN)]
Title = Annotated[str, Meta(max_length=MAX_TITLE_CHARS)]
ParameterName = Annotated[str, Meta(min_length=1, max_length=64)]
ShortText = Annotated[str, Meta(max_length=2000)]
ImageUrl = Annotated[str, Meta(pattern=r"^data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=]+$")]


class ChatSettings(Struct, frozen=True, kw_only=True):
    """System prompt and sampling parameters; `stop` has one stop sequence per line."""

    system: Annotated[str, Meta(max_length=MAX_SYSTEM_CHARS)] = ""
    parameters: Annotated[dict[ParameterName, float], Meta(max_length=MAX_PARAMETERS)] = {}
    stop: Annotated[str, Meta(max_length=MAX_STOP_CHARS)] = ""


class AttachedFile(Struct, frozen=True):
    """Text file that was sent with a question."""

    name: Annotated[str, Meta(max_length=255)]
    text: str


class AnswerError(Struct, frozen=True, kw_only=True):
    """Error that ended an answer, with the code and the details of the API's errors."""

    code: Annotated[str, Meta(max_length=64)]
    message: ShortText = ""
    message_code: TextCode | None = None
    prompt_tokens: int | None = None
    context_length: int | None = None
    retry_after_s: int | None = None


class AnswerStats(Struct, frozen=True, kw_only=True):
    """Performance of an answer; a field is null where the engine did not report it."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None
    node: Annotated[str, Meta(max_length=MAX_NODE_NAME_CHARS)] | None = None


class ConversationMessage(Struct, frozen=True, kw_only=True):
    """Question or answer. Messages are a tree: versions of a message have the same `parent_id`.

    `ended`: `stop`, `length`, `stopped` (by the user) or `interrupted`; null for a question, and for an
    answer that is being generated or was cut off by a crash of the server.
    """

    id: ItemId
    parent_id: ItemId | None = None
    role: Literal["user", "assistant"]
    text: str = ""
    reasoning: str = ""
    images: Annotated[tuple[ImageUrl, ...], Meta(max_length=MAX_IMAGES)] = ()
    files: Annotated[tuple[AttachedFile, ...], Meta(max_length=MAX_FILES)] = ()
    model: Annotated[str, Meta(max_length=MAX_MODEL_CHARS)] | None = None
    ended: Annotated[str, Meta(max_length=32)] | None = None
    error: AnswerError | None = None
    stats: AnswerStats | None = None
    created_at: str | None = None


class ConversationPatch(Struct, frozen=True, kw_only=True):
    """Changes of a conversation; omitted fields stay."""

    title: Title | UnsetType = UNSET
    pinned: bool | UnsetType = UNSET
    settings: ChatSettings | UnsetType = UNSET
    leaf_id: ItemId | UnsetType | None = UNSET


class ConversationSummary(Struct, frozen=True, kw_only=True):
    """Conversation in the list. `excerpt` is the text around the match of a search.

    `preview` is the beginning of its first question, for a conversation without a title.
    """

    id: str
    title: str
    preview: str
    pinned: bool
    created_at: str
    updated_at: str
    message_count: int
    running: bool
    excerpt: str | None = None


class ConversationList(Struct, frozen=True, kw_only=True):
    """Pinned conversations first, then the last changed first; the bytes are of all of the user."""

    conversations: tuple[ConversationSummary, ...]
    used_bytes: int
    limit_bytes: int


class Conversation(Struct, frozen=True, kw_only=True):
    """Conversation with all messages. `leaf_id`: last message of the version that is shown.

    `running`: ids of the answers that are being generated.
    """

    id: ItemId
    title: Title = ""
    pinned: bool = False
    settings: ChatSettings = ChatSettings()
    leaf_id: ItemId | None = None
    created_at: str | None = None
    updated_at: str | None = None
    messages: tuple[ConversationMessage, ...] = ()
    running: tuple[str, ...] = ()


class ConversationImport(Struct, frozen=True):
    conversations: Annotated[tuple[Conversation, ...], Meta(max_length=MAX_IMPORTED_CONVERSATIONS)]


class ConversationImportReply(Struct, frozen=True, kw_only=True):
    """Numbers of what was new; messages that were there already stay as they are."""

    conversations: int
    messages: int


class AnswerRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Request for an answer: `request` is a body of `/v1/chat/completions`.

    `question` and `settings` are saved together with the beginning of the answer. With `continues`, the
    answer exists, and its text grows: the last message of `request` is that text. `sets_leaf`: whether the
    conversation shows this version from now on.
    """

    answer_id: ItemId
    parent_id: ItemId | None = None
    question: ConversationMessage | None = None
    settings: ChatSettings | None = None
    continues: bool = False
    sets_leaf: bool = True
    request: Raw


class AnswerEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Progress of an answer: what was added, or, at the end, the whole `message`.

    `tokens` and `elapsed_ms` are counted from the first token.
    """

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    elapsed_ms: float = 0.0
    message: ConversationMessage | None = None


class Preset(Struct, frozen=True, kw_only=True):
    """Named settings; the default of new conversations with `models`."""

    id: ItemId
    name: Annotated[str, Meta(min_length=1, max_length=80)]
    settings: ChatSettings = ChatSettings()
    models: Annotated[tuple[Annotated[str, Meta(max_length=MAX_MODEL_CHARS)], ...], Meta(max_length=200)] = ()


class PresetList(Struct, frozen=True):
    presets: tuple[Preset, ...]
