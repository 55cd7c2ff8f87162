"""A desk with two clerks: threads, and no event loop to be seen."""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx

import microreg.sync
from microreg.integrations.httpx import RegistryTransport

CLERKS = ("Ann", "Bob")
PAUSE = 0.3


def serve(clerk: str, http: httpx.Client, closed: Event) -> tuple[int, int]:
    """Place orders until the desk closes; how many were answered, and how many failed."""
    answered = failed = 0
    while not closed.wait(PAUSE):
        try:
            http.get("http://orders.microreg/orders/chair").raise_for_status()
            answered += 1
            if answered == 1:
                print(f"{clerk} has found orders\n", end="", flush=True)  # in one piece: others print too
        except httpx.HTTPError as error:
            failed += 1
            print(f"{clerk} could not order: {error}\n", end="", flush=True)
    return answered, failed


def main() -> int:
    closed = Event()

    def close(*_: object) -> None:
        closed.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, close)
    with microreg.sync.connect() as registry, microreg.sync.Selector(registry) as selector:
        timeout = httpx.Timeout(5, connect=30)  # of which the first call may wait 30 s for a node
        with httpx.Client(mounts={"all://*.microreg": RegistryTransport(selector)}, timeout=timeout) as http:
            with ThreadPoolExecutor() as pool:
                results = [pool.submit(serve, clerk, http, closed) for clerk in CLERKS]
            answered, failed = map(sum, zip(*(result.result() for result in results), strict=True))
    print(f"{answered} calls answered, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
