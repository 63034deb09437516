"""Files in stores, and the lease that says which process writes to one."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from riffusion_train.runtime.errors import InputError
from riffusion_train.runtime.hub import Lease, Store

QUICK = {"renew_s": 0.02, "stale_s": 0.1}


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}"


def test_files_are_copied_read_from_their_end_and_removed_with_their_folder(url: str) -> None:
    store = Store(url)
    store.write("a/first", b"0123456789")
    store.copy("a/first", "b/second")
    assert store.read("b/second", start=-4) == b"6789"
    assert store.read("b/second", start=-40) == b"0123456789"
    with pytest.raises(FileNotFoundError):
        store.read("b/third", start=-4)
    store.remove_folder("a")
    store.remove_folder("nowhere")
    assert store.names() == {"b/second": 10}


def test_a_place_that_another_process_writes_to_is_refused_until_it_is_given_up(url: str) -> None:
    first, second = Lease(url, "lease.json", **QUICK), Lease(url, "lease.json", **QUICK)
    first.take("out=")
    with pytest.raises(
        InputError, match=rf"out={url}: process {os.getpid()} of .* is writing there; wait until"
    ) as refused:
        second.take("out=")
    assert "\n" not in str(refused.value)
    first.close()
    assert Store(url).names() == {}
    second.take("out=")
    second.close()


def test_a_lease_that_nobody_renews_is_taken_over_after_a_while(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    left = {"token": "other", "host": "elsewhere", "boot": "b", "pid": 7, "count": 3}
    Store(url).write("lease.json", json.dumps(left).encode())
    lease, start = Lease(url, "lease.json", **QUICK), time.monotonic()
    lease.take("out=")
    assert time.monotonic() - start >= QUICK["stale_s"]
    assert "process 7 of elsewhere writes there, or did; watching it" in capsys.readouterr().err
    lease.close()


def test_the_lease_of_a_process_of_this_machine_that_was_killed_is_taken_at_once(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    code = f"from riffusion_train.runtime.hub import Lease; Lease({url!r}, 'lease.json').take('out='); import os; os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert (tmp_path / "lease.json").is_file()
    lease, start = Lease(url, "lease.json", renew_s=10, stale_s=45), time.monotonic()
    lease.take("out=")
    assert time.monotonic() - start < 5
    lease.close()


def test_an_owner_that_was_cut_off_notices_that_another_one_took_over(url: str) -> None:
    lease = Lease(url, "lease.json", **QUICK)
    lease.take("out=")
    other = {"token": "other", "host": "elsewhere", "boot": "b", "pid": 7, "count": 0}
    Store(url).write("lease.json", json.dumps(other).encode())
    for _ in range(500):
        if lease.lost_to:
            break
        time.sleep(0.01)
    assert lease.lost_to == "process 7 of elsewhere"
    lease.close()
    assert json.loads(Store(url).read("lease.json")) == other, "it is not ours to remove"


def test_of_two_processes_that_take_a_place_at_once_one_is_left(tmp_path: Path) -> None:
    leases = [Lease(f"file://{tmp_path}", "lease.json", **QUICK) for _ in range(4)]
    refused = []

    def take(lease: Lease) -> None:
        try:
            lease.take("out=")
        except InputError:
            refused.append(lease)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)
    holders = [lease for lease in leases if lease not in refused and lease.lost_to is None]
    assert len(holders) == 1
    for lease in leases:
        lease.close()
