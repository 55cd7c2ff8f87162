"""The backends that come with microreg: memory, static, mdns, http. None imports another."""
