"""A real PostgreSQL server, started from its own binaries, and files and catalogues to ingest."""

import gzip
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.gateway.ingesting import Write, line_of

START_TIMEOUT_S = 30


class PostgresServer:
    """A server in a folder of its own that tests may stop, freeze and start again."""

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self._data = folder / "data"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        options = ["-A", "trust", "-U", "vitrine", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", "-D", str(self._data), *options)

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://vitrine@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        settings = ["fsync=off", "full_page_writes=off", "max_connections=50"]
        settings += [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=32MB",
        ]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self._port)]
        for setting in settings:
            command += ["-c", setting]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, user=self._user
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop at once, as a crash would, without waiting for clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=START_TIMEOUT_S)
            self._process = None

    def freeze(self) -> None:
        """Make the server and all its sessions stand still; their sockets stay open."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def make_database(self, name: str) -> str:
        """Return the URL of a new, empty database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    def _signal_all(self, number: int) -> None:
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children()):
            process.send_signal(number)

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._binaries / name), *arguments],
            check=True,
            capture_output=True,
            cwd=self._folder,
            user=self._user,
        )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                log = (self._folder / "server.log").read_text()
                assert self._process.poll() is None, f"PostgreSQL ended at once:\n{log}"
                assert time.monotonic() < deadline_s, f"PostgreSQL does not answer:\n{log}"
            else:
                return


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL server for the test session; leave it running."""
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL's own binaries (initdb, postgres); none are installed")
    user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="vitrine-postgres-"))
    if user is not None:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    server = PostgresServer(binaries, folder, user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database on a running PostgreSQL server."""
    return postgres_server.make_database("session")


def _find_binaries() -> Path | None:
    folders = [path for name in ("initdb", "postgres") if (path := shutil.which(name))]
    candidates = [Path(path).resolve().parent for path in folders]
    if (pg_config := shutil.which("pg_config")) is not None:
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(found.stdout.strip()))
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    return None


def _unprivileged_user() -> str | None:
    """Return whom the server runs as: PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/catalog.sqlite"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write lines (objects as JSON, bytes and text as they are) to a file."""

    def writeline_ofs(*lines: object, name: str = "items.jsonl") -> Path:
        content = b"".join(line_of(line) for line in lines)
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return writeline_ofs
