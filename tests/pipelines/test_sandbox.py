"""The sandbox: what goes in and comes out, every bound really hit, and nothing left behind by anyone's death."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.sandbox import MAX_LINE_BYTES, ROOT, Bounds, WorkKilled, WorkRefused, run_apart

BOUNDS = Bounds(wall_s=20, memory_bytes=500_000_000, file_bytes=4 * 2**20)
GONE_TIMEOUT_S = 10.0


async def run(function: str, *, bounds: Bounds = BOUNDS, **arguments: Any) -> dict[str, Any]:
    return await run_apart(f"tests.pipelines.sandbox_work:{function}", arguments, bounds=bounds)


def is_alive(pid: int) -> bool:
    """False for a zombie too where somebody else is to reap it: it holds nothing any more."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def wait_until_gone(pids: list[int]) -> None:
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline_s, f"{alive} still run"
        await asyncio.sleep(0.02)


@pytest.fixture
def heard() -> list[dict[str, Any]]:
    return []


async def test_what_the_work_returns_comes_back_unchanged() -> None:
    arguments = {"text": "Grüße\n\x00", "numbers": [1, 2.5, None, True], "deep": {"a": {"b": []}}}
    assert await run("echo", **arguments) == arguments


async def test_news_arrive_in_order_and_before_the_result(heard: list[dict[str, Any]]) -> None:
    await run_apart("tests.pipelines.sandbox_work:count", {"up_to": 100}, bounds=BOUNDS, on_news=heard.append)
    assert heard == [{"number": number} for number in range(100)]


async def test_a_refusal_is_raised_again_with_its_code_and_words() -> None:
    with pytest.raises(WorkRefused, match="^It is at fault.$") as caught:
        await run("refuse")
    assert caught.value.code == "bad_input"


async def test_it_runs_in_its_folder_with_limits_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_MONGO_URL", "mongodb://somebody:secret@db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = await run("describe", folder=str(tmp_path))
    assert (found["cwd"], found["temp"]) == (str(tmp_path), str(tmp_path))
    assert found["session"] == found["pid"]
    assert "secret" not in str(found["environment"])
    assert found["environment"]["OMP_NUM_THREADS"] == "1"
    assert found["niceness"] >= 10
    assert found["limits"]["AS"] == BOUNDS.memory_bytes
    assert found["limits"]["FSIZE"] == BOUNDS.file_bytes
    assert found["limits"]["CORE"] == 0
    assert found["limits"]["NOFILE"] <= 256
    assert BOUNDS.wall_s <= found["limits"]["CPU"] <= BOUNDS.wall_s * psutil.cpu_count()


async def test_a_file_in_its_folder_is_no_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('an upload was run as a program')")
    assert await run("echo", folder=str(tmp_path)) == {"folder": str(tmp_path)}


async def test_it_starts_with_little_in_its_luggage() -> None:
    modules = (await run("describe"))["modules"]
    assert {"asyncio", "numpy", "PIL", "structlog", "torch"}.isdisjoint(modules)


async def test_what_libraries_print_is_no_message() -> None:
    assert await run("print_much") == {"forged": False}


async def test_too_much_memory_is_said_as_such() -> None:
    assert await run("allocate", num_bytes=50_000_000) == {"num_bytes": 50_000_000}
    with pytest.raises(WorkKilled) as caught:
        await run("allocate", num_bytes=600_000_000)
    assert caught.value.reason == "memory"


@pytest.mark.parametrize("words", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"])
async def test_want_of_memory_in_the_words_of_pytorch_is_said_as_such(words: str) -> None:
    bounds = replace(BOUNDS, memory_bytes=None)
    with pytest.raises(WorkKilled) as caught:
        await run("fail_as_pytorch_does", bounds=bounds, words=words)
    assert caught.value.reason == "memory"
    with pytest.raises(WorkKilled) as caught:
        await run("fail_with", bounds=bounds, num_bytes=400_000_000)
    assert caught.value.reason == "crash", "where there is no bound, none was reached"


@pytest.mark.parametrize(("num_bytes", "reason"), [(400_000_000, "memory"), (1_000, "crash")])
async def test_what_fails_with_nearly_all_memory_in_use_fails_for_want_of_it(num_bytes: int, reason: str) -> None:
    with pytest.raises(WorkKilled) as caught:
        await run("fail_with", num_bytes=num_bytes)
    assert caught.value.reason == reason


async def test_the_systems_own_kill_counts_as_want_of_memory() -> None:
    with pytest.raises(WorkKilled) as caught:
        await run_apart(
            "tests.pipelines.sandbox_work:sleep",
            {"seconds": 60},
            bounds=BOUNDS,
            on_news=lambda news: psutil.Process(news["pid"]).send_signal(signal.SIGKILL),
        )
    assert caught.value.reason == "memory"


@pytest.mark.parametrize("work", ["sleep", "spin"])
async def test_the_deadline_ends_it(work: str, heard: list[dict[str, Any]]) -> None:
    with pytest.raises(WorkKilled, match="not done after 0.5 s") as caught:
        await run_apart(
            f"tests.pipelines.sandbox_work:{work}",
            {"seconds": 60, "cpu_s": 60},
            bounds=Bounds(wall_s=0.5, memory_bytes=BOUNDS.memory_bytes, file_bytes=1),
            on_news=heard.append,
        )
    assert caught.value.reason == "time"
    assert not psutil.pid_exists(heard[0]["pid"]), "not even a zombie"


async def test_used_up_cpu_time_counts_as_time() -> None:
    with pytest.raises(WorkKilled) as caught:
        await run("spin", cpu_s=1)
    assert caught.value.reason == "time"


async def test_a_file_that_grows_too_large_is_cut_off(tmp_path: Path) -> None:
    await run("write_file", folder=str(tmp_path), num_bytes=BOUNDS.file_bytes)
    with pytest.raises(WorkKilled):
        await run("write_file", folder=str(tmp_path), num_bytes=4 * BOUNDS.file_bytes)
    assert (tmp_path / "large").stat().st_size == BOUNDS.file_bytes


async def test_only_so_many_files_may_be_open() -> None:
    with pytest.raises(WorkKilled):
        await run("open_files", num_files=1_000)


@pytest.mark.parametrize(
    ("work", "arguments", "words"),
    [
        ("crash", {}, "killed by SIGSEGV"),
        ("fail", {}, "ended with 1"),
        ("end_early", {"code": 0}, "ended with 0"),
        ("end_early", {"code": 9}, "ended with 9"),
        ("return_no_json", {}, "ended with 1"),
        ("no_such_function", {}, "ended with 1"),
        ("return_much", {"num_bytes": MAX_LINE_BYTES + 1_000_000}, "more than anybody"),
        ("count", {"up_to": 1_000_000}, "more than anybody"),
        ("speak_out_of_turn", {"words": "no JSON"}, "out of turn"),
        ("speak_out_of_turn", {"words": "[1]"}, "out of turn"),
        ("speak_out_of_turn", {"words": '{"result": 1}'}, "out of turn"),
        ("speak_out_of_turn", {"words": "[" * 100_000}, "out of turn"),
    ],
)
async def test_work_that_breaks_is_a_crash(work: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkKilled, match=words) as caught:
        await run(work, bounds=Bounds(wall_s=60, memory_bytes=BOUNDS.memory_bytes, file_bytes=1), **arguments)
    assert caught.value.reason == "crash"


async def test_a_result_of_many_megabytes_passes() -> None:
    assert len((await run("return_much", num_bytes=MAX_LINE_BYTES - 100))["text"]) == MAX_LINE_BYTES - 100


@pytest.mark.parametrize("then", ["return", "crash", "sleep"])
async def test_what_it_started_ends_with_it(then: str, heard: list[dict[str, Any]]) -> None:
    try:
        await run_apart(
            "tests.pipelines.sandbox_work:have_children",
            {"then": then},
            bounds=Bounds(wall_s=2, memory_bytes=BOUNDS.memory_bytes, file_bytes=1),
            on_news=heard.append,
        )
        assert then == "return"
    except WorkKilled as killed:
        assert (then, killed.reason) in {("crash", "crash"), ("sleep", "time")}
    assert len(heard[0]["pids"]) == 3
    await wait_until_gone(heard[0]["pids"])


async def test_cancelling_the_one_who_waits_ends_the_work(heard: list[dict[str, Any]]) -> None:
    has_started = asyncio.Event()

    def on_news(news: dict[str, Any]) -> None:
        heard.append(news)
        has_started.set()

    waiting = asyncio.create_task(
        run_apart("tests.pipelines.sandbox_work:have_children", {"then": "sleep"}, bounds=BOUNDS, on_news=on_news)
    )
    async with asyncio.timeout(10):
        await has_started.wait()
        waiting.cancel()
        await asyncio.sleep(0)
        waiting.cancel()  # an impatient caller changes nothing
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await wait_until_gone(heard[0]["pids"])


async def test_trouble_of_the_listener_ends_the_work(heard: list[dict[str, Any]]) -> None:
    def stumble(news: dict[str, Any]) -> None:
        heard.append(news)
        raise TimeoutError("the listener's own")

    with pytest.raises(TimeoutError, match="the listener's own"):
        await run_apart("tests.pipelines.sandbox_work:sleep", {"seconds": 60}, bounds=BOUNDS, on_news=stumble)
    assert not psutil.pid_exists(heard[0]["pid"])


def test_it_dies_with_its_parent() -> None:
    script = (
        "import asyncio; from pipelines.sandbox import Bounds, run_apart\n"
        "tell = lambda news: print(news['pid'], flush=True)\n"
        "bounds = Bounds(wall_s=60, memory_bytes=500_000_000, file_bytes=1)\n"
        "work = run_apart('tests.pipelines.sandbox_work:sleep', {'seconds': 60}, bounds=bounds, on_news=tell)\n"
        "asyncio.run(work)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        asyncio.run(wait_until_gone([pid]))


def test_one_that_was_started_by_somebody_who_is_gone_does_nothing() -> None:
    errand = {"work": "tests.pipelines.sandbox_work:echo", "arguments": {}, "bounds": BOUNDS.for_child()}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.sandboxed", "999999999"],
        cwd=ROOT,
        input=json.dumps(errand).encode() + b"\n",
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.fixture(scope="module")
def can_leave_network() -> bool:
    return subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, timeout=30).returncode == 0


async def test_it_has_no_network_where_the_kernel_takes_it_away(can_leave_network: bool) -> None:
    if not can_leave_network:
        pytest.skip("this kernel lets nobody leave the network")
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(WorkKilled):
        await run("call", port=server.getsockname()[1])


def test_it_works_in_a_thread_with_the_event_loop_that_ray_serve_prefers(heard: list[dict[str, Any]]) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def one_after_the_other() -> None:
        heard.append(await run("echo", a=1))
        for function in ("crash", "sleep"):
            with pytest.raises(WorkKilled):
                await run(function, bounds=Bounds(wall_s=1, memory_bytes=BOUNDS.memory_bytes, file_bytes=1), seconds=60)
        heard.append(await run("echo", a=2))

    thread = threading.Thread(target=uvloop.run, args=(one_after_the_other(),))
    thread.start()
    thread.join(timeout=60)
    assert heard == [{"a": 1}, {"a": 2}]


async def test_many_at_once_do_not_mix() -> None:
    assert await asyncio.gather(*(run("echo", number=number) for number in range(16))) == [
        {"number": number} for number in range(16)
    ]
