"""Valkey: what was acknowledged outlives kills and restarts; the port is kept, or another is taken and named."""

from pathlib import Path

import pytest
import redis

from infra import ports
from infra.processes import StartError
from infra.service import State
from infra.valkey_server import ValkeyServer
from tests.infra.test_kafka_server import ports_in_use


@pytest.fixture
def wanted() -> int:
    port = ports.choose()
    ports.give_back(port)
    return port


def test_keys_outlive_kill_and_restart(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    try:
        url = server.url
        with redis.Redis.from_url(url, decode_responses=True) as client:
            client.set("one", 1)
            server.kill()
            server.start()
            assert server.url == url
            assert client.get("one") == "1"
            client.set("two", 2)
            server.restart()
            assert client.mget("one", "two") == ["1", "2"]
            server.pause()
            assert server.state is State.PAUSED
            with pytest.raises(redis.TimeoutError):
                redis.Redis.from_url(url, socket_timeout=0.2, retry=None).get("one")
            server.resume()
            assert client.get("one") == "1"
    finally:
        server.stop()
    assert server.state is State.STOPPED
    with pytest.raises(RuntimeError, match="valkey is not running"):
        server.pause()


def test_a_port_in_use_is_replaced_and_named(tmp_path: Path, wanted: int) -> None:
    with ports_in_use(wanted):
        server = ValkeyServer(tmp_path, port=wanted)
        server.start()
        try:
            assert server.port != wanted
            assert server.note == f"port {wanted} is in use"
        finally:
            server.stop()
    server.release_port()
    server.start()
    try:
        assert (server.port, server.note) == (wanted, "")
    finally:
        server.stop()


def test_a_port_that_clients_know_is_not_replaced(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    server.kill()
    with ports_in_use(server.port), pytest.raises(StartError, match=f"its port {server.port} has been taken by another program"):
        server.start()
    server.stop()


def test_a_port_lost_to_another_program_at_the_last_moment_is_replaced(tmp_path: Path, wanted: int) -> None:
    server = ValkeyServer(tmp_path, port=wanted)
    choose = server.prepare
    lost: list[ports_in_use] = []

    def prepare() -> None:
        if not lost:
            lost.append(ports_in_use(wanted))
        choose()

    server.prepare = prepare  # type: ignore[method-assign]
    server.start()
    try:
        assert server.port != wanted
        assert redis.Redis.from_url(server.url).ping()
    finally:
        server.stop()
        lost[0].__exit__()


def test_starting_twice_and_stopping_twice_is_nothing(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path)
    assert server.stop()
    assert server.state is State.WAITING
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    assert server.stop() and server.stop()
    server.kill()
