"""Finds the PostgreSQL that the tests and benchmarks start and, run as a script, gets one where there is none.

Knows nothing of votes. It is the server's own programs that are looked for; no server that runs already is touched.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

DEBIAN = Path("/usr/lib/postgresql")
USER = "ram"


def installed_postgres() -> Path | None:
    """The folder of `initdb` and `postgres`: on PATH, else Debian's newest; else None."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "initdb").exists() and (path / "postgres").exists()), None)


@contextmanager
def serve(*options: str) -> Iterator[str]:
    """A server of its own on a free port of loopback, behind a password: its address, up to the database's name.

    options: settings of the server, as in "fsync=off". The server and all that it kept are gone afterwards.
    """
    programs = installed_postgres()
    password, port = secrets.token_hex(8), _free_port()
    with tempfile.TemporaryDirectory(prefix="ram-postgres-") as folder:
        data, secret = Path(folder) / "data", Path(folder) / "password"
        secret.write_text(password)
        user = _unprivileged()
        if user:
            for path in (folder, secret):
                shutil.chown(path, "postgres", "postgres")
        made = [programs / "initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        subprocess.run([*user, *made, "--no-locale", "--no-sync"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", *options]
        command = [*user, programs / "postgres", "-D", data, *(f"--{setting}" for setting in settings)]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            address = f"{USER}:{password}@127.0.0.1:{port}"
            _wait(server, f"postgresql://{address}/postgres")
            yield f"postgresql+psycopg://{address}"
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown: clients are sent away
            server.wait(30)


def _unprivileged() -> list[str]:
    """What goes before a command so that it runs as the user that Debian made for it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait(server: subprocess.Popen, address: str) -> None:
    """Until it answers. Raises the last refusal when it has ended instead."""
    while True:
        try:
            return psycopg.connect(address, connect_timeout=5).close()
        except psycopg.OperationalError:
            if server.poll() is not None:
                raise


def _get() -> None:
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update"], env=environment)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", "postgresql"], env=environment)


def _main() -> None:
    if not installed_postgres():
        _get()
    print(f"PostgreSQL for the tests: {installed_postgres() or 'none, and none could be got'}")


if __name__ == "__main__":
    _main()
