"""llb: load balancer and node for local language models. To embed it: `create_app(make_config(home=…))`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Config", "__version__", "create_app", "make_config"]

if TYPE_CHECKING:
    from llb.app import create_app
    from llb.config import Config, make_config


def __getattr__(name: str) -> Any:
    # Imported at first use: the engine worker and the commands import this package too, without a server.
    if name == "create_app":
        from llb.app import create_app

        return create_app
    if name in ("Config", "make_config"):
        from llb import config

        return getattr(config, name)
    raise AttributeError(name)
