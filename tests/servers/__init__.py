"""Real servers for tests: ``from servers import etcd``. MICROREG_ETCD, _CONSUL, _NATS_SERVER may name the programs."""

from servers.certificates import TLS, tls
from servers.consul import consul
from servers.etcd import etcd, etcd_cluster, is_leader, leader
from servers.microreg import microreg_server
from servers.nats import nats, nats_cluster

__all__ = [
    "TLS",
    "consul",
    "etcd",
    "etcd_cluster",
    "is_leader",
    "leader",
    "microreg_server",
    "nats",
    "nats_cluster",
    "tls",
]
