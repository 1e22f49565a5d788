"""Conversations and presets of users: limits, and changes that belong together."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from msgspec import UNSET, Struct, structs

from llb.base.timestamps import from_iso, to_iso
from llb.errors import ConversationLimitReached, InvalidRequest, NotFound
from llb.store.database import Database, Transaction
from llb.store.tables.playground import conversations, messages, presets
from llb.store.tables.playground.conversations import SummaryRow
from llb.texts.coded_text import CodedText
from llb.wire import (
    AnswerRequest,
    Conversation,
    ConversationImport,
    ConversationImportReply,
    ConversationList,
    ConversationMessage,
    ConversationPatch,
    ConversationSummary,
    Preset,
    PresetList,
)
from llb.wire.decoding import MAX_EVENT_LOOP_BYTES

# Most conversations of one user.
MAX_CONVERSATIONS = 2000
MAX_MESSAGES = 4000
MAX_CONVERSATION_BYTES = 32 * 1024 * 1024
# Messages and settings.
MAX_TOTAL_BYTES = 256 * 1024 * 1024
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
MAX_PRESETS = 100
MAX_PRESET_BYTES = 8 * 1024 * 1024
# They hold the write lock together.
MAX_IMPORTED_MESSAGES = 20_000
# Limits for all users together.
MAX_PARALLEL_READS, MAX_PARALLEL_SEARCHES = 2, 2
# Text that one statement searches, unless a single conversation has more.
SEARCH_BATCH_BYTES = 4 * 1024 * 1024


class PreparedConversation(Struct, frozen=True):
    """Conversation of an import, checked and encoded."""

    id: str
    created_at: float
    updated_at: float
    patch: ConversationPatch
    messages: Sequence[messages.MessageColumns]


PreparedImport = Sequence[PreparedConversation]


class ConversationService:
    """Conversations of all users. `user_id` is always that of the caller.

    `running_answers(user_id)` returns (conversation id, answer id) of the answers being generated.
    """

    def __init__(self, db: Database, running_answers: Callable[[str], Sequence[tuple[str, str]]]) -> None:
        self._db = db
        self._running_answers = running_answers
        self._read_permits = asyncio.Semaphore(MAX_PARALLEL_READS)
        self._search_permits = asyncio.Semaphore(MAX_PARALLEL_SEARCHES)

    async def list_summaries(self, user_id: str, text: str) -> ConversationList:
        """List all conversations, or those that contain `text`."""
        reports = self._db.reports
        rows = await conversations.list_summaries(reports, user_id)
        excerpts = await self._search(user_id, rows, text) if text else dict.fromkeys(row.id for row in rows)
        running = {conversation_id for conversation_id, _ in self._running_answers(user_id)}
        return ConversationList(
            conversations=tuple(
                _summary_of(row, row.id in running, excerpts[row.id]) for row in rows if row.id in excerpts
            ),
            used_bytes=await conversations.used_bytes(reports, user_id),
            limit_bytes=MAX_TOTAL_BYTES,
        )

    async def _search(self, user_id: str, rows: Sequence[SummaryRow], text: str) -> dict[str, str | None]:
        """Return the conversations that contain `text`, with the text around the first match in a message.

        Some megabytes at a time, so that other reports are read in between.
        """
        reports = self._db.reports
        wanted = text.encode().lower()
        async with self._search_permits:
            sizes = await messages.measure_all(reports, user_id)
            found: dict[str, str | None] = {
                row.id: None for row in rows if wanted in row.title.encode().lower()
            }
            for ids in _batches_of([row.id for row in rows if row.id in sizes], sizes):
                found |= await messages.search(reports, user_id, ids, text)
        return found

    async def get(self, user_id: str, conversation_id: str, count_bytes: Callable[[int], None]) -> bytes:
        """Return a conversation with its messages, as JSON; raises `NotFound`.

        `count_bytes` counts its bytes, and raises if they may not be held.
        """
        # Before the read: an answer that ends meanwhile is complete in what is read.
        running = tuple(
            answer_id
            for running_in, answer_id in self._running_answers(user_id)
            if running_in == conversation_id
        )
        reports = self._db.reports
        row = await conversations.get(reports, user_id, conversation_id)
        if row is None:
            raise _unknown_conversation()
        conversation = Conversation(
            id=row.id,
            title=row.title,
            pinned=row.pinned,
            settings=row.settings,
            leaf_id=row.leaf_id,
            created_at=to_iso(row.created_at),
            updated_at=to_iso(row.updated_at),
            running=running,
        )
        _, size_bytes = await messages.measure(reports, user_id, conversation_id)
        count_bytes(size_bytes)
        # The rows, the messages and the JSON are in memory at the same time, in a few requests only.
        async with self._read_permits:
            rows = await messages.list_rows(reports, user_id, conversation_id)
            if size_bytes <= MAX_EVENT_LOOP_BYTES:
                encoded = _encode(conversation, rows)
            else:
                encoded = await asyncio.to_thread(_encode, conversation, rows)
        count_bytes(max(0, len(encoded) - size_bytes))
        return encoded

    async def change(self, user_id: str, conversation_id: str, patch: ConversationPatch) -> None:
        """Create the conversation, or change it. Raises `ConversationLimitReached`."""
        async with self._db.write() as tx:
            await self._ensure(tx, user_id, conversation_id)
            await conversations.change(tx, user_id, conversation_id, patch)
            if patch.settings is not UNSET:
                await self._check_totals(tx, user_id)

    async def remove(self, user_id: str, conversation_id: str) -> None:
        """Delete a conversation; raises `NotFound`."""
        async with self._db.write(uses_ballast=True) as tx:
            if not await conversations.remove(tx, user_id, conversation_id):
                raise _unknown_conversation()

    async def put_message(self, user_id: str, conversation_id: str, message: ConversationMessage) -> None:
        """Insert or replace a message. Raises `NotFound` and `ConversationLimitReached`."""
        async with self._db.write() as tx:
            if not await conversations.exists(tx, user_id, conversation_id):
                raise _unknown_conversation()
            await self._put(tx, user_id, conversation_id, message)

    async def remove_message(self, user_id: str, conversation_id: str, message_id: str) -> None:
        """Delete one message, whose replies follow its parent; raises `NotFound`."""
        async with self._db.write(uses_ballast=True) as tx:
            if not await messages.remove(tx, user_id, conversation_id, message_id):
                raise NotFound("There is no such message")

    async def begin_answer(
        self,
        user_id: str,
        conversation_id: str,
        wanted: AnswerRequest,
        model: str,
        *,
        count_bytes: Callable[[int], None],
    ) -> ConversationMessage:
        """Save the question and the beginning of its answer, which is returned.

        `count_bytes` counts the bytes of the answer, and raises if they may not be held. Raises
        `ConversationLimitReached`, and `NotFound` for a missing answer to continue.
        """
        answer = ConversationMessage(
            id=wanted.answer_id, parent_id=wanted.parent_id, role="assistant", model=model
        )
        patch = ConversationPatch(leaf_id=answer.id if wanted.sets_leaf else UNSET)
        if wanted.settings is not None:
            patch = structs.replace(patch, settings=wanted.settings)
        async with self._db.write() as tx:
            await self._ensure(tx, user_id, conversation_id)
            if wanted.continues:
                answer = await self._answer_to_continue(tx, user_id, conversation_id, answer)
                count_bytes(_size_of(answer))
            if wanted.question is not None:
                await self._put(tx, user_id, conversation_id, wanted.question)
            await conversations.change(tx, user_id, conversation_id, patch)
            await self._put(tx, user_id, conversation_id, answer)
        return answer

    def prepare_import(self, imported: ConversationImport) -> PreparedImport:
        """Check and encode an import, which takes long for a large one.

        Raises `InvalidRequest` and `ConversationLimitReached`.
        """
        if sum(len(each.messages) for each in imported.conversations) > MAX_IMPORTED_MESSAGES:
            raise InvalidRequest(
                CodedText(
                    "import_too_large",
                    "An import may have {number} messages: import in several steps",
                    number=MAX_IMPORTED_MESSAGES,
                ),
                param="conversations",
            )
        return [self._prepare_conversation(each) for each in imported.conversations]

    def _prepare_conversation(self, conversation: Conversation) -> PreparedConversation:
        created_at = time = _time_of(conversation.created_at, self._db.clock.now())
        rows = []
        for message in conversation.messages:
            _check_size(message)
            time = _time_of(message.created_at, time)
            rows.append(messages.columns_of(message, time))
        patch = ConversationPatch(
            title=conversation.title,
            pinned=conversation.pinned,
            settings=conversation.settings,
            leaf_id=conversation.leaf_id,
        )
        updated_at = _time_of(conversation.updated_at, created_at)
        return PreparedConversation(conversation.id, created_at, updated_at, patch, rows)

    async def import_all(self, user_id: str, prepared: PreparedImport) -> ConversationImportReply:
        """Add conversations; what exists already stays as it is. All of it, or nothing.

        Raises `ConversationLimitReached`.
        """
        added_conversations = added_messages = 0
        async with self._db.write() as tx:
            for each in prepared:
                if await conversations.add(
                    tx, user_id, each.id, created_at=each.created_at, updated_at=each.updated_at
                ):
                    added_conversations += 1
                    await conversations.change(tx, user_id, each.id, each.patch)
                added_messages += await messages.add_missing(tx, user_id, each.id, each.messages)
                await self._check_conversation(tx, user_id, each.id)
            await self._check_totals(tx, user_id)
        return ConversationImportReply(conversations=added_conversations, messages=added_messages)

    # --- presets ------------------------------------------------------------------------------------

    async def list_presets(self, user_id: str) -> PresetList:
        return PresetList(tuple(await presets.list_presets(self._db, user_id)))

    async def put_preset(self, user_id: str, preset: Preset) -> None:
        """Insert or replace a preset. A model has one default: the other presets lose those of this one.

        Raises `ConversationLimitReached`.
        """
        async with self._db.write() as tx:
            others = [each for each in await presets.list_presets(tx, user_id) if each.id != preset.id]
            if len(others) >= MAX_PRESETS:
                raise ConversationLimitReached(
                    CodedText(
                        "presets_too_many",
                        "A user may have {number} presets: delete one first",
                        number=MAX_PRESETS,
                    )
                )
            if sum(len(msgspec.json.encode(each.settings)) for each in (*others, preset)) > MAX_PRESET_BYTES:
                raise ConversationLimitReached(
                    CodedText(
                        "presets_too_large",
                        "The presets of a user may have {size} MiB: delete some first",
                        size=MAX_PRESET_BYTES // 2**20,
                    )
                )
            for each in others:
                left = tuple(model for model in each.models if model not in preset.models)
                if left != each.models:
                    await presets.put(tx, user_id, structs.replace(each, models=left))
            await presets.put(tx, user_id, preset)

    async def remove_preset(self, user_id: str, preset_id: str) -> None:
        """Delete a preset; raises `NotFound`."""
        async with self._db.write(uses_ballast=True) as tx:
            if not await presets.remove(tx, user_id, preset_id):
                raise NotFound("There is no such preset")

    # --- limits -------------------------------------------------------------------------------------

    async def _ensure(self, tx: Transaction, user_id: str, conversation_id: str) -> None:
        now = self._db.clock.now()
        if await conversations.add(tx, user_id, conversation_id, created_at=now, updated_at=now):
            await self._check_totals(tx, user_id)

    async def _put(
        self, tx: Transaction, user_id: str, conversation_id: str, message: ConversationMessage
    ) -> None:
        _check_size(message)
        now = self._db.clock.now()
        await messages.put(tx, user_id, conversation_id, message, now)
        await conversations.touch(tx, user_id, conversation_id, now)
        await self._check_conversation(tx, user_id, conversation_id)
        await self._check_totals(tx, user_id)

    async def _answer_to_continue(
        self, tx: Transaction, user_id: str, conversation_id: str, answer: ConversationMessage
    ) -> ConversationMessage:
        known = await messages.get(tx, user_id, conversation_id, answer.id)
        if known is None or known.role != "assistant":
            raise NotFound("There is no such answer to continue")
        return structs.replace(known, ended=None, error=None, stats=None, model=answer.model)

    async def _check_conversation(self, tx: Transaction, user_id: str, conversation_id: str) -> None:
        """Raise `ConversationLimitReached` above its limits, which rolls the change back."""
        number, size_bytes = await messages.measure(tx, user_id, conversation_id)
        if number > MAX_MESSAGES:
            raise ConversationLimitReached(
                CodedText(
                    "conversation_messages",
                    "A conversation may have {number} messages: start a new one, or delete some",
                    number=MAX_MESSAGES,
                )
            )
        if size_bytes > MAX_CONVERSATION_BYTES:
            raise ConversationLimitReached(
                CodedText(
                    "conversation_size",
                    "A conversation may have {size} MiB: start a new one, or delete messages",
                    size=MAX_CONVERSATION_BYTES // 2**20,
                )
            )

    async def _check_totals(self, tx: Transaction, user_id: str) -> None:
        """Raise `ConversationLimitReached` above the limits of a user, which rolls the change back."""
        if await conversations.count(tx, user_id) > MAX_CONVERSATIONS:
            raise ConversationLimitReached(
                CodedText(
                    "conversations_too_many",
                    "A user may have {number} conversations: delete some first",
                    number=MAX_CONVERSATIONS,
                )
            )
        if await conversations.used_bytes(tx, user_id) > MAX_TOTAL_BYTES:
            raise ConversationLimitReached(
                CodedText(
                    "conversations_too_large",
                    "The conversations of a user may have {size} MiB: delete some first",
                    size=MAX_TOTAL_BYTES // 2**20,
                )
            )


def _size_of(message: ConversationMessage) -> int:
    parts = (message.text, message.reasoning, *message.images, *(file.text for file in message.files))
    return sum(len(part.encode()) for part in parts)


def _check_size(message: ConversationMessage) -> None:
    if _size_of(message) > MAX_MESSAGE_BYTES:
        raise ConversationLimitReached(
            CodedText("message_too_large", "A message may have {size} MiB", size=MAX_MESSAGE_BYTES // 2**20)
        )


def _unknown_conversation() -> NotFound:
    # One of another user looks like a missing one, so that its existence stays hidden.
    return NotFound("There is no such conversation")


def _batches_of(ids: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield `ids` in lists of about `SEARCH_BATCH_BYTES`."""
    batch: list[str] = []
    size_bytes = 0
    for each in ids:
        if batch and size_bytes + sizes[each] > SEARCH_BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
        batch.append(each)
        size_bytes += sizes[each]
    if batch:
        yield batch


def _encode(conversation: Conversation, rows: Sequence[sqlite3.Row]) -> bytes:
    read = tuple(messages.message_from_row(row) for row in rows)
    return msgspec.json.encode(structs.replace(conversation, messages=read))


def _time_of(text: str | None, default: float) -> float:
    return default if text is None else from_iso(text, "created_at")


def _summary_of(row: SummaryRow, running: bool, excerpt: str | None) -> ConversationSummary:
    return ConversationSummary(
        id=row.id,
        title=row.title,
        preview=row.preview,
        pinned=row.pinned,
        created_at=to_iso(row.created_at),
        updated_at=to_iso(row.updated_at),
        message_count=row.message_count,
        running=running,
        excerpt=excerpt,
    )
