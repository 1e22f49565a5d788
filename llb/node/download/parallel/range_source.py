"""Range source: ranges of one version of a file from the Hub."""

from __future__ import annotations

from collections.abc import Callable

from llb.hub import HubUnreachable
from llb.node.download.hub_fetch import DownloadBody, RangeNotSupported
from llb.texts.coded_text import CodedText


class RangeSource:
    """Source of ranges of the version that an earlier response had. Used by several threads.

    `open_body` requests a range at an address, or through the Hub if that is empty.
    """

    def __init__(self, first: DownloadBody, open_body: Callable[[int, int, str], DownloadBody]) -> None:
        self._open_body = open_body
        self._version = first.version
        # The signed URL at which the last range was found, until it expires.
        self._address = first.url

    def open_range(self, start: int, end: int) -> DownloadBody:
        """Request the bytes from `start` to `end`. Raises `HubError`; `RangeNotSupported` for other ones."""
        try:
            body = self._open_body(start, end, self._address)
        except HubUnreachable as error:
            if error.retry_after_s is not None:
                raise
            body = self._open_body(start, end, "")
        if body.start != start or body.version != self._version:
            body.close()
            raise RangeNotSupported(
                CodedText(
                    "sender_other_part",
                    "{who} sent another part of the file than was requested",
                    who=body.sender,
                )
            )
        self._address = body.url
        return body
