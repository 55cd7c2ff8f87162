"""``microreg demo``: three services find each other; one is killed, one drained, one comes late; calls go on."""
