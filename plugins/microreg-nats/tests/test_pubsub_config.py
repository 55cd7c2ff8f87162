"""Wrong config strings are told before anything is sent; what opening and importing need. No server."""

from __future__ import annotations

import pytest

from microreg import ConfigError, RegistryUnavailable, connect
from microreg_nats.pubsub import PubSubRegistry
from servers import nats
from strategies import record
from support import python, run


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("nats-pubsub://127.0.0.1/path", "the option topic"),
        ("nats-pubsub://127.0.0.1?topic=a..b", "topic"),
        ("nats-pubsub://127.0.0.1?topic=a.*", "topic"),
        ("nats-pubsub://127.0.0.1?settle=1ms", "10ms to 60s"),
        ("nats-pubsub://127.0.0.1?settle=2m", "10ms to 60s"),
        ("nats-pubsub://127.0.0.1?topics=a", "did you mean topic?"),
        ("nats-pubsub://127.0.0.1?ca=/etc/ca.pem", "natss-pubsub://"),
        ("nats-pubsub://user@127.0.0.1", "belong together"),
        ("nats-pubsub://127.0.0.1:x", "host 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(url: str, what: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        connect(url)
    assert what in str(wrong.value)


def test_without_a_server_opening_is_fine_and_calls_say_so() -> None:
    never_started = nats("pubsub-never", jetstream=False)

    async def main() -> None:
        async with connect(f"nats-pubsub://127.0.0.1:{never_started.port}?timeout=2s") as registry:
            calls = (registry.register(record()), registry.deregister(record()), registry.get_service("greeter"))
            for call in (*calls, registry.list_services()):
                with pytest.raises(RegistryUnavailable, match="nats-server"):
                    await call

    run(main())


def test_the_hosts_towards_which_the_address_is_looked_for() -> None:
    backend = connect("nats-pubsub://127.0.0.1,[::1],nats.internal:1").unwrap(PubSubRegistry)
    assert backend is not None
    assert list(backend.hosts) == ["127.0.0.1", "::1", "nats.internal"]


def test_importing_and_connecting_load_no_client_library() -> None:
    code = "import sys, microreg; microreg.connect('nats-pubsub://127.0.0.1'); print('nats' in sys.modules)"
    assert python(code) == "False\n"
