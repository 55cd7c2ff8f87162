"""microreg for programs without an event loop: the same verbs, blocking.

::

    with microreg.sync.connect() as registry:                       # mdns://, or $MICROREG_REGISTRY
        with microreg.sync.announce(registry, "greeter", port=8080):
            with microreg.sync.Selector(registry) as selector:
                print(selector.select("greeter", timeout=5).url("http"))

Each open registry has one thread with an event loop, in which everything of it happens: renewals go on
while the program is busy. Every call may come from any thread, except from that one (WrongLoop). Ctrl-C
cancels the call that it strikes. A forked child cannot use what its parent opened (RegistryClosed).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Self, TypeVar
from weakref import WeakSet, finalize

from microreg import announce as _announce
from microreg import announcement as _announcement
from microreg import connect as _connect
from microreg import registry as _registry
from microreg import selector as _selector
from microreg import watch as _watch
