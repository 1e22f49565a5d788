"""Network laboratory: real processes on separate network addresses, with cables that can be slowed and cut.

    with open_lan() as lan:
        attic = lan.add_host("attic")
        lan.limit_bandwidth(attic, up_bytes_per_s=12_000_000, down_bytes_per_s=12_000_000)
        with LabLlb(attic, tmp_path / "attic", HF_ENDPOINT=…) as llb:
            llb.register_model("tiny")
            lan.cut_cable(attic)        # nothing is refused: what is sent vanishes
            lan.restore_cable(attic)

With root and iproute2 each host is a network namespace, joined by veth to a bridge in a namespace of its own:
the network of this machine is not touched, and several laboratories do not see each other. Without, each host
is a loopback address: enough for everything but cables (`lan.has_cables`).

`LabCluster` puts a Hub, a balancer, nodes and a client on such a network; `LoadGenerator` runs clients on one
of its hosts. What a killed run left behind (namespaces, processes) is found by its mark and removed when the
next network is opened.
"""

from tests.lab.host import Host
from tests.lab.lan import Lan, open_lan
from tests.lab.processes import LabHubProcess, LabLlbProcess

__all__ = ["Host", "LabHubProcess", "LabLlbProcess", "Lan", "open_lan"]
