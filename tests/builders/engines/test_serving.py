"""Servers that a run starts itself: reached, shared, and ended with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.engines import SamplingSettings, serving
from builders.engines.openai_engine import OpenAIEngine, describe_model
from builders.settings.engines import OpenAIEngineSettings
from scorers.errors import UserError

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments): pass
    def send(self, value):
        data = json.dumps(value).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json"); self.end_headers(); self.wfile.write(data)
    def do_GET(self):
        self.send({"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "me"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": str(os.getpid())}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.send({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                   "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PROMPT = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "server.py").write_text(SERVER)
    return f"{{python}} {tmp_path / 'server.py'} {{port}}"


def settings_of(command: str, **more: float) -> OpenAIEngineSettings:
    return OpenAIEngineSettings(serve=command, **more)  # type: ignore[arg-type]


def pid_of(engine: OpenAIEngine) -> int:
    return int(engine.generate([PROMPT], [1], SamplingSettings(4))[0].text)


def test_it_is_started_once_and_answers(command: str) -> None:
    settings = settings_of(command)
    model, window = describe_model("m", settings, "engines.judge")
    assert model.id == "m"
    engines = [OpenAIEngine("m", settings, window, "engines.judge") for _ in range(2)]
    first, second = (pid_of(engine) for engine in engines)
    assert first == second
    for engine in engines:
        engine.close()
    # One that has died is started anew.
    os.kill(first, signal.SIGKILL)
    serving._RUNNING[command].process.wait(timeout=20)
    engine = OpenAIEngine("m", settings, window, "engines.judge")
    assert pid_of(engine) != first
    engine.close()


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a shell"])
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_the_process_that_started_it(command: str, end: signal.Signals, wrapped: bool) -> None:
    if wrapped:  # a program of its own stands between
        command = f"sh -c '{command}; true'"
    code = f"""
import time
from builders.engines.openai_engine import OpenAIEngine, describe_model
from builders.settings.engines import OpenAIEngineSettings
from builders.engines import SamplingSettings
settings = OpenAIEngineSettings(serve={command!r})
model, window = describe_model("m", settings, "engines.judge")
engine = OpenAIEngine("m", settings, window, "engines.judge")
print(engine.generate([{PROMPT!r}], [1], SamplingSettings(4))[0].text, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        server = int(program.stdout.readline())
        os.killpg(program.pid, end)  # as a worker is killed, with its whole group
        program.wait(timeout=20)
    for _ in range(200):
        if not Path(f"/proc/{server}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the server outlived the program that started it")


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"^engines.judge.serve: the command ended before it listened \(no-such-program: "
    ):
        serving.address_of("no-such-program --port {port}", "engines.judge", 20)


def test_a_command_that_ends_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise SystemExit('no such model: Qwen')")
    with pytest.raises(UserError, match=r"ended before it listened \(no such model: Qwen\); its log is /"):
        serving.address_of(f"{{python}} {tmp_path / 'fails.py'} {{port}}", "engines.judge", 20)


def test_a_command_that_says_nothing_or_is_none() -> None:
    with pytest.raises(UserError, match=r"ended before it listened \(exit status 3, it said nothing\)"):
        serving.address_of("sh -c 'exit 3' {port}", "engines.judge", 20)
    with pytest.raises(UserError, match=r"is no command line \(No closing quotation\); correct it"):
        serving.address_of("vllm 'serve {port}", "engines.judge", 20)


def test_a_command_that_never_listens() -> None:
    with pytest.raises(
        UserError, match=r"^engines.judge.serve: nothing listens on port \d+ after 1 s; let the command"
    ):
        serving.address_of("sleep 60 {port}", "engines.judge", 1)


def test_what_contradicts_itself_is_refused(command: str) -> None:
    with pytest.raises(ValueError, match="serve starts a server of its own, and base_url names another"):
        OpenAIEngineSettings(serve=command, base_url="http://localhost:1/v1")
    with pytest.raises(ValueError, match=r"serve has no \{port\}"):
        OpenAIEngineSettings(serve="vllm serve Qwen/Qwen2.5-0.5B-Instruct")
