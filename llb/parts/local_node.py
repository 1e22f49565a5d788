"""Parts of the local node: what every process has, a balancer as well as a joined host."""

from __future__ import annotations

from collections.abc import Callable

from llb.base.logs.log_buffer import LogBuffer
from llb.config import Config
from llb.engine.builds.overlays import overlay_store
from llb.engine.builds.selector import BuildSelector
from llb.engine.planning.calibration import CALIBRATIONS_NAME, CalibrationStore
from llb.engine.pool import EnginePool
from llb.hardware import HardwareProbe, installed_version
from llb.hub import HubClient
from llb.node.agent import NodeAgent
from llb.node.files import ModelFiles
from llb.store.database import Database


class LocalNode:
    """Engines of this host, and the agent that makes the node hold what its balancer asks for."""

    def __init__(
        self,
        config: Config,
        db: Database,
        hub: HubClient,
        log_buffer: LogBuffer,
        *,
        get_addresses: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`get_addresses` returns the base URLs that the node advertises."""
        engine_builds = BuildSelector(overlay_store(config.home, installed_version()))
        self.engine_pool = EnginePool(
            slots=config.parallel,
            context=config.context,
            keep_alive_s=config.keep_alive_s,
            get_build=engine_builds.get_current,
            calibrations=CalibrationStore(config.home / CALIBRATIONS_NAME),
            on_log_line=log_buffer.add_engine_line,
        )
        self.agent = NodeAgent(
            config=config,
            db=db,
            hub=hub,
            files=ModelFiles(config.models_dir, clock=db.clock.earliest),
            hardware_probe=HardwareProbe(get_build=engine_builds.get_current),
            engine_builds=engine_builds,
            engine_pool=self.engine_pool,
            get_addresses=get_addresses,
        )
        self.engine_pool.engine_changed.subscribe(self.agent.on_engine_changed)
