"""Conversations and presets of users: limits, and changes that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import UNSET, structs

from llb.base.timestamps import from_iso, to_iso
from llb.errors import ConversationLimitReached, NotFound
from llb.store.database import Database, Transaction
from llb.store.tables.playground import conversations, messages, presets
from llb.store.tables.playground.conversations import SummaryRow
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

# Of one user.
MAX_CONVERSATIONS = 2000
MAX_MESSAGES = 4000
MAX_TOTAL_BYTES = 256 * 1024 * 1024
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
MAX_PRESETS = 100


class ConversationService:
    """Conversations of all users. `user_id` is always that of the caller.

    `running_answers(user_id)` returns (conversation id, answer id) of the answers being generated.
    """

    def __init__(self, db: Database, running_answers: Callable[[str], Sequence[tuple[str, str]]]) -> None:
        self._db = db
        self._running_answers = running_answers

    async def list_summaries(self, user_id: str, text: str) -> ConversationList:
        """List all conversations, or those that contain `text`."""
        reports = self._db.reports
        rows = (
            await conversations.search(reports, user_id, text)
            if text
            else await conversations.list_summaries(reports, user_id)
        )
        running = {conversation_id for conversation_id, _ in self._running_answers(user_id)}
        return ConversationList(
            conversations=tuple(_summary_of(row, row.id in running) for row in rows),
            used_bytes=await conversations.used_bytes(reports, user_id),
            limit_bytes=MAX_TOTAL_BYTES,
        )

    async def get(self, user_id: str, conversation_id: str) -> Conversation:
        """Return a conversation with its messages; raises `NotFound`."""
        # Before the read: an answer that ends meanwhile is complete in what is read.
        running = tuple(
            answer_id
            for running_in, answer_id in self._running_answers(user_id)
            if running_in == conversation_id
        )
        row = await conversations.get(self._db, user_id, conversation_id)
        if row is None:
            raise _unknown_conversation()
        return Conversation(
            id=row.id,
            title=row.title,
            pinned=row.pinned,
            settings=row.settings,
            leaf_id=row.leaf_id,
            created_at=to_iso(row.created_at),
            updated_at=to_iso(row.updated_at),
            messages=tuple(await messages.list_messages(self._db, user_id, conversation_id)),
            running=running,
        )

    async def change(self, user_id: str, conversation_id: str, patch: ConversationPatch) -> None:
        """Create the conversation, or change it. Raises `ConversationLimitReached`."""
        async with self._db.write() as tx:
            await self._ensure(tx, user_id, conversation_id)
            await conversations.change(tx, user_id, conversation_id, patch)

    async def remove(self, user_id: str, conversation_id: str) -> None:
        """Delete a conversation; raises `NotFound`."""
        async with self._db.write(uses_ballast=True) as tx:
            if not await conversations.remove(tx, user_id, conversation_id):
                raise _unknown_conversation()

    async def put_message(self, user_id: str, conversation_id: str, message: ConversationMessage) -> None:
        """Insert or replace a message. Raises `NotFound` and `ConversationLimitReached`."""
        async with self._db.write() as tx:
            if await conversations.get(tx, user_id, conversation_id) is None:
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
            await self._put(tx, user_id, conversation_id, answer)
            await conversations.change(tx, user_id, conversation_id, patch)
        return answer

    async def import_all(self, user_id: str, imported: ConversationImport) -> ConversationImportReply:
        """Add conversations; what exists already stays as it is. All of it, or nothing.

        Raises `InvalidRequest` and `ConversationLimitReached`.
        """
        added_conversations = added_messages = 0
        async with self._db.write() as tx:
            for each in imported.conversations:
                now = self._db.clock.now()
                created_at = _time_of(each.created_at, now)
                is_new = await conversations.add(
                    tx,
                    user_id,
                    each.id,
                    created_at=created_at,
                    updated_at=_time_of(each.updated_at, created_at),
                )
                if is_new:
                    added_conversations += 1
                    patch = ConversationPatch(
                        title=each.title, pinned=each.pinned, settings=each.settings, leaf_id=each.leaf_id
                    )
                    await conversations.change(tx, user_id, each.id, patch)
                known = await messages.list_ids(tx, user_id, each.id)
                new_messages = [message for message in each.messages if message.id not in known]
                if len(known) + len(new_messages) > MAX_MESSAGES:
                    raise _too_many_messages()
                for message in new_messages:
                    _check_size(message)
                    created_at = _time_of(message.created_at, created_at)
                    await messages.put(tx, user_id, each.id, message, created_at)
                    added_messages += 1
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
                raise ConversationLimitReached(f"A user may have {MAX_PRESETS} presets: delete one first")
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
        if len(await messages.list_ids(tx, user_id, conversation_id) | {message.id}) > MAX_MESSAGES:
            raise _too_many_messages()
        now = self._db.clock.now()
        await messages.put(tx, user_id, conversation_id, message, now)
        await conversations.touch(tx, user_id, conversation_id, now)
        await self._check_totals(tx, user_id)

    async def _answer_to_continue(
        self, tx: Transaction, user_id: str, conversation_id: str, answer: ConversationMessage
    ) -> ConversationMessage:
        known = await messages.get(tx, user_id, conversation_id, answer.id)
        if known is None or known.role != "assistant":
            raise NotFound("There is no such answer to continue")
        return structs.replace(known, ended=None, error=None, stats=None, model=answer.model)

    async def _check_totals(self, tx: Transaction, user_id: str) -> None:
        """Raise `ConversationLimitReached` above the limits of a user, which rolls the change back."""
        if await conversations.count(tx, user_id) > MAX_CONVERSATIONS:
            raise ConversationLimitReached(
                f"A user may have {MAX_CONVERSATIONS} conversations: delete some first"
            )
        if await conversations.used_bytes(tx, user_id) > MAX_TOTAL_BYTES:
            raise ConversationLimitReached(
                f"The conversations of a user may have {MAX_TOTAL_BYTES // 2**20} MiB: delete some first"
            )


def _size_of(message: ConversationMessage) -> int:
    parts = (message.text, message.reasoning, *message.images, *(file.text for file in message.files))
    return sum(len(part.encode()) for part in parts)


def _check_size(message: ConversationMessage) -> None:
    if _size_of(message) > MAX_MESSAGE_BYTES:
        raise ConversationLimitReached(f"A message may have {MAX_MESSAGE_BYTES // 2**20} MiB")


def _too_many_messages() -> ConversationLimitReached:
    return ConversationLimitReached(
        f"A conversation may have {MAX_MESSAGES} messages: start a new one, or delete some"
    )


def _unknown_conversation() -> NotFound:
    # One of another user looks like a missing one, so that its existence stays hidden.
    return NotFound("There is no such conversation")


def _time_of(text: str | None, default: float) -> float:
    return default if text is None else from_iso(text, "created_at")


def _summary_of(row: SummaryRow, running: bool) -> ConversationSummary:
    return ConversationSummary(
        id=row.id,
        title=row.title,
        preview=row.preview,
        pinned=row.pinned,
        created_at=to_iso(row.created_at),
        updated_at=to_iso(row.updated_at),
        message_count=row.message_count,
        running=running,
        excerpt=row.excerpt,
    )
