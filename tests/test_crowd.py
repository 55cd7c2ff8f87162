"""Crowd: weak, by identity, and readable while it changes."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass

from microreg.crowd import Crowd


@dataclass
class Thing:
    number: int


def test_things_are_there_as_long_as_somebody_has_them() -> None:
    crowd: Crowd[Thing] = Crowd()
    one, other = Thing(1), Thing(1)  # equal, and not hashable
    for thing in (one, other, one):
        crowd.add(thing)
    assert [thing is one for thing in crowd] == [True, False]
    del one, thing
    gc.collect()
    assert list(crowd) == [other]


def test_it_can_be_read_while_another_thread_changes_it() -> None:
    crowd: Crowd[Thing] = Crowd()
    done = threading.Event()

    def change() -> None:
        for number in range(5000):
            kept = [Thing(number), Thing(number)]
            for thing in kept:
                crowd.add(thing)
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not done.is_set():
        assert len(list(crowd)) <= 5
    thread.join()
    gc.collect()
    assert list(crowd) == []
