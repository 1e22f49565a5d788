"""The composition root of a host that lends itself to another llb: a node, its link, and a door that leads on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from msgspec import structs

from llb import __version__, auth, home, membership, portable, trust
from llb.addresses import base_urls
from llb.api.files import files_blueprint
from llb.api.forward import forward_blueprint
from llb.api.guard import Guard
from llb.api.hop import hop_blueprint
from llb.api.identity import BalancerOnly
from llb.api.lending import lending_blueprint
from llb.api.passing import Ongoing
from llb.certificates import server_tls
from llb.cluster.join import Dialler, anchor_of, ask_to_join, knows_each_other, say_goodbye
from llb.cluster.spares import Served, Spares
from llb.config import Config
from llb.engine.pool import EnginePool
from llb.errors import SetupError
from llb.gateway.upstream import Upstream
from llb.hardware import Machine
from llb.hub import Hub
from llb.membership import Membership
from llb.node.agent import NodeAgent
from llb.node.files import ModelFiles
from llb.store import settings
from llb.store.database import Database
from llb.tasks import TaskGroup
from llb.wire import PROTOCOL_VERSION, JoinReply, JoinRequest, LeaveReply, Welcome

log = logging.getLogger(__name__)


class JoinedHost:
    """Everything of a process that is a node alone. `start()` and `stop()` are Sanic's to call."""

    def __init__(self, config: Config, serve: Callable[[Callable[[], None]], Served]) -> None:
        """`serve` makes the server's end of a connection that this host has dialled."""
        assert config.join is not None  # noqa: S101  # create_app asked
        self.config = config
        self.balancer_url: str = config.join
        self.port = config.port  # the one that was bound, once it is
        self.local_token = auth.new_local_token()
        self.membership: Membership | None = None
        self.left = asyncio.Event()
        self.db = Database(config.database_path)
        self.hub = Hub(config.hub_endpoint, config.hub_token)
        self.guard = Guard(
            config,
            BalancerOnly(lambda: None if self.membership is None else self.membership.hop_credential),
            local_token=self.local_token,
        )
        self.pool = EnginePool(
            slots=config.parallel, context=config.context, keep_alive_s=config.keep_alive_s
        )
        self.agent = NodeAgent(
            config=config,
            db=self.db,
            hub=self.hub,
            files=ModelFiles(config.models_dir),
            machine=Machine(),
            pool=self.pool,
        )
        self.agent.addresses = self._addresses
        self.agent.balancer_url = self.balancer_url
        self.tls = server_tls(config)
        self.upstream = Upstream(impatient=True)
        self.ongoing = Ongoing()
        self.dialler: Dialler | None = None
        self._serve = serve
        self.tasks = TaskGroup("joined")
        self.dialled = TaskGroup("dialled")  # answers travel over its connections: it ends after them
        self._lock: portable.Lock | None = None

    def blueprints(self) -> tuple[Any, ...]:
        """What a node answers: its balancer, the command line on this host, and everybody by leading on."""
        return (
            hop_blueprint(self.agent, self.upstream, self.ongoing, lambda: self.membership),
            files_blueprint(
                self.agent.offers,
                lambda: self.agent.node_id,
                lambda: None if self.membership is None else self.membership.hop_credential,
            ),
            lending_blueprint(self.balancer_url, self, self.left),
            forward_blueprint(
                self.balancer_url, lambda: self.agent.balancer_anchor, self.upstream, self.ongoing
            ),
        )

    async def start(self) -> None:
        """Home, database, membership (asked for with the token where there is none yet), node, link."""
        self._lock = await asyncio.to_thread(home.take, self.config.home, self.config.models_dir)
        try:
            await self.db.start()
            if self.tls is not None:
                await self.tls.start(self.db)
                self.agent.anchor = self.tls.anchor
            self.membership = await self._belong()
            self.agent.balancer_anchor = self.membership.anchor
            self.agent.node_id = self.membership.node_id
            await self.agent.start()
        except BaseException:
            await self.stop()
            raise
        spares = Spares(self.membership, self._serve)
        self.agent.on_dial = spares.ask
        self.dialler = Dialler(self.membership, self.agent)
        self.dialler.on_welcome = self._welcomed
        self.dialler.on_link = lambda stands: None if stands else spares.ask(0)
        self.dialled.supervise(spares.run(), "spares")
        self.tasks.supervise(self.dialler.run(), "link")
        if self.tls is not None:
            self.tasks.supervise(self.tls.keep(), "tls")

    async def drain(self, timeout_s: float) -> None:
        """End the link, so that the balancer sends nothing more, and let running answers end."""
        await self.tasks.close()
        await self.ongoing.ended(timeout_s)

    async def stop(self) -> None:
        """The start in reverse; idempotent."""
        await self.tasks.close()
        await self.dialled.close()
        await self.upstream.close()
        await self.agent.close()
        await self.hub.aclose()
        await self.db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def default_password(self) -> bool:
        """A joined host has no accounts."""
        return False

    async def leave(self) -> LeaveReply:
        """Belong to nobody any more. The balancer is told if it can be reached; the files stay."""
        member, self.membership = self.membership, None
        if member is None:
            return LeaveReply()
        # First: or the balancer would say on the link what is known here, that this node was removed.
        await self.tasks.close()
        untold = await say_goodbye(member)
        await asyncio.to_thread(membership.remove, self.config.home)
        return LeaveReply(untold=untold)

    @property
    def problem(self) -> str | None:
        """Why the link does not stand, as a sentence; None while it does."""
        return "it is starting" if self.dialler is None else self.dialler.problem

    async def _belong(self) -> Membership:
        known = membership.read(self.config.home)
        if known is not None and known.balancer_url == self.balancer_url:
            return known  # a token beside it is ignored, so that a service unit can keep it
        token, fingerprint = auth.split_token(self.config.join_token or "")
        anchor = await anchor_of(self.balancer_url, fingerprint)
        if anchor == trust.SYSTEM and known is not None:
            anchor = known.anchor
        if known is not None and await knows_each_other(self.balancer_url, known, anchor):
            # It is reached at another address than before, or by another name.
            moved = structs.replace(known, balancer_url=self.balancer_url, anchor=anchor)
            await asyncio.to_thread(membership.write, self.config.home, moved)
            return moved
        if not token:
            if known is not None:
                raise SetupError(
                    f"This host lends itself to {known.balancer_url}: run 'llb leave' first, or give the token of "
                    f"{self.balancer_url} with --token."
                )
            raise SetupError(
                f"To join {self.balancer_url} a token is needed: 'llb join-token' makes one there; "
                "give it with --token or LLB_JOIN_TOKEN."
            )
        reply = await self._ask(token, anchor)
        if reply.name != self.config.name:
            log.warning(
                "another node is called %s already: this one is called %s", self.config.name, reply.name
            )
        joined = Membership(
            balancer_url=self.balancer_url,
            cluster_id=reply.cluster_id,
            node_id=reply.node_id,
            name=reply.name,
            credential=reply.credential,
            hop_credential=reply.hop_credential,
            anchor=anchor,
        )
        await asyncio.to_thread(membership.write, self.config.home, joined)
        # Last: a token that was wrong must not cost the place it has.
        if known is not None and (untold := await say_goodbye(known)) is not None:
            log.warning(
                "%s was not told that this node left (%s): remove it there", known.balancer_url, untold
            )
        return joined

    async def _ask(self, token: str, anchor: str) -> JoinReply:
        request = JoinRequest(
            token=token,
            name=self.config.name,
            protocol=PROTOCOL_VERSION,
            version=__version__,
            cluster_id=await settings.get(self.db, "cluster_id") or "",
        )
        return await ask_to_join(self.balancer_url, request, anchor)

    def _welcomed(self, welcome: Welcome) -> None:
        """Keep what the balancer calls this node: it may have been renamed."""
        member = self.membership
        if member is None or not welcome.name or welcome.name == member.name:
            return
        log.warning("this node is called %s now", welcome.name)
        self.membership = structs.replace(member, name=welcome.name)
        membership.write(self.config.home, self.membership)

    def _addresses(self) -> tuple[str, ...]:
        if self.config.advertise is not None:
            return (self.config.advertise,)
        return base_urls("http" if self.tls is None else "https", self.config.listen_host, self.port)
