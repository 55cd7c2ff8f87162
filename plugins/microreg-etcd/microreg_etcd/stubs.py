"""The generated stubs of etcd's protocol, imported where they are needed and with a word when they cannot be."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import TypeVar

from microreg.errors import ConfigError

__all__ = ["answers", "rpc"]

Q = TypeVar("Q")
A = TypeVar("A")

# What gRPC does by itself at a fork crashes the child now and then. It reads this when it is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    from aetcd import rpc
    from grpc.aio import EOF
except Exception as error:
    # TypeError: protobuf refuses a second copy of etcd's messages. ImportError, RuntimeError, protobuf's VersionError
    # (which is neither): too old a library.
    raise ConfigError(
        f"etcd:// cannot load its protocol stubs ({type(error).__name__}: {error}). Expected grpcio 1.66.2 or newer, "
        "protobuf 5.27.2 or newer, and no other etcd client in this process: two of them cannot live together "
        "(etcd3, etcd3aio, pyetcd and aetcd all bring the same protobuf messages)"
    ) from error


async def answers(stream: rpc.StreamCall[Q, A]) -> AsyncGenerator[A, None]:
    """What a stream says until it ends.

    A stream that is iterated itself, and cancelled before it said anything, stays open until the garbage collector
    finds it.
    """
    while (answer := await stream.read()) is not EOF:
        yield answer
