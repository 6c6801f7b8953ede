"""Neither who reads the log nor a signal costs a client anything: python3 logs_test.py path/to/lorax"""

import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import live_server
from live_server import TINY, LiveServer, call

LORAX = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1
                     else live_server.ROOT / "build/release/lorax").resolve()
STREAM = {"inputs": "In the beginning", "parameters": {"max_new_tokens": 300,
                                                       "ignore_eos_token": True}}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server(LiveServer):
    """Whose output goes where the test wants it; so its port is chosen here."""

    def __init__(self, *flags, command=(), **streams):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = [str(LORAX), "serve", "--model-id", str(TINY), "--port", str(self.port),
                     "--threads", "1", *map(str, flags)]
        self.process = subprocess.Popen([*command, *arguments], **streams)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(f"no server: {self.process.poll()}")

    def output(self):
        return ""

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def warning_adapters(folder, count):
    """Adapters that load with a warning of the same cause."""
    for i in range(count):
        shutil.copytree(TINY / "adapters/caps", folder / f"a{i}")
        file = folder / f"a{i}/adapter_config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, "base_model_name_or_path": f"other/model-{i}"}))


def generate(adapter=None):
    parameters = {"max_new_tokens": 1, **({"adapter_id": adapter} if adapter else {})}
    return {"inputs": "a", "parameters": parameters}


class Base(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.dir = pathlib.Path(temporary.name)

    def pipe(self):
        """A small pipe: (read end, write end), closed at the end of the test."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(lambda end=end: os.close(end))
        return ends

    def assert_serves(self, server, adapters=()):
        self.assertEqual(server.post("/generate", generate())[0], 200)
        for adapter in adapters:
            status, _, body = server.post("/generate", generate(adapter))
            self.assertEqual(status, 200, body)

    def streams_through_sigterm(self, server, count=3):
        async def run():
            streams = [asyncio.create_task(call(server.port, "/generate_stream", STREAM))
                       for _ in range(count)]
            while server.metric("lorax_batch_current_size") < count:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*streams)

        for status, events, _ in asyncio.run(run()):
            self.assertEqual(status, 200)
            self.assertIsNotNone(json.loads(events[-1])["generated_text"])
        self.assertEqual(server.process.wait(60), 0)


class LogsTest(Base):
    def test_an_unread_stdout(self):
        reader, writer = self.pipe()
        with Server(stdout=writer, stderr=subprocess.DEVNULL) as server:
            for _ in range(1200):  # a pipe holds 64 KiB
                self.assertEqual(server.get("/health")[0], 200)
            self.assert_serves(server)
            self.streams_through_sigterm(server)

    def test_what_an_unread_stdout_has_missed_is_said(self):
        reader, writer = self.pipe()
        long_path = "/" + "x" * 4000
        with Server(stdout=writer, stderr=subprocess.DEVNULL) as server:
            for _ in range(1800):  # more than the queue holds
                server.get(long_path)
            dropped = server.metric("lorax_log_dropped_lines")
            self.assertGreater(dropped, 0)
            os.set_blocking(reader, False)
            text, end = b"", time.monotonic() + 30
            while b"are missing here" not in text and time.monotonic() < end:
                try:
                    text += os.read(reader, 1 << 16)
                except BlockingIOError:
                    time.sleep(0.01)
            said = re.search(rb"warning (\d+) lines of this log are missing here", text)
            self.assertIsNotNone(said)
            self.assertEqual(float(said.group(1)), server.metric("lorax_log_dropped_lines"))
            self.assertEqual(server.stop(), 0)

    def test_an_unread_stderr(self):
        reader, writer = self.pipe()
        warning_adapters(self.dir, 4)
        os.set_blocking(writer, False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        with Server("--adapter-dir", self.dir, stdout=subprocess.DEVNULL, stderr=writer) as server:
            self.assert_serves(server, [f"a{i}" for i in range(4)])
            self.streams_through_sigterm(server)

    def test_readers_that_have_gone(self):
        warning_adapters(self.dir, 2)
        for stream in ("stdout", "stderr"):
            with self.subTest(stream):
                reader, writer = os.pipe()
                other = "stdout" if stream == "stderr" else "stderr"
                os.close(reader)
                with Server("--adapter-dir", self.dir,
                            **{stream: writer, other: subprocess.DEVNULL}) as server:
                    os.close(writer)
                    self.assert_serves(server, ["a0", "a1"])
                    self.assertGreater(server.metric("lorax_log_dropped_lines"), 0)
                    self.streams_through_sigterm(server)

    def test_a_full_disk(self):
        warning_adapters(self.dir, 2)
        with open("/dev/full", "w") as full, \
                Server("--adapter-dir", self.dir, stdout=full, stderr=full) as server:
            self.assert_serves(server, ["a0", "a1"])
            self.streams_through_sigterm(server)

    def test_closed_descriptors(self):
        warning_adapters(self.dir, 2)
        shell = ("bash", "-c", 'exec "$@" >&- 2>&- <&-', "bash")
        with Server("--adapter-dir", self.dir, command=shell) as server:
            for fd in range(3):
                self.assertEqual(os.readlink(f"/proc/{server.process.pid}/fd/{fd}"), "/dev/null")
            self.assert_serves(server, ["a0", "a1"])
            self.streams_through_sigterm(server)

    def test_json_lines(self):
        warning_adapters(self.dir, 3)
        with LiveServer(LORAX, "--json-output", "--adapter-dir", self.dir) as server:
            for i in range(3):
                server.post("/generate", generate(f"a{i}"), {"X-Request-Id": f"mine-{i}"})
            server.get("/%0a%22,%22level%22:%22error")
            self.assertEqual(server.post("/generate", generate("missing"))[0], 424)
            self.assertEqual(server.stop(), 0)
            lines = [json.loads(line) for line in server.output().splitlines()]
        for line in lines:
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ("info", "warning"))
        requests = [line for line in lines if line["message"] == "request"]
        self.assertEqual(requests[0]["request_id"], "mine-0")
        self.assertEqual(requests[0]["adapter"], "a0")
        self.assertEqual(requests[0]["generated_tokens"], 1)
        self.assertEqual(requests[0]["finish_reason"], "length")
        self.assertGreater(requests[0]["prompt_tokens"], 0)
        self.assertGreater(requests[0]["first_token_milliseconds"], 0)
        self.assertEqual(requests[3]["status"], 400)
        self.assertIn("load_adapter", requests[4]["error"])
        warnings = [line for line in lines if "base_model_name_or_path" in line["message"]]
        self.assertEqual(len(warnings), 1, warnings)

    def test_levels(self):
        warning_adapters(self.dir, 3)
        for level, warnings, requests in (("debug", 3, True), ("warning", 1, False),
                                          ("error", 0, False)):
            with tempfile.TemporaryFile() as log:
                with Server("--adapter-dir", self.dir, "--log-level", level, stdout=log,
                            stderr=log) as server:
                    self.assert_serves(server, ["a0", "a1", "a2"])
                    self.assertEqual(server.stop(), 0)
                log.seek(0)
                text = log.read().decode()
            self.assertEqual(text.count("base_model_name_or_path"), warnings, text)
            self.assertEqual("POST /generate" in text, requests, text)

    def test_a_stream_that_times_out_is_no_plain_200(self):
        with LiveServer(LORAX, "--max-request-time", "0.2", "--threads", "1") as server:
            body = {"inputs": "a", "parameters": {"max_new_tokens": 1000, "ignore_eos_token": True}}
            status, events, _ = asyncio.run(call(server.port, "/generate_stream", body))
            self.assertEqual(status, 200)
            self.assertIn("error", json.loads(events[-1]))
            self.assertEqual(server.stop(), 0)
            line = next(line for line in server.output().splitlines() if "_stream" in line)
        self.assertIn(" warning 200 POST /generate_stream", line)
        self.assertRegex(line, r'streamed finish=timed_out error="timeout: ')
        self.assertRegex(line, r"generated=[1-9]")


class SignalsTest(Base):
    def start(self, *flags, command=()):
        server = Server(*flags, command=command, stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
        self.addCleanup(server.__exit__)
        return server

    def signalled_streams(self, server, signals, tokens=300, count=2):
        """What becomes of streams that run while the signals come."""
        body = {**STREAM, "parameters": {**STREAM["parameters"], "max_new_tokens": tokens}}

        async def run():
            streams = [asyncio.create_task(call(server.port, "/generate_stream", body))
                       for _ in range(count)]
            while server.metric("lorax_batch_current_size") < count:
                await asyncio.sleep(0.01)
            for number in signals:
                server.process.send_signal(number)
                await asyncio.sleep(0.05)
            return await asyncio.gather(*streams, return_exceptions=True)

        return asyncio.run(run())

    def test_stopping_twice_cuts_no_stream(self):
        for signals in ((signal.SIGTERM, signal.SIGTERM, signal.SIGTERM),
                        (signal.SIGHUP, signal.SIGTERM), (signal.SIGTERM, signal.SIGHUP),
                        (signal.SIGINT, signal.SIGTERM)):
            with self.subTest(signals):
                server = self.start()
                for status, events, _ in self.signalled_streams(server, signals):
                    self.assertEqual(status, 200)
                    self.assertIsNotNone(json.loads(events[-1])["generated_text"])
                self.assertEqual(server.process.wait(60), 0)

    def test_a_second_interrupt_ends_at_once(self):
        for first in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(first):
                server = self.start()
                results = self.signalled_streams(server, (first, signal.SIGINT), tokens=1000)
                self.assertEqual(server.process.wait(10), -signal.SIGINT)
                self.assertTrue(all(isinstance(result, Exception) for result in results))

    def test_nohup(self):
        server = self.start(command=("nohup",))
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        self.assertEqual(server.get("/health")[0], 200)
        self.assertEqual(server.stop(), 0)

    def test_drain_delay(self):
        server = self.start("--drain-delay", "1.5")
        self.assertEqual(server.get("/health")[0], 200)
        server.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 1
        while server.get("/health")[0] == 200 and time.monotonic() < end:
            time.sleep(0.01)
        status, _, body = server.get("/health")
        self.assertEqual((status, body["error_type"]), (503, "unavailable"))
        self.assertEqual(server.post("/generate", generate())[0], 200)
        self.assertEqual(server.get("/startup")[0], 200)
        self.assertEqual(server.process.wait(30), 0)

    def test_startup_generates_nothing(self):
        server = self.start()
        for _ in range(5):
            self.assertEqual(server.get("/startup")[0], 200)
        self.assertEqual(server.metric("lorax_generated_tokens"), 0)
        self.assertEqual(server.metric("lorax_request_count"), 0)
        self.assertEqual(server.stop(), 0)

if __name__ == "__main__":
    unittest.main()
