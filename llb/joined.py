"""The composition root of a host that lends itself to another llb: a node, its link, and a door that leads on."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from llb import __version__, auth, home, membership, portable
from llb.addresses import base_urls
from llb.api.forward import forward_blueprint
from llb.api.guard import Guard
from llb.api.hop import hop_blueprint
from llb.api.identity import BalancerOnly
from llb.api.lending import lending_blueprint
from llb.cluster.join import Dialler, ask_to_join, say_goodbye
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
from llb.wire import PROTOCOL_VERSION, JoinRequest

log = logging.getLogger(__name__)


class JoinedHost:
    """Everything of a process that is a node alone. `start()` and `stop()` are Sanic's to call."""

    def __init__(self, config: Config) -> None:
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
        self.upstream = Upstream()
        self.dialler: Dialler | None = None
        self.tasks = TaskGroup("joined")
        self._lock: portable.Lock | None = None

    def blueprints(self) -> tuple[Any, ...]:
        """What a node answers: its balancer, the command line on this host, and everybody by leading on."""
        return (
            hop_blueprint(self.agent, self.upstream, lambda: self.membership),
            lending_blueprint(self.balancer_url, self._problem, self.leave),
            forward_blueprint(self.balancer_url, self.upstream),
        )

    async def start(self) -> None:
        """Home, database, membership (asked for with the token where there is none yet), node, link."""
        self._lock = await asyncio.to_thread(home.take, self.config.home, self.config.models_dir)
        try:
            await self.db.start()
            self.membership = await self._belong()
            self.agent.node_id = self.membership.node_id
            await self.agent.start()
        except BaseException:
            await self.stop()
            raise
        self.dialler = Dialler(self.membership, self.agent)
        self.tasks.supervise(self.dialler.run(), "link")

    async def drain(self, timeout_s: float) -> None:
        """The balancer has to learn first that nothing more may be sent here; what runs is cut with the connections."""
        await self.tasks.close()

    async def stop(self) -> None:
        """The start in reverse; idempotent."""
        await self.tasks.close()
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

    async def leave(self) -> None:
        """Belong to nobody any more. The balancer is told if it can be reached; the files stay."""
        if self.membership is not None:
            await say_goodbye(self.membership)
        membership.remove(self.config.home)
        self.membership = None
        self.left.set()

    async def _belong(self) -> Membership:
        known = membership.read(self.config.home)
        if known is not None and known.balancer_url == self.balancer_url:
            return known  # a token beside it is ignored, so that a service unit can keep it
        if self.config.join_token is None:
            if known is not None:
                raise SetupError(
                    f"This host lends itself to {known.balancer_url}: run 'llb leave' first, or give the token of "
                    f"{self.balancer_url} with --token."
                )
            raise SetupError(
                f"To join {self.balancer_url} a token is needed: 'llb join-token' makes one there; "
                "give it with --token or LLB_JOIN_TOKEN."
            )
        reply = await ask_to_join(
            self.balancer_url,
            JoinRequest(
                token=self.config.join_token,
                name=self.config.name,
                protocol=PROTOCOL_VERSION,
                version=__version__,
                cluster_id=await settings.get(self.db, "cluster_id") or "",
            ),
        )
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
        )
        await asyncio.to_thread(membership.write, self.config.home, joined)
        return joined

    def _addresses(self) -> tuple[str, ...]:
        if self.config.advertise is not None:
            return (self.config.advertise,)
        return base_urls(self.config.listen_host, self.port)

    def _problem(self) -> str | None:
        return "starting" if self.dialler is None else self.dialler.problem
