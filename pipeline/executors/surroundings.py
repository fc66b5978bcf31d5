"""What a cluster is found by, and what it must not disturb."""

import json
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from pipeline.errors import ClusterError, ConfigError

PAGE_SECONDS = 2


def address_of(scheduler: str) -> str:
    """The address of a scheduler, given that or the file that it wrote it to; ConfigError if it is neither."""
    if "://" in scheduler:
        return scheduler
    path = Path(scheduler)
    if not path.exists() and scheduler.rpartition(":")[2].isdigit():
        return f"tcp://{scheduler}"
    try:
        return str(json.loads(path.read_text())["address"])
    except FileNotFoundError:
        raise ConfigError(
            f"--scheduler {scheduler}: this is neither an address, such as tcp://HOST:8786, nor a file that is there."
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--scheduler {scheduler}: this is no file that a Dask scheduler wrote ({type(error).__name__}: {error}). "
            "Give it with `dask scheduler --scheduler-file`, or give the address itself."
        ) from error


def refuse_silent(address: str, seconds: float) -> None:
    """Raise ClusterError if what answers at an address is no scheduler: one speaks first, whoever comes.

    Dask itself would wait for the word of, say, a web server for ever. Not for TLS, where who comes speaks first.

    Raises:
        ClusterError: it says nothing.
        OSError: nothing answers.

    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not address.startswith("tcp://") or not port.isdigit():
        return  # Dask says what is wrong with it
    with socket.create_connection((host.strip("[]"), int(port)), seconds) as connection:
        try:
            said = connection.recv(1)
        except OSError:
            said = b""
    if not said:
        raise ClusterError(
            f"{address} answers, and not as a Dask scheduler does: it says nothing for {seconds:g} s. Is this the port "
            "of its dashboard? A scheduler says its address when it starts, such as tcp://HOST:8786."
        )


def shown(page: str) -> bool:
    """Whether a page is there, as far as can be told: one that this machine cannot reach may be, for others."""
    try:
        with urlopen(page, timeout=PAGE_SECONDS):  # noqa: S310 - the address is the scheduler's own
            return True
    except HTTPError:
        return False
    except (OSError, ValueError):
        return True


def refuse_shared(devices: Mapping[str, str | None]) -> None:
    """Raise ClusterError if two workers have the same GPU, or one has none."""
    holders: dict[str | None, list[str]] = {}
    for worker, device in devices.items():
        holders.setdefault(device, []).append(worker)
    for device, found in holders.items():
        if device is None or len(found) > 1:
            what = "no GPU" if device is None else f"the same GPU, {device}"
            raise ClusterError(
                f"{' and '.join(found)} see {what}, and each worker was to have one of its own. Look at "
                "CUDA_VISIBLE_DEVICES, or ask for fewer --workers."
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Without Dask's log: workers come and go, and what a user has to know of it, we say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
