"""Stand-ins of engines and clouds: real HTTP servers made from their published schemas, with faults on demand.

By hand: `python -m tests.providers --help`.
"""

from tests.providers.faults import Fault, FaultKind
from tests.providers.server import KINDS, ProviderStandIn, RecordedRequest

__all__ = ["KINDS", "Fault", "FaultKind", "ProviderStandIn", "RecordedRequest"]
