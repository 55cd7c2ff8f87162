"""``nats://`` and ``nats-pubsub://``: microreg registries on NATS, in a key-value bucket or with no store at all."""
