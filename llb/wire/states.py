"""States of models, replicas, engines and nodes."""

from __future__ import annotations

from enum import StrEnum


class ModelStatus(StrEnum):
    AVAILABLE = "Available"
    REGISTERED = "Registered"
    DOWNLOADING = "Downloading"
    READY = "Ready"
    ERROR = "Error"


class ReplicaState(StrEnum):
    WANTED = "wanted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    READY = "ready"
    ERROR = "error"
    DELETING = "deleting"
    GONE = "gone"


class EngineState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"


class NodeStatus(StrEnum):
    JOINING = "joining"
    ONLINE = "online"
    OFFLINE = "offline"
    REMOVED = "removed"


class ReachWay(StrEnum):
    LOCAL = "local"
    DIRECT = "direct"
    # Over tunnels that the node opens.
    REVERSE = "reverse"
    NONE = "none"


class KvCacheType(StrEnum):
    """Number format of the keys and values in a KV cache."""

    F16 = "f16"
    # Blocks of 32 integers of a byte with one scale: 53 % of f16.
    Q8_0 = "q8_0"


class Speculation(StrEnum):
    """Way in which a model drafts tokens for itself."""

    # With its heads for multi-token prediction.
    MTP = "mtp"
    # With what followed the same n-gram in earlier text of its engine.
    NGRAM = "ngram"


class DraftState(StrEnum):
    """State of the drafts of a loaded model, by another model or by itself: used, or why not."""

    USED = "used"
    # The node does not hold it, or its file cannot be read.
    MISSING = "missing"
    # Its vocabulary is another one.
    VOCABULARY = "vocabulary"
    # One of both is no text model whose tokens can be taken back: an image projector, recurrent state; or the
    # model has no heads for multi-token prediction that llb can use.
    UNSUITABLE = "unsuitable"
    # It does not fit together with the model.
    MEMORY = "memory"
    # An engine with it has failed.
    FAILED = "failed"


class Verdict(StrEnum):
    FITS = "fits"
    TIGHT = "tight"
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"
