"""A laboratory: real processes on separate network addresses, with cables that can be slowed and cut.

    with open_lan() as lan:
        attic = lan.host("attic")
        lan.slow(attic, up_bytes_per_s=12_000_000, down_bytes_per_s=12_000_000)
        with LabLlb(attic, tmp_path / "attic", HF_ENDPOINT=…) as llb:
            llb.register("tiny")
            lan.cut(attic)              # nothing is refused: what is sent vanishes
            lan.mend(attic)

With root and iproute2 each host is a network namespace, joined by veth to a bridge in a namespace of its own:
the network of this machine is not touched, and several laboratories do not see each other. Without, each host
is a loopback address: enough for everything but cables (`lan.has_cables`).

`Cluster` puts a Hub, a balancer, nodes and a client on such a network; `Load` runs clients in a host of it.
Whatever a killed run left behind (namespaces, processes) is found by its mark and removed when the next
network is opened.
"""

from tests.lab.host import Host
from tests.lab.lan import Lan, open_lan
from tests.lab.processes import LabHubProcess, LabLlbProcess

__all__ = ["Host", "LabHubProcess", "LabLlbProcess", "Lan", "open_lan"]
