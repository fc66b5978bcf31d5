"""What a cluster is found by, and which GPUs are whose; there need be none for that."""

import http.server
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.devices import gpus, visible
from pipeline.errors import ClusterError, ConfigError
from pipeline.executors.surroundings import address_of, quiet, refuse_shared, refuse_silent, shown


def test_each_worker_has_a_gpu_of_its_own() -> None:
    """Law: no two see the same one, and none sees none."""
    refuse_shared({})
    refuse_shared({"a": "GPU-1", "b": "GPU-2"})
    with pytest.raises(
        ClusterError, match="a and c see the same GPU, GPU-1, and each worker was to have one of its own"
    ):
        refuse_shared({"a": "GPU-1", "b": "GPU-2", "c": "GPU-1"})
    with pytest.raises(ClusterError, match="b see no GPU"):
        refuse_shared({"a": "GPU-1", "b": None})


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 3, ["0", "1", "2"]),
        ("", 2, ["0", "1"]),
        ("5,2", 2, ["5", "2"]),
        ("GPU-8a, MIG-1b", 2, ["GPU-8a", "MIG-1b"]),
        ("0,1,9", 2, ["0", "1"]),
    ],
)
def test_gpus_are_called_what_cuda_calls_them(named: str | None, count: int, expected: list[str]) -> None:
    """Law: what CUDA_VISIBLE_DEVICES leaves to a driver is what its workers share."""
    assert visible(named, count) == expected


def test_a_device_that_is_no_gpu_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: workers on a CPU are as many as are asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert (gpus("cpu"), gpus("cuda"), gpus("auto")) == ([], ["3", "1"], ["3", "1"])


def test_a_scheduler_is_named_by_its_address_or_its_file(tmp_path: Path) -> None:
    """Law: what is neither is refused, with what was expected."""
    (tmp_path / "s.json").write_text('{"address": "tls://10.0.0.1:8786"}')
    (tmp_path / "other.json").write_text('["address"]')
    assert address_of("tls://host:1") == "tls://host:1"
    assert address_of("host:8786") == "tcp://host:8786"
    assert address_of(str(tmp_path / "s.json")) == "tls://10.0.0.1:8786"
    for name, said in (
        ("other.json", "no file that a Dask scheduler wrote"),
        ("none.json", "nor a file"),
        ("", "no file"),
    ):
        with pytest.raises(ConfigError, match=said):
            address_of(str(tmp_path / name))


class Pages(http.server.BaseHTTPRequestHandler):
    """A server of one page."""

    def do_GET(self) -> None:
        """That page, or none."""
        self.send_response(200 if self.path == "/status" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Its address."""
    with http.server.HTTPServer(("127.0.0.1", 0), Pages) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_dashboard_is_shown_unless_its_scheduler_says_that_there_is_none(server: str) -> None:
    """Law: a scheduler without bokeh answers that there is no such page; one that only others can reach is shown."""
    assert shown(f"{server}/status")
    assert not shown(f"{server}/nothing")
    assert shown("http://127.0.0.1:1/status")
    assert shown("no address at all")


def test_a_log_is_quiet_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Law: and as it was afterwards."""
    logger = logging.getLogger("distributed.nanny")
    with caplog.at_level(logging.INFO, logger="distributed.nanny"):
        before = logging.root.manager.disable
        with quiet():
            logger.critical("Restarting worker")
        assert logging.root.manager.disable == before
    assert "Restarting" not in caplog.text


def test_what_answers_and_is_no_scheduler_is_refused() -> None:
    """Law: a server that waits to be spoken to, as that of the dashboard is, does not keep anyone waiting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"{address} answers, and not as a Dask scheduler does.*its dashboard"):
            refuse_silent(address, 0.2)
    with pytest.raises(OSError, match="refused"):
        refuse_silent(address, 0.2)
    refuse_silent("tls://127.0.0.1:1", 0.2)
