"""Parts that all others use: database, event bus, settings, log, Hub, TLS."""

from __future__ import annotations

import asyncio
import logging

from llb.base import data_dir
from llb.base.events import EventBus
from llb.base.logs.log_buffer import LogBuffer
from llb.base.tasks import TaskSupervisor
from llb.cluster.stored_settings import StoredSettings
from llb.config import Config
from llb.hub import HubClient
from llb.node.replica_worker import DISK_RESERVE_BYTES
from llb.security.certificates import create_server_tls
from llb.security.redaction import SecretRedactor, redact_logs
from llb.security.secret_box import KEY_FILE_NAME, SecretBox
from llb.store.backup_rotation import BackupTimer
from llb.store.clock_keeper import ClockKeeper
from llb.store.database import Database
from llb.store.integrity_check import IntegrityCheck
from llb.store.storage_monitor import StorageMonitor
from llb.wire import Event


class BaseParts:
    """Database, settings, event bus and log of a balancer."""

    def __init__(self, config: Config) -> None:
        """Raises `SetupError` for an invalid setting."""
        self.config = config
        self.tasks = TaskSupervisor("llb")
        self.event_bus: EventBus[Event] = EventBus()
        self.redactor = SecretRedactor()
        self.log_buffer = LogBuffer(self.redactor.redact)
        self.db = Database(config.database_path)
        self.clock_keeper = ClockKeeper(self.db)
        self.secret_box = SecretBox(config.home / KEY_FILE_NAME)
        self.stored_settings = StoredSettings(self.db, config, self.secret_box, self.redactor.register)
        self.hub = HubClient(config.hub_endpoint, config.hub_token, offline=config.hub_offline)
        self.tls = create_server_tls(config)
        self.integrity_check = IntegrityCheck(config.database_path)
        self.storage_monitor = StorageMonitor(
            self.db, config.models_dir, download_reserve_bytes=DISK_RESERVE_BYTES
        )
        self.backup_timer: BackupTimer | None = None
        if config.backup_every_s is not None:
            self.backup_timer = BackupTimer(
                self.db, config.backup_dir, interval_s=config.backup_every_s, keep=config.backup_keep
            )
        self._data_dir_lock: data_dir.DataDirLock | None = None

    async def lock_data_dir(self) -> None:
        """Take the data directory for this process. Raises `SetupError` if another one has it."""
        self._data_dir_lock = await asyncio.to_thread(
            data_dir.acquire_lock, self.config.home, self.config.models_dir
        )

    def unlock_data_dir(self) -> None:
        """Give the data directory back; idempotent."""
        lock, self._data_dir_lock = self._data_dir_lock, None
        if lock is not None:
            lock.close()

    def redact_logs(self) -> None:
        """Keep the known secrets out of all logs."""
        redact_logs(self.redactor, logging.getLogger().handlers)

    def spawn_tasks(self) -> None:
        """Start the periodic work on storage and certificate."""
        self.tasks.spawn(self.storage_monitor.run(), "storage")
        self.tasks.spawn(self.integrity_check.run(), "integrity-check")
        if self.backup_timer is not None:
            self.tasks.spawn(self.backup_timer.run(), "backup")
        self.tasks.spawn(self.clock_keeper.run(), "clock")
        if self.tls is not None:
            self.tasks.spawn(self.tls.run_renewal(), "tls")

    def problems(self) -> tuple[str, ...]:
        """Return what is wrong with database, backups and settings, as sentences."""
        backup_problem = None if self.backup_timer is None else self.backup_timer.problem
        found = (self.integrity_check.problem, backup_problem, self.stored_settings.problem)
        return tuple(problem for problem in found if problem is not None)
