"""Catalogue: validation, messages, lookup, and the shipped list."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llb import catalog as catalog_module
from llb.base.resources import resource_path
from llb.catalog import MAX_SAFE_INTEGER, Catalog, load_catalog
from llb.errors import SetupError
from llb.wire import Capability, Model, Platform

DOCUMENT = Path(__file__).parents[1] / "docs" / "catalog.md"


def entry(**changes: Any) -> dict[str, Any]:
    """Return a valid entry with `changes`; the value `...` removes a field."""
    fields = {
        "id": "tiny-1.5b",
        "name": "Tiny 1.5B",
        "repo": "some-org/Tiny-1.5B-GGUF",
        "recommended_filename": "tiny-Q4_K_M.gguf",
        "size_bytes": 1_000,
        "required_memory_bytes": 2_000,
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def write(path: Path, content: object) -> Path:
    file = path / "models.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def refusal(path: Path) -> str:
    with pytest.raises(SetupError) as caught:
        load_catalog(path)
    return str(caught.value)


# --- valid lists -------------------------------------------------------------------------------------


def test_required_fields_suffice_and_the_rest_has_defaults(tmp_path: Path) -> None:
    (model,) = load_catalog(write(tmp_path, [entry()]))
    assert model.capabilities == (Capability.TEXT_GENERATION,)
    assert model.platforms == (Platform.LINUX, Platform.WINDOWS, Platform.MACOS)
    assert (model.format, model.engine) == ("Gguf", "llama.cpp")
    assert (model.description, model.tags, model.extra_filenames) == ("", (), ())
    assert (model.sha256, model.revision, model.context_length, model.quantization) == (
        None,
        None,
        None,
        None,
    )


def test_every_field_is_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    shards = [f"big-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    full = entry(
        id="big",
        name="大きい — 70B",
        description="説明　です",
        recommended_filename=shards[0],
        extra_filenames=[*shards[1:], "mmproj-F16.gguf"],
        tags=["chat", "vision"],
        capabilities=["TextGeneration", "ImageUnderstanding"],
        quantization="Q8_0",
        parameter_count="70B",
        format="Gguf",
        engine="llama.cpp",
        platforms=["Linux"],
        context_length=131_072,
        card_contexts=[{"vram_gb": 24, "context_length": 8192}],
        draft="tiny-1.5b",
        sha256="0123456789abcdef" * 4,
        revision="refs/pr/3",
    )
    models = load_catalog(write(tmp_path, [full, entry()])).models
    assert [model.id for model in models] == ["big", "tiny-1.5b"]
    assert models[0].filenames == (*shards, "mmproj-F16.gguf")
    assert json.loads(msgspec.json.encode(models[0])) == full | {"speculation": None}
    assert load_catalog(write(tmp_path, [entry(speculation="mtp")])).models[0].speculation == "mtp"


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps([entry()]).encode())
    assert len(load_catalog(file)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "a"},
        {"id": "qwen2.5-coder-7b"},
        {"repo": "a/b"},
        {"repo": "ORG_1/Na-me.v2_GGUF"},
        {"recommended_filename": "Model with spaces (1).gguf"},
        {"recommended_filename": "コンパクト.gguf"},
        {"required_memory_bytes": 1_000},
        {"size_bytes": MAX_SAFE_INTEGER, "required_memory_bytes": MAX_SAFE_INTEGER},
        {"sha256": None, "revision": None, "quantization": None, "context_length": None},
    ],
)
def test_accepted(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert len(load_catalog(write(tmp_path, [entry(**changes)]))) == 1


# --- invalid lists -----------------------------------------------------------------------------------

RULES: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: ...}, f"lacks the required field {name}")
        for name in ("name", "repo", "recommended_filename", "size_bytes", "required_memory_bytes")
    ),
    ({"colour": "blue"}, "has the unknown field 'colour'"),
    ({"\ud800": 1}, "a field name is not text"),
    ({"name": ""}, "name must be text"),
    ({"name": " "}, "name must be text"),
    ({"name": "two\nlines"}, "name must be text"),
    ({"name": "x" * 1001}, "name must be text"),
    ({"name": None}, "name must be text"),
    ({"name": "half \udc00"}, "name must be text"),
    ({"description": "bell \x07"}, "description must be text"),
    ({"description": None}, "description must be text"),
    *(
        ({"repo": repo}, "repo must be org/name")
        for repo in (
            "",
            "name",
            "/name",
            "org/",
            "a/b/c",
            "../name",
            "org/..",
            "a..b/c",
            "org/na me",
            "org/name\n",
            "ö/b",
        )
    ),
    *(
        ({field: wrap(name)}, f"{field} must be a plain file name")
        for field, wrap in (("recommended_filename", str), ("extra_filenames", lambda name: [name]))
        for name in (
            "",
            ".",
            "..",
            "../up.gguf",
            "/top.gguf",
            "Q4/model.gguf",
            "Q4\\model.gguf",
            "C:model.gguf",
            "nul\0.gguf",
            "line\n.gguf",
            "what?.gguf",
            " blank.gguf",
            "blank.gguf ",
            "dot.",
            "con",
            "NUL.gguf",
            "com1.tar.gguf",
            "LPT9",
            "half \ud800.gguf",
            "x" * 201,
            "é" * 101,
        )
    ),
    ({"extra_filenames": ["a.gguf", "A.GGUF"]}, "extra_filenames names 'A.GGUF' twice"),
    ({"extra_filenames": ["TINY-q4_k_m.gguf"]}, "extra_filenames names 'TINY-q4_k_m.gguf' twice"),
    (
        {"extra_filenames": [f"{number}.gguf" for number in range(256)]},
        "extra_filenames must not name more than 255",
    ),
    ({"extra_filenames": "a.gguf"}, "extra_filenames must be an array"),
    ({"extra_filenames": [1]}, "extra_filenames[0] must be text"),
    ({"size_bytes": 0}, "size_bytes must be more than zero"),
    ({"size_bytes": -1}, "size_bytes must be more than zero"),
    ({"size_bytes": MAX_SAFE_INTEGER + 1}, "size_bytes must be more than zero and at most"),
    ({"size_bytes": 10**30}, "size_bytes must be"),
    ({"size_bytes": "1GB"}, "size_bytes must be a whole number"),
    ({"size_bytes": 1.5}, "size_bytes must be a whole number"),
    ({"size_bytes": True}, "size_bytes must be a whole number"),
    ({"required_memory_bytes": 999}, "required_memory_bytes must be at least size_bytes"),
    (
        {"required_memory_bytes": MAX_SAFE_INTEGER + 1},
        "required_memory_bytes must be at least size_bytes and at most",
    ),
    ({"tags": [""]}, "tags must be non-empty text"),
    ({"tags": ["a", "a"]}, "tags must not repeat a value"),
    ({"tags": "chat"}, "tags must be an array"),
    ({"capabilities": []}, "capabilities must name at least one"),
    ({"capabilities": ["Telepathy"]}, "capabilities must be an array of TextGeneration, ImageUnderstanding"),
    ({"capabilities": ["Embedding", "Embedding"]}, "capabilities must not repeat a value"),
    ({"platforms": []}, "platforms must name at least one"),
    ({"platforms": ["linux-cuda"]}, "platforms must be an array of Linux, Windows, MacOS"),
    ({"platforms": ["Linux", "Linux"]}, "platforms must not repeat a value"),
    ({"format": "gguf"}, "format must be Gguf"),
    ({"format": "safetensors"}, "format must be Gguf"),
    ({"engine": "llama_cpp"}, "engine must be llama.cpp"),
    ({"engine": None}, "engine must be llama.cpp"),
    ({"quantization": ""}, "quantization must be non-empty text"),
    ({"quantization": "Q4 K"}, "quantization must be at most 64 characters without blanks"),
    ({"quantization": "a:b"}, "quantization must be at most 64 characters without blanks and ':'"),
    ({"parameter_count": ""}, "parameter_count must be non-empty text"),
    ({"parameter_count": 7}, "parameter_count must be text"),
    ({"context_length": 0}, "context_length must be more than zero"),
    (
        {"card_contexts": [{"vram_gb": 16, "context_length": 1}, {"vram_gb": 8, "context_length": 1}]},
        "card_contexts must have growing values of vram_gb, more than zero",
    ),
    (
        {"card_contexts": [{"vram_gb": 8, "context_length": 0}]},
        "card_contexts must have a context_length of more than zero",
    ),
    ({"context_length": "32K"}, "context_length must be a whole number"),
    ({"sha256": "0" * 63}, "sha256 must be 64 lower-case hexadecimal digits"),
    ({"sha256": "A" * 64}, "sha256 must be 64 lower-case hexadecimal digits"),
    ({"sha256": "0" * 64 + "\n"}, "sha256 must be 64 lower-case hexadecimal digits"),
    *(
        ({"revision": revision}, "revision must be")
        for revision in ("", "main ", "a..b", "/main", "a?b=c", "a#b")
    ),
]


@pytest.mark.parametrize(
    ("drafts", "rule"),
    [
        ({"big": "small"}, None),
        ({"big": "none"}, "draft must be the id of another entry, not 'none'"),
        ({"big": "big"}, "draft must be the id of another entry, not its own"),
        ({"big": "small", "small": "big"}, "draft must name an entry without a draft, and 'small' has one"),
        ({"big": "texts"}, "draft is for models that generate text, both of them"),
        ({"texts": "small"}, "draft is for models that generate text, both of them"),
    ],
)
def test_a_draft_is_another_text_model(tmp_path: Path, drafts: dict[str, str], rule: str | None) -> None:
    entries = [
        entry(id="big", draft=drafts.get("big")),
        entry(id="small", draft=drafts.get("small")),
        entry(id="texts", capabilities=["Embedding"], draft=drafts.get("texts")),
    ]
    file = write(tmp_path, entries)
    if rule is None:
        assert load_catalog(file).models[0].draft == "small"
        return
    with pytest.raises(SetupError, match=re.escape(rule)):
        load_catalog(file)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"speculation": "mtp", "draft": "small"}, "draft and speculation exclude each other"),
        (
            {"speculation": "ngram", "capabilities": ["Embedding"]},
            "speculation is for models that generate text",
        ),
        ({"speculation": "eagle"}, "speculation must be mtp or ngram"),
    ],
)
def test_only_a_text_model_without_a_draft_model_drafts_for_itself(
    tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    with pytest.raises(SetupError, match=re.escape(rule)):
        load_catalog(write(tmp_path, [entry(id="big", **changes), entry(id="small")]))


@pytest.mark.parametrize(("changes", "rule"), RULES, ids=lambda value: ascii(value)[:60])
def test_a_broken_rule_is_named_with_file_and_entry(
    tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    file = write(tmp_path, [entry(id="first"), entry(**changes)])
    message = refusal(file)
    assert message.startswith(f"{file}: entry 2 (id 'tiny-1.5b'): {rule}")
    assert message.endswith(".")
    assert "\n" not in message
    message.encode("utf-8")


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        "Upper",
        "under_score",
        "a/b",
        "a:b",
        ".",
        "..",
        ".hidden",
        "a.",
        "-a",
        "a-",
        "ä",
        "a b",
        "a\n",
        "x" * 97,
    ],
)
def test_a_bad_id_is_refused(tmp_path: Path, model_id: str) -> None:
    assert "entry 1" in (message := refusal(write(tmp_path, [entry(id=model_id)])))
    assert "id must be lower-case letters, digits, '.' and '-'" in message


@pytest.mark.parametrize("model_id", ["con", "nul", "aux.1b", "com1", "lpt9.gguf"])
def test_an_id_that_windows_cannot_make_a_directory_of_is_refused(tmp_path: Path, model_id: str) -> None:
    assert "id must not be the name of a Windows device" in refusal(write(tmp_path, [entry(id=model_id)]))


def test_an_id_is_unique(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, [entry(), entry(id="other"), entry()]))
    assert message.endswith("entry 3 (id 'tiny-1.5b'): id is already that of entry 1.")


@pytest.mark.parametrize("changes", [{"id": ...}, {"id": 7}, {"id": None}])
def test_an_entry_without_a_usable_id_is_named_by_its_number(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert f"{tmp_path / 'models.json'}: entry 1: " in refusal(write(tmp_path, [entry(**changes)]))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "not valid JSON at line 1, column 1"),
        (b'[\n  {"id": "a",}\n]', "not valid JSON at line 2, column "),
        (b'[{"id": "a"}', "not valid JSON at line 1, column 13"),
        (b"[] []", "not valid JSON at line 1, column 4"),
        (b"[" * 200_000, "not valid JSON: nested too deeply"),
        (b"[" + b"1" * 5_000 + b"]", "not valid JSON: a number is too long"),
        (b'[\n\n"\xff"]', "line 3 is not UTF-8 text"),
        ('[{"id": "a"}]'.encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"{}", "must be a JSON array of models"),
        (b"null", "must be a JSON array of models"),
        (b"[]", "must name at least one model"),
        (b"[1]", "entry 1: must be an object"),
        (b"[[]]", "entry 1: must be an object"),
        (b'[{"id": "a", "repo": "x/y", "repo": "z/y"}]', "an entry (id 'a') has the field 'repo' twice"),
        (b'[{"id": "a", "size_bytes": NaN}]', "entry 1 (id 'a'): "),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(content)
    assert refusal(file).startswith(f"{file}: {rule}")


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.json").endswith("none.json: the list of supported models does not exist.")
    assert "cannot be read" in refusal(tmp_path)


def test_limits_of_size_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, [entry(id=f"m{number}") for number in range(4)])
    monkeypatch.setattr(catalog_module, "MAX_MODELS", 4)
    assert len(load_catalog(file)) == 4
    monkeypatch.setattr(catalog_module, "MAX_MODELS", 3)
    assert "must not name more than 3 models" in refusal(file)
    sparse = tmp_path / "sparse.json"
    with sparse.open("wb") as target:
        target.truncate(catalog_module.MAX_FILE_BYTES + 1)
    assert refusal(sparse).endswith("is larger than 16 MiB.")


ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)
FIELD = st.sampled_from(Model.__struct_fields__)
NEARLY_VALID = st.lists(
    st.dictionaries(FIELD | ANY_TEXT, ANY_JSON, max_size=4).map(lambda d: entry() | d), max_size=3
)
FUZZ = settings(
    max_examples=3 * settings().max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(content=ANY_JSON | NEARLY_VALID)
def test_any_json_is_a_catalogue_or_a_sentence(tmp_path: Path, content: object) -> None:
    try:
        models = load_catalog(write(tmp_path, content)).models
    except SetupError as error:
        message = str(error)
    else:
        assert msgspec.json.decode(msgspec.json.encode(models), type=tuple[Model, ...]) == models
        return
    message.encode("utf-8")
    assert message.endswith(".")


@FUZZ
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(content)
    assert refusal(file).endswith(".")


# --- lookup ------------------------------------------------------------------------------------------


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return load_catalog(
        write(
            tmp_path,
            [
                entry(id="one", quantization="Q4_K_M"),
                entry(id="two", quantization="Q8_0"),
                entry(id="three", repo="Org/Three"),
            ],
        )
    )


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("one", "one"),
        ("ONE", "one"),
        ("one:latest", "one"),
        ("One:LATEST", "one"),
        ("one:q4_k_m", "one"),
        ("one:Q8_0", None),
        ("some-org/tiny-1.5b-gguf", None),
        ("some-org/tiny-1.5b-gguf:Q4_K_M", "one"),
        ("SOME-ORG/Tiny-1.5B-GGUF:q8_0", "two"),
        ("org/three", "three"),
        ("three:Q4_K_M", None),
        ("three:None", None),
        ("", None),
        ("four", None),
        ("org/three:latest", None),
    ],
)
def test_find(catalog: Catalog, name: str, model_id: str | None) -> None:
    found = catalog.find_by_name(name)
    assert (found.id if found else None) == model_id


def test_get_knows_ids_only(catalog: Catalog) -> None:
    found = catalog.get("TWO")
    assert found is not None
    assert found.id == "two"
    assert catalog.get("two:latest") is None
    assert catalog.get("org/three") is None


def test_a_name_that_two_have_means_neither() -> None:
    models = tuple(
        msgspec.convert(entry(id=model_id, repo="o/n", quantization="x"), Model) for model_id in ("b", "a")
    )
    catalog = Catalog(models)
    assert catalog.find_by_name("o/n") is None
    assert catalog.find_by_name("O/N:x") is None
    assert catalog.find_by_name("a") is models[1]
    assert catalog.find_by_name("a:X") is models[1]


def test_the_catalogue_cannot_be_changed(catalog: Catalog) -> None:
    with pytest.raises(AttributeError):
        catalog.models = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        catalog.models[0].id = "other"  # type: ignore[misc]


# --- the shipped list --------------------------------------------------------------------------------


def test_the_shipped_list() -> None:
    shipped = load_catalog(None)
    assert shipped == load_catalog(resource_path("supported_models.json"))
    assert len(shipped) >= 30
    assert shipped.models[0].id == "llama-3.2-1b"
    for model in shipped:
        assert model.description, model.id
        assert model.quantization, model.id
        assert model.parameter_count, model.id
        assert model.context_length, model.id
        assert model.tags, model.id
        sees = any("mmproj" in name for name in model.filenames)
        assert sees == (Capability.IMAGE_UNDERSTANDING in model.capabilities), model.id


def test_a_shipped_sha256_stands_beside_the_revision_it_belongs_to() -> None:
    """Without the revision, the next upload to the repository would make the entry unusable."""
    assert [model.id for model in load_catalog(None) if model.sha256 and not model.revision] == []


def test_every_field_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in Model.__struct_fields__ if f"| `{name}` |" not in text] == []


def test_every_shipped_model_stands_in_the_document_and_no_other() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text.partition("## What is in the shipped list")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert listed == [model.id for model in load_catalog(None)]


def test_a_field_of_a_later_version_in_an_answer_is_left_out() -> None:
    assert msgspec.convert(entry(colour="blue"), Model) == msgspec.convert(entry(), Model)
