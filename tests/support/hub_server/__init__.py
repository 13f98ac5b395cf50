"""A Hugging Face Hub for tests: real clients, the loopback, nothing but the standard library (and PyYAML for cards).

with HubServer() as hub:
    hub.add_token("hf_alice", "alice")
    api = HfApi(endpoint=hub.endpoint, token="hf_alice")
    hub.faults.add("lfs_put", 503, times=2)
"""

from .faults import KINDS, FaultPlan, LogEntry, RequestLog
from .hub import Options
from .remote import RemoteHub, serve_in_process, wait_struck
from .routes import NAMES
from .server import HubServer

ROUTE_NAMES = NAMES

__all__ = [
    "KINDS",
    "ROUTE_NAMES",
    "FaultPlan",
    "HubServer",
    "LogEntry",
    "Options",
    "RemoteHub",
    "RequestLog",
    "serve_in_process",
    "wait_struck",
]
