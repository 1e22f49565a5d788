"""Where joined nodes are reached, and requests to them. A way that fails is left alone, and proved before it is used again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llb.cluster.links import SILENCE_S
from llb.gateway.connection import Origin, Response
from llb.gateway.faults import ConnectFailed, UpstreamFault, UpstreamTimeout
from llb.gateway.upstream import Target, Upstream
from llb.gateway.ways import CONNECT_TIMEOUT_S, Finder, Way, candidates, dialled_by
from llb.tasks import TaskGroup
from llb.wire import Hello, ReachView, ReachWay

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 8.0  # whoever comes back is to be used within ten seconds
HOPE_S = 4.0  # so long a node without a way is one that is just being looked for: by then its link says if it is gone
STEADY_S = 30.0  # a way that held for so long was good: the next pause is short again
# At what a way costs, and whether a node that dials could be dialled: soon at first, its network may just be coming up.
LOOK_AGAIN_FIRST_S, LOOK_AGAIN_S = 1.0, 60.0
SPARES = 4  # connections that a node which cannot be dialled keeps ready
WRONG_CREDENTIAL = (
    "it does not take this balancer's credential: its node.json was replaced; let it leave and join again"
)


class _Search:
    """Looks for the way to one node, and for another when it fails, for as long as the node's link stands."""

    def __init__(
        self,
        upstream: Upstream,
        finder: Finder,
        hello: Hello,
        urls: tuple[str, ...],
        tasks: TaskGroup,
        *,
        ask_to_dial: Callable[[int], None],
        on_changed: Callable[[], None],
    ) -> None:
        self.instance = hello.instance
        self.urls = urls
        self.way: Way | None = None
        self.targets: dict[Origin, Target] = {}  # at which this process of the node was asked, by origin
        self._name = hello.name
        self._tasks = tasks
        self._task = tasks.supervise(self._run(), f"search.{hello.name}")
        self._hoped = True  # that a way is found in a moment
        self._doubt = self._hope()
        self._upstream = upstream
        self._finder = finder
        self._ask_to_dial = ask_to_dial
        self._on_changed = on_changed

    def end(self) -> None:
        """Look no more. The requests that wait are still cared for by their way's pulse."""
        self._task.cancel()
        self._lose()
        self._doubt.cancel()

    @property
    def may_return(self) -> bool:
        """Whether the node is there, or is hoped to be found in a moment."""
        return self.way is not None or self._hoped

    def fail(self, way: Way, reason: str) -> None:
        """`way` is not to be used any more, if it still is."""
        if self.way is way:
            log.warning("node %s is left alone: %s", self._name, reason)
            self._lose()

    async def _run(self) -> None:
        pause_s, said = FIRST_PAUSE_S, False
        while True:
            way = await self._find()
            if way is not None:
                said, began = False, time.monotonic()
                self._use(way)
                await self._until_lost()
                if time.monotonic() - began > STEADY_S:
                    pause_s = FIRST_PAUSE_S
            elif not said:
                said = True
                log.warning(
                    "node %s is reached at none of %s", self._name, ", ".join(self.urls) or "its addresses"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _lose(self) -> None:
        way, self.way = self.way, None
        if way is not None:
            way.pulse.retire()
            self._upstream.drop(way.target)
            way.lost.set()
            self._doubt.cancel()
            self._doubt = self._hope()
            self._on_changed()

    def _hope(self) -> asyncio.TimerHandle:
        self._hoped = True
        return asyncio.get_running_loop().call_later(HOPE_S, self._give_up_hope)

    def _give_up_hope(self) -> None:
        self._hoped = False
        self._on_changed()

    async def _find(self) -> Way | None:
        way = await self._finder.direct(self.urls)
        if way is not None:
            self._ask_to_dial(0)
            return way
        self._ask_to_dial(SPARES)
        return await self._finder.reverse()

    def _use(self, way: Way) -> None:
        before, self.way = self.way, way
        if before is not None:
            before.pulse.retire()
            self._upstream.drop(before.target)
        self.targets[way.target.origin] = way.target
        self._tasks.supervise(self._feel(way), f"pulse.{self._name}")
        log.info(
            "node %s is reached %s, and answers within %.1f ms",
            self._name,
            f"at {way.address}" if way.address is not None else "over connections that it dials itself",
            way.answer_s * 1000,
        )
        self._on_changed()

    async def _feel(self, way: Way) -> None:
        await way.pulse.run()
        self.fail(way, "it has gone")

    async def _until_lost(self) -> None:
        pause_s = LOOK_AGAIN_FIRST_S
        while (way := self.way) is not None:
            try:
                async with asyncio.timeout(LOOK_AGAIN_S if way.kind is ReachWay.DIRECT else pause_s):
                    await way.lost.wait()
            except TimeoutError:
                pause_s = min(LOOK_AGAIN_S, pause_s * 2)
                await self._look_again(way)

    async def _look_again(self, way: Way) -> None:
        better = None if way.kind is ReachWay.DIRECT else await self._finder.direct(self.urls)
        if better is not None:
            self._use(better)
            self._ask_to_dial(0)
        elif (answer_s := await self._finder.measure(way.target)) is not None:
            way.answer_s = answer_s


@dataclass(frozen=True)
class _Gone:
    """A node whose link has ended: the answers that it had begun may go on until it was silent for too long."""

    instance: str
    targets: dict[Origin, Target]
    end: asyncio.TimerHandle


class Reach:
    """The way to each node whose link stands, and the requests along it."""

    def __init__(
        self, upstream: Upstream, credential_of: Callable[[str], str | None], *, tls_only: bool = False
    ) -> None:
        """With `tls_only` a node that speaks no TLS is reached over the connections that it dials, which do."""
        self._tls_only = tls_only
        self._upstream = upstream
        self._credential_of = credential_of
        self._searches: dict[str, _Search] = {}
        self._gone: dict[str, _Gone] = {}
        self._tasks = TaskGroup("reach")
        self.ask_to_dial: Callable[[str, int], None] = lambda _node_id, _spares: None
        self.on_changed: Callable[[str], None] = lambda _node_id: None

    def way(self, node_id: str) -> Way | None:
        search = self._searches.get(node_id)
        return None if search is None else search.way

    def may_return(self, node_id: str) -> bool:
        """Whether a node has a way, or is likely to have one in a moment."""
        search = self._searches.get(node_id)
        return search is not None and search.may_return

    def address(self, node_id: str) -> str | None:
        """The base URL at which a node is dialled."""
        way = self.way(node_id)
        return None if way is None else way.address

    def view(self, node_id: str) -> ReachView:
        """How a node is reached, as the API shows it."""
        way = self.way(node_id)
        if way is None:
            return ReachView(way=ReachWay.NONE)
        return ReachView(way=way.kind, answer_ms=round(way.answer_s * 1000, 1))

    async def request(
        self,
        node_id: str,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        header_timeout_s: float,
    ) -> Response:
        """A node's answer, once its head has come; the caller closes it, and says when somebody has `heard()` of it. Until
        then it fails within a second where the node has gone: here, or when it is read. Raises `UpstreamFault`."""
        way = self.way(node_id)
        if way is None:
            raise ConnectFailed("there is no way to the node")
        way.pulse.feel()
        try:
            response = await self._upstream.request(
                way.target,
                method,
                path,
                headers,
                body,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                header_timeout_s=header_timeout_s,
            )
        except BaseException as error:
            way.pulse.let_go()
            if isinstance(error, UpstreamFault) and not _only_slow(error, way):
                self._failed(node_id, way, f"a request to it failed ({error})")
            raise
        response.await_hearing(way.pulse.let_go)
        if response.status == 401 and any(name == b"www-authenticate" for name, _ in response.headers):
            response.close()
            self._failed(node_id, way, WRONG_CREDENTIAL)
            raise ConnectFailed("the node does not know its balancer")
        return response

    # --- what is heard of nodes ---------------------------------------------------------------------

    def hello(self, hello: Hello, observed: str | None) -> None:
        """A node is there: find the best of its addresses, and of the one from which it dialled."""
        node_id, urls = hello.node_id, candidates(hello.addresses, observed)
        before = self._searches.get(node_id)
        same = before is not None and (before.instance, before.urls) == (hello.instance, urls)
        if same and self.address(node_id) is not None:
            return  # only its link is new
        asked_at = self._asked_at(node_id, hello.instance)
        credential = self._credential_of(node_id)
        if credential is None:
            return
        search = self._searches[node_id] = _Search(
            self._upstream,
            Finder(
                self._upstream,
                node_id,
                hello.name,
                credential,
                anchor=hello.anchor,
                tls_only=self._tls_only,
            ),
            hello,
            urls,
            self._tasks,
            ask_to_dial=lambda spares: self.ask_to_dial(node_id, spares),
            on_changed=lambda: self.on_changed(node_id),
        )
        search.targets |= asked_at
        self.on_changed(node_id)

    def lost(self, node_id: str, silent_s: float = 0.0) -> None:
        """The node's link has ended, `silent_s` after it was last heard; or the node was removed."""
        search = self._searches.pop(node_id, None)
        if search is not None:
            search.end()
            end = asyncio.get_running_loop().call_later(max(0.0, SILENCE_S - silent_s), self._bury, node_id)
            self._gone[node_id] = _Gone(search.instance, search.targets, end)

    def dialled(self, node_id: str, transport: asyncio.Transport) -> None:
        """Take a connection that a node has dialled."""
        self._upstream.adopt(dialled_by(node_id), transport)

    def expects(self, node_id: str) -> bool:
        """Whether the node's link stands, so that it may dial."""
        return node_id in self._searches

    async def close(self) -> None:
        """Idempotent."""
        for node_id in tuple(self._searches):
            self.lost(node_id)
        for gone in self._gone.values():
            gone.end.cancel()
        await self._tasks.close()

    def _failed(self, node_id: str, way: Way, reason: str) -> None:
        search = self._searches.get(node_id)
        if search is not None:
            search.fail(way, reason)

    def _asked_at(self, node_id: str, instance: str) -> dict[Origin, Target]:
        """Where this process of the node has been asked before. What another one was answering has ended with it."""
        search, gone = self._searches.pop(node_id, None), self._gone.pop(node_id, None)
        if search is not None:
            search.end()
        if gone is not None:
            gone.end.cancel()
        before = search or gone
        if before is None or before.instance == instance:
            return {} if before is None else before.targets
        self._abandon(before.targets)
        return {}

    def _bury(self, node_id: str) -> None:
        self._abandon(self._gone.pop(node_id).targets)

    def _abandon(self, targets: dict[Origin, Target]) -> None:
        for target in targets.values():
            self._upstream.abandon(target, begun=True)


def _only_slow(fault: UpstreamFault, way: Way) -> bool:
    """Whether the node may well be there: it is its program that has to answer, or to dial in time."""
    if isinstance(fault, ConnectFailed):
        return fault.timed_out and way.kind is ReachWay.REVERSE
    return isinstance(fault, UpstreamTimeout)
