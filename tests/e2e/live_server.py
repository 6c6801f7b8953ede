"""A `lorax serve` process on loopback, and a small HTTP client that can misbehave."""

import asyncio
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "models/tiny-gemma2"
SHIPPED = ("caps", "modern", "pirate", "verse-numbers")


def adapters_beside(folder, count):
    """The shipped adapters and variants of them with another lora_alpha; returns their names."""
    names = []
    for i in range(count):
        shipped = SHIPPED[i % len(SHIPPED)]
        name = shipped if i < len(SHIPPED) else f"{shipped}-{i // len(SHIPPED)}"
        shutil.copytree(TINY / "adapters" / shipped, folder / name)
        if name != shipped:
            file = folder / name / "adapter_config.json"
            config = json.loads(file.read_text())
            config["lora_alpha"] *= 1 + 0.1 * (i // len(SHIPPED))
            file.write_text(json.dumps(config))
        names.append(name)
    return names


class LiveServer:
    """with LiveServer(program, "--port", "0", ...) as server: server.url"""

    def __init__(self, program, *flags, model=TINY, env=None):
        self.log = tempfile.NamedTemporaryFile(prefix="lorax-serve-", suffix=".log")
        self.process = subprocess.Popen(
            [program, "serve", "--model-id", model, "--port", "0", *map(str, flags)],
            stdout=self.log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        self.port = self._wait_for_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _wait_for_port(self):
        end = time.monotonic() + 120
        while time.monotonic() < end:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.output())
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no server:\n{self.output()}")

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def stop(self, seconds=60):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end the server:\n{self.output()}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body): a JSON body is parsed."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method,
            headers={"Content-Type": "application/json", **(headers or {})})
        try:
            response = urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            content = response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
            return response.status, response.headers, json.loads(content) if is_json and content else content

    def metric(self, series):
        """The value of a line of /metrics; None without one."""
        text = self.get("/metrics")[2].decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.M)
        return float(found.group(1)) if found else None


class Gone(Exception):
    """The server closed the connection before the response was complete."""


async def call(port, path, body, *, leave_after=None, pause=0.0):
    """One POST on a connection of its own. Returns (status, events or JSON, seconds to the first
    byte of the body). leave_after: closes the connection after so many events; pause: waits so long
    before each read."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    start = time.monotonic()
    try:
        writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                     .encode() + data)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        chunked = b"transfer-encoding: chunked" in head.lower()
        if not chunked:
            content = await reader.read()
            return status, json.loads(content) if content else None, time.monotonic() - start
        events, first, pending = [], None, b""
        while True:
            if pause:
                await asyncio.sleep(pause)
            size = int(await reader.readuntil(b"\r\n"), 16)
            pending += await reader.readexactly(size)
            await reader.readexactly(2)
            if size == 0:
                return status, events, first
            first = first or time.monotonic() - start
            *whole, pending = pending.split(b"\n\n")
            for event in whole:
                if event.startswith(b"data:"):
                    events.append(event[5:].strip().decode())
            if leave_after is not None and len(events) >= leave_after:
                return status, events, first
    except (asyncio.IncompleteReadError, ConnectionResetError) as error:
        raise Gone(str(error)) from error
    finally:
        writer.close()
