"""Ports: the wanted one, else a free one, never one of somebody else."""

import socket

import pytest

from infra import ports


def test_a_free_port_is_chosen_when_the_wanted_one_is_in_use() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert not ports.is_free(taken)
        assert ports.accepts(taken)
        port = ports.choose(taken)
    assert port in ports.FREE_PORTS
    assert ports.is_free(port)
    ports.give_back(port)


def test_a_listener_on_all_addresses_takes_the_port_too() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        assert not ports.is_free(other.getsockname()[1])


def test_no_port_is_handed_out_twice_before_it_is_given_back() -> None:
    first = ports.choose()
    assert ports.choose(first) != first
    ports.give_back(first)
    assert ports.choose(first) == first
    ports.give_back(first)


def test_no_free_port_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with pytest.raises(OSError, match="No free port"):
        ports.choose()
