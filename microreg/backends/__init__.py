"""The backends that come with microreg: memory, static, mdns. None imports another."""
