"""Parts of the accounts: users, sessions, API keys, and the authentication of requests."""

from __future__ import annotations

from collections.abc import Callable

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_service import KeyService
from llb.accounts.principal_watch import PrincipalWatch
from llb.accounts.service import AccountService
from llb.api.audit_log import DeniedRequestAudit
from llb.api.middleware.auth_middleware import AuthMiddleware
from llb.config import Config
from llb.errors import SetupError
from llb.gateway.admission.rate_limiter import ApiKeyRateLimiter
from llb.store.database import Database
from llb.store.tables import users


class AccountParts:
    """Accounts, their credentials and limits, and the middleware that checks them."""

    def __init__(
        self,
        config: Config,
        db: Database,
        *,
        local_token: str,
        node_id_of: Callable[[str], str | None],
    ) -> None:
        """`node_id_of` returns the id of the node that has a credential."""
        self._config = config
        self._db = db
        self.authenticator = AccountAuthenticator(db, node_id_of=node_id_of)
        self.service = AccountService(db, self.authenticator)
        self.key_service = KeyService(db, self.authenticator)
        self.principal_watch = PrincipalWatch(self.authenticator, clock=db.clock.latest)
        self.rate_limiter = ApiKeyRateLimiter()
        self.denied_requests = DeniedRequestAudit(db)
        self.auth_middleware = AuthMiddleware(
            config,
            self.authenticator,
            local_token=local_token,
            rate_limit_headers_of=self.rate_limiter.rate_limit_headers,
            on_access_denied=self.denied_requests.record_denial,
        )
        self.authenticator.accounts_changed.subscribe(self.principal_watch.check_soon)

    async def start(self) -> None:
        """Create the administrator, if there is none. Raises `SetupError`."""
        await self.service.ensure_admin(self._config.admin_password)
        if self.auth_middleware.is_exposed and await self.uses_default_password():
            raise SetupError(
                f"Listening on {self._config.listen_host} with the default password lets anybody in: "
                "set LLB_ADMIN_PASSWORD, or change the password with 'llb password'."
            )
        self.authenticator.start()
        self.principal_watch.start()

    async def uses_default_password(self) -> bool:
        """Whether the administrator still has the default password."""
        return await users.is_default_password_in_use(self._db)

    async def issue_setup_token(self) -> str | None:
        """Return a token with which the first password can be chosen; None once there is one."""
        return self.service.setup_token.issue() if await self.uses_default_password() else None
