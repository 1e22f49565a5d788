"""Catalogue: the supported models of supported_models.json, validated completely and immutable."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import msgspec

from llb.base.resources import resource_path
from llb.errors import SetupError
from llb.wire import Capability, Model, Platform, Speculation
from llb.wire.models import SHA256_PATTERN

MAX_FILE_BYTES = 16 * 2**20
MAX_MODELS = 10_000
MAX_FILES_PER_MODEL = 256
MAX_TEXT_CHARS = 1_000
# The largest integer that all JSON parsers represent exactly.
MAX_SAFE_INTEGER = 2**53 - 1

_ID = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,94}[a-z0-9])?")
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(f"{_REPO_PART}/{_REPO_PART}")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,254}[A-Za-z0-9])?")
_LABEL = re.compile(r"[^\s:]{1,64}")
# Ids and file names become names on disk. On Windows, some names open devices, and some characters are
# invalid.
_WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(?:\..*)?", re.IGNORECASE)
_WINDOWS_FORBIDDEN = frozenset('<>:"|?*')


@dataclass(frozen=True, slots=True)
class Catalog:
    """The supported models, in the order of the file."""

    models: tuple[Model, ...]
    _by_id: Mapping[str, Model] = field(init=False, repr=False, compare=False)
    _by_name: Mapping[str, Model] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_id = {model.id: model for model in self.models}
        object.__setattr__(self, "_by_id", MappingProxyType(by_id))
        object.__setattr__(self, "_by_name", MappingProxyType(index_by_name(self.models)))

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def get(self, model_id: str) -> Model | None:
        """Return the model with this id, case-insensitively."""
        return self._by_id.get(model_id.lower())

    def find_by_name(self, name: str) -> Model | None:
        """Return the model of a name: an id or `org/repo`, each optionally with `:quantization`, or
        `id:latest`.

        Names are case-insensitive. A name that two entries share means neither.
        """
        return self._by_name.get(name.lower())


class _Entry(Model, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entry of a list, in which an unknown field is a mistake; in an answer it is one of a later version."""


def index_by_name(models: Iterable[Model]) -> dict[str, Model]:
    """Return the models by all their names, in lower case."""
    by_name: dict[str, Model] = {}
    shared: set[str] = set()
    for model in models:
        names = {model.id, f"{model.id}:latest", model.repo}
        if model.quantization:
            names |= {f"{model.id}:{model.quantization}", f"{model.repo}:{model.quantization}"}
        for name in {name.lower() for name in names}:
            if by_name.setdefault(name, model) is not model:
                shared.add(name)
    return {name: model for name, model in by_name.items() if name not in shared}


def load_catalog(path: Path | None) -> Catalog:
    """Load the catalogue of `path`, None for the shipped one.

    Raises `SetupError` that names the file, the entry and the violated rule.
    """
    path = resource_path("supported_models.json") if path is None else path
    try:
        return Catalog(_parse_models(_parse_json(_read_text(path))))
    except _CatalogError as error:
        raise SetupError(f"{path}: {error}.") from None


class _CatalogError(Exception):
    """Violated rule, as a clause without the file and the full stop."""


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise _CatalogError("the list of supported models does not exist") from None
    except OSError as error:
        raise _CatalogError(
            f"the list of supported models cannot be read: {error.strerror or error}"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise _CatalogError(f"the list of supported models is larger than {MAX_FILE_BYTES // 2**20} MiB")
    try:
        # Editors on Windows write a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _CatalogError(f"line {line} is not UTF-8 text") from None


def _parse_json(text: str) -> list[Any]:
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise _CatalogError(
            f"not valid JSON at line {error.lineno}, column {error.colno}: {reason}"
        ) from None
    except RecursionError:
        raise _CatalogError("not valid JSON: nested too deeply") from None
    except ValueError:
        # An integer of thousands of digits.
        raise _CatalogError("not valid JSON: a number is too long") from None
    if not isinstance(content, list):
        raise _CatalogError("must be a JSON array of models")
    if not content:
        raise _CatalogError("must name at least one model")
    if len(content) > MAX_MODELS:
        raise _CatalogError(f"must not name more than {MAX_MODELS} models")
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicate = next(key for key in keys if keys.count(key) > 1)
        raise _CatalogError(f"{_entry_label(None, entry.get('id'))} has the field {_quote(duplicate)} twice")
    return entry


def _parse_models(entries: list[Any]) -> tuple[Model, ...]:
    models: list[Model] = []
    number_of: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        label = _entry_label(number, entry.get("id") if isinstance(entry, dict) else None)
        try:
            msgspec.convert(entry, _Entry)
            model = msgspec.convert(entry, Model)
        except msgspec.ValidationError as error:
            raise _CatalogError(f"{label}: {_describe_type_error(str(error))}") from None
        except UnicodeEncodeError:
            # A field name with half a surrogate pair.
            raise _CatalogError(f"{label}: a field name is not text") from None
        for rule in _violations(model):
            raise _CatalogError(f"{label}: {rule}")
        if model.id in number_of:
            raise _CatalogError(f"{label}: id is already that of entry {number_of[model.id]}")
        number_of[model.id] = number
        models.append(model)
    by_id = {model.id: model for model in models}
    for number, model in enumerate(models, start=1):
        for rule in _draft_violations(model, by_id):
            raise _CatalogError(f"{_entry_label(number, model.id)}: {rule}")
    return tuple(models)


def _draft_violations(model: Model, by_id: Mapping[str, Model]) -> Iterator[str]:
    """Yield the rules that `model.draft` and `model.speculation` violate.

    Vocabularies and heads for multi-token prediction are checked when the files are there.
    """
    if model.speculation is not None:
        if model.draft is not None:
            yield "draft and speculation exclude each other"
        if not _generates_text(model):
            yield "speculation is for models that generate text"
    if model.draft is None:
        return
    draft = by_id.get(model.draft)
    if draft is None:
        yield f"draft must be the id of another entry, not {_quote(model.draft)}"
    elif draft is model:
        yield "draft must be the id of another entry, not its own"
    elif draft.draft is not None:
        yield f"draft must name an entry without a draft, and {_quote(draft.id)} has one"
    elif not all(_generates_text(each) for each in (model, draft)):
        yield "draft is for models that generate text, both of them"


def _generates_text(model: Model) -> bool:
    pooled = {Capability.EMBEDDING, Capability.RERANKING}
    return Capability.TEXT_GENERATION in model.capabilities and not pooled & set(model.capabilities)


def _violations(model: Model) -> Iterator[str]:
    """Yield the rules beyond the types that `model` violates, each as a clause."""
    if not _ID.fullmatch(model.id):
        yield (
            "id must be lower-case letters, digits, '.' and '-', at most 96, "
            "with a letter or digit at both ends"
        )
    if _WINDOWS_DEVICE.fullmatch(model.id):
        yield "id must not be the name of a Windows device"
    if not _is_text(model.name) or not model.name.strip():
        yield f"name must be text of 1 to {MAX_TEXT_CHARS} characters on one line"
    if not _is_text(model.description):
        yield f"description must be text of at most {MAX_TEXT_CHARS} characters on one line"
    if not _REPO.fullmatch(model.repo) or ".." in model.repo:
        yield "repo must be org/name, of letters, digits, '.', '_' and '-'"
    yield from _file_violations(model)
    if not 0 < model.size_bytes <= MAX_SAFE_INTEGER:
        yield f"size_bytes must be more than zero and at most {MAX_SAFE_INTEGER}"
    if not model.size_bytes <= model.required_memory_bytes <= MAX_SAFE_INTEGER:
        yield f"required_memory_bytes must be at least size_bytes and at most {MAX_SAFE_INTEGER}"
    if not all(_is_text(tag) and tag.strip() for tag in model.tags):
        yield "tags must be non-empty text"
    if not model.capabilities:
        yield "capabilities must name at least one"
    if not model.platforms:
        yield "platforms must name at least one"
    for name in ("tags", "capabilities", "platforms"):
        values = getattr(model, name)
        if len(set(values)) < len(values):
            yield f"{name} must not repeat a value"
    for name in ("quantization", "parameter_count"):
        value = getattr(model, name)
        if value is not None and (not _is_text(value) or not value.strip()):
            yield f"{name} must be non-empty text"
    if model.quantization is not None and not _LABEL.fullmatch(model.quantization):
        yield "quantization must be at most 64 characters without blanks and ':'"
    if model.context_length is not None and not 0 < model.context_length <= MAX_SAFE_INTEGER:
        yield "context_length must be more than zero"
    sizes = [card.vram_gb for card in model.card_contexts]
    if sizes != sorted(set(sizes)) or any(not 0 < size <= MAX_SAFE_INTEGER for size in sizes):
        yield "card_contexts must have growing values of vram_gb, more than zero"
    if not all(0 < card.context_length <= MAX_SAFE_INTEGER for card in model.card_contexts):
        yield "card_contexts must have a context_length of more than zero"
    if model.sha256 is not None and not SHA256_PATTERN.fullmatch(model.sha256):
        yield "sha256 must be 64 lower-case hexadecimal digits"
    if model.revision is not None and (not _REVISION.fullmatch(model.revision) or ".." in model.revision):
        yield "revision must be a commit, branch or tag"


def _file_violations(model: Model) -> Iterator[str]:
    if len(model.filenames) > MAX_FILES_PER_MODEL:
        yield f"extra_filenames must not name more than {MAX_FILES_PER_MODEL - 1} files"
    seen: set[str] = set()
    for name in model.filenames:
        field_name = "recommended_filename" if not seen else "extra_filenames"
        if not _is_plain_filename(name):
            yield f"{field_name} must be a plain file name that is valid on every system, not {_quote(name)}"
        if name.casefold() in seen:
            yield f"{field_name} names {_quote(name)} twice"
        seen.add(name.casefold())


def _is_plain_filename(name: str) -> bool:
    """Return whether `name` is one path component, valid on all systems, with room for the suffix of a
    partial file.
    """
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= 200
        and _is_text(name)
        and not set(name) & {"/", "\\", *_WINDOWS_FORBIDDEN}
        and not name.startswith(" ")
        and not name.endswith((".", " "))
        and not _WINDOWS_DEVICE.fullmatch(name)
    )


def _is_text(value: str) -> bool:
    """Return whether `value` is short and free of control characters and lone surrogates."""
    return len(value) <= MAX_TEXT_CHARS and not any(
        unicodedata.category(char) in ("Cc", "Cs") for char in value
    )


# --- messages ----------------------------------------------------------------------------------------

_ALLOWED_VALUES = {
    "capabilities": "an array of " + ", ".join(Capability),
    "platforms": "an array of " + ", ".join(Platform),
    "speculation": " or ".join(Speculation),
    "format": get_args(get_type_hints(Model)["format"])[0],
    "engine": get_args(get_type_hints(Model)["engine"])[0],
}
_JSON_TYPE_NAMES = {"int": "a whole number", "str": "text", "array": "an array", "object": "an object"}


def _entry_label(number: int | None, model_id: object) -> str:
    label = "an entry" if number is None else f"entry {number}"
    return f"{label} (id {_quote(model_id)})" if isinstance(model_id, str) else label


def _quote(text: str) -> str:
    """Return `text` in quotes, shortened, and without characters that a terminal cannot write."""
    shown = "".join(char if _is_text(char) else char.encode("unicode_escape").decode() for char in text[:100])
    return f"'{shown}…'" if len(text) > 100 else f"'{shown}'"


def _describe_type_error(message: str) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.size_bytes`" into a rule of that field."""
    text, _, path = message.partition(" - at `$.")
    path = path.rstrip("`")
    name = re.search(r"`(.+)`", text, re.DOTALL)
    if "unknown field" in text and name:
        return f"has the unknown field {_quote(name[1])}"
    if "missing required field" in text and name:
        return f"lacks the required field {name[1]}"
    if not path:
        return "must be an object"
    field_name = path.split("[")[0]
    if field_name in _ALLOWED_VALUES:
        return f"{field_name} must be {_ALLOWED_VALUES[field_name]}"
    expected = re.findall(r"`([^`]+)`", text)[0].split(" | ")[0]
    return f"{path} must be {_JSON_TYPE_NAMES.get(expected, expected)}"
