from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from orchestrator.host.signals import ShutdownRequested, Signals


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_ends_a_blocking_call() -> None:
    silent, _other = socket.socketpair()
    with silent, _other, Signals():
        threading.Timer(0.05, _interrupt).start()
        with pytest.raises(ShutdownRequested):
            silent.recv(1)


def test_a_deferred_call_is_finished_before_a_signal_counts() -> None:
    done = []
    with Signals() as signals, pytest.raises(ShutdownRequested), signals.deferred():
        _interrupt()
        done.append("call")
    assert done == ["call"]


def test_a_second_signal_ends_even_a_deferred_call() -> None:
    done = []
    with Signals() as signals, pytest.raises(ShutdownRequested), signals.deferred():
        _interrupt()
        done.append("first")
        _interrupt()
        done.append("second")
    assert done == ["first"]


def test_cleaning_up_is_not_torn_apart_but_where_it_says_so() -> None:
    with Signals() as signals:
        with pytest.raises(ShutdownRequested):
            _interrupt()
        signals.disarm()
        with pytest.raises(ShutdownRequested), signals.armed():
            _interrupt()
        _interrupt()


def test_a_signal_between_two_parts_of_cleaning_up_counts_at_the_next() -> None:
    with Signals() as signals:
        signals.disarm()
        _interrupt()
        with pytest.raises(ShutdownRequested), signals.armed():
            pytest.fail("the signal came before")


def test_a_signal_whose_exception_was_swallowed_is_not_lost() -> None:
    class Swallows:
        def __del__(self) -> None:
            try:
                _interrupt()
            except ShutdownRequested:
                return

    with Signals() as signals:
        Swallows()
        with pytest.raises(ShutdownRequested):
            signals.check()


def test_handlers_are_as_before_when_all_is_over() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
