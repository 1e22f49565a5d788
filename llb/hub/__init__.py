"""Hugging Face Hub: client, statistics of repositories, and the local cache."""

from llb.hub.cache import find_cached_file
from llb.hub.client import HubClient, HubFileInfo
from llb.hub.error_mapping import HUB, describe_network_error, redirect_text, unreachable_text
from llb.hub.errors import HubError, HubForbidden, HubGated, HubInvalidResponse, HubNotFound, HubUnreachable
from llb.hub.stats import HubStatsCache

__all__ = [
    "HUB",
    "HubClient",
    "HubError",
    "HubFileInfo",
    "HubForbidden",
    "HubGated",
    "HubInvalidResponse",
    "HubNotFound",
    "HubStatsCache",
    "HubUnreachable",
    "describe_network_error",
    "find_cached_file",
    "redirect_text",
    "unreachable_text",
]
