"""Names of endpoints and of their models. Pure.

A model of an endpoint is called `<endpoint>/<model>`, one of a cloud `<endpoint>:<model>`. A prefix ends at
its first separator: names of models contain `/` and `:` themselves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_MODEL_NAME_CHARS = 256
MAX_MODELS = 20_000


def full_name(endpoint_name: str, model_name: str, *, is_cloud: bool) -> str:
    """Return the name under which a model of an endpoint can always be asked for."""
    return f"{endpoint_name}{':' if is_cloud else '/'}{model_name}"


def is_model_name(name: object) -> bool:
    """Whether a name from a list of models can be used in a request and in a log."""
    return isinstance(name, str) and 0 < len(name) <= MAX_MODEL_NAME_CHARS and name.isprintable()


def name_from_host(host: str, port: int, taken: Collection[str]) -> str:
    """Return a free name for an endpoint, from its host."""
    label = host if re.fullmatch(r"[\d.:a-f]+", host) else host.split(".")[0]
    stem = re.sub(r"[^a-z0-9-]+", "-", label.lower()).strip("-") or "endpoint"
    candidates = [stem[:48], f"{stem[:48]}-{port}", *(f"{stem[:48]}-{port}-{n}" for n in range(2, 1000))]
    return next(name for name in candidates if name not in taken)


def is_offered(model_name: str, model_filter: Collection[str] | None) -> bool:
    """Whether an endpoint offers a model: `model_filter` has names, and beginnings that end in `*`."""
    if model_filter is None:
        return True
    return model_name in model_filter or any(
        entry.endswith("*") and model_name.startswith(entry[:-1]) for entry in model_filter
    )


def sole_owner(owners: Iterable[str]) -> str | None:
    """Return the only endpoint that has a model of some name, None for none or several."""
    found = set(owners)
    return found.pop() if len(found) == 1 else None


_QUANTIZATION = re.compile(r"(?:iq\d_\w+|q\d(?:_k(?:_[sml])?|_\d)?|bf16|f16|f32|fp8|awq|gptq)(?![a-z0-9])")
_FILE_SUFFIX = re.compile(r"\.gguf$|:latest$")


def suggest_mapping(model_name: str, catalogue: Mapping[str, tuple[str, str | None]]) -> str | None:
    """Return the model of the catalogue that `model_name` probably is, None if none or several are.

    `catalogue` has the repository and the quantization of each model. Both must be the same, where the name
    gives a quantization.
    """
    wanted = _FILE_SUFFIX.sub("", model_name.lower())
    found_quantization = _QUANTIZATION.search(wanted)
    stem = _normalized(wanted)
    matches = [
        model_id
        for model_id, (repo, quantization) in catalogue.items()
        if stem in {_normalized(model_id), _normalized(repo), _normalized(repo.rpartition("/")[2])}
        and (
            found_quantization is None
            or quantization is None
            or found_quantization[0] == quantization.lower()
        )
    ]
    return matches[0] if len(matches) == 1 else None


def _normalized(name: str) -> str:
    """Return a name without its organisation, quantization and separators."""
    stem = name.lower().rpartition("/")[2]
    stem = _QUANTIZATION.sub("", stem)
    return re.sub(r"[^a-z0-9]|gguf", "", stem)
