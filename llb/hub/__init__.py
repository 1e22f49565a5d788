"""The Hugging Face Hub: facts about files and repositories, and the figures of all models."""

from llb.hub.answers import describe
from llb.hub.cache import cached_file
from llb.hub.client import FileFacts, Hub
from llb.hub.errors import HubBadAnswer, HubError, HubGated, HubNotFound, HubRefused, HubUnreachable
from llb.hub.stats import StatsCache

__all__ = [
    "FileFacts",
    "Hub",
    "HubBadAnswer",
    "HubError",
    "HubGated",
    "HubNotFound",
    "HubRefused",
    "HubUnreachable",
    "StatsCache",
    "cached_file",
    "describe",
]
