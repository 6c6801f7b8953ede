"""Adapters that do their worst, beside clients that must not notice. Python's standard library only.

hostile_test.py PROGRAM HANGING_FILES_LIBRARY [unittest arguments]
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from live_server import TINY, LiveServer

PROGRAM = None
HANGING_FILES = None

TEMPLATES = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}"
                "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "lists": "{% set ns = namespace(l=[1, 2, 3]) %}{% for i in range(60) %}"
             "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "recursion": "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "sorting": "{% for i in range(9999) %}{{ range(90000) | list | sort(reverse=true) | length }}"
               "{% endfor %}",
    "searching": "{% set a = 'a' * 200000 %}{% for i in range(9999) %}{{ (a + 'b') in a }}"
                 "{% endfor %}",
    "output": "{% for i in range(100000) %}{{ 'x' * 9999 }}{% endfor %}",
}


def chat(adapter):
    return {"model": adapter, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}


def generate(adapter=None, tokens=2):
    return {"inputs": "In the beginning",
            "parameters": {"max_new_tokens": tokens, "adapter_id": adapter}}


class HostileTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lorax-hostile-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        for name in ("caps", "pirate"):
            shutil.copytree(TINY / "adapters" / name, self.folder / name)
        self.pool = concurrent.futures.ThreadPoolExecutor(80)
        self.addCleanup(self.pool.shutdown)

    def serve(self, *flags, env=None):
        server = LiveServer(PROGRAM, "--adapter-dir", self.folder, "--threads", 1, *flags, env=env)
        self.addCleanup(server.__exit__)
        self.url = server.url
        self.server = server
        return server

    def ask(self, path, body=None, timeout=120):
        """Status, headers and body."""
        request = urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def memory(self, field="VmRSS"):
        """MiB"""
        for line in pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise AssertionError(field)

    def test_templates_that_never_end(self):
        for name, text in TEMPLATES.items():
            shutil.copytree(TINY / "adapters/caps", self.folder / name)
            (self.folder / name / "chat_template.jinja").write_text(text)
        self.serve()
        self.assertEqual(self.ask("/v1/chat/completions", chat("caps"))[0], 200)
        before = self.memory("VmHWM")
        waits = []
        done = threading.Event()

        def probe():
            while not done.is_set():
                begin = time.monotonic()
                self.assertEqual(self.ask("/health")[0], 200)
                waits.append(time.monotonic() - begin)
                time.sleep(0.01)

        probing = self.pool.submit(probe)
        attacks = [self.pool.submit(self.ask, "/v1/chat/completions", chat(name))
                   for _ in range(4) for name in TEMPLATES]
        others = []
        for _ in range(10):
            begin = time.monotonic()
            self.assertEqual(self.ask("/v1/chat/completions", chat("pirate"))[0], 200)
            others.append(time.monotonic() - begin)
        for attack in attacks:
            status, _, body = attack.result()
            self.assertEqual(status, 400, body)
            self.assertIn("template_error", json.loads(body)["error"]["code"])
        done.set()
        probing.result()
        # They computed for many seconds, on the thread that answers /health.
        self.assertLess(max(waits), 2)
        self.assertLess(sorted(others)[5], 2)
        self.assertLess(self.memory("VmHWM") - before, 48)

    def test_an_adapters_flood_leaves_places(self):
        self.serve("--max-concurrent-requests", 16)
        flood = [self.pool.submit(self.ask, "/generate", generate("caps", 800)) for _ in range(40)]
        refused = [f.result() for f in concurrent.futures.as_completed(flood[16:])
                   if f.result()[0] == 429]
        self.assertGreaterEqual(len(refused), 1)
        for _, headers, _ in refused:
            self.assertTrue(1 <= int(headers["Retry-After"]) <= 60, headers["Retry-After"])
        for _ in range(5):
            for adapter in (None, "pirate"):
                status, _, body = self.ask("/generate", generate(adapter))
                self.assertEqual(status, 200, body)
            for path in ("/health", "/metrics", "/v1/models"):
                self.assertEqual(self.ask(path)[0], 200, path)
        self.assertEqual({f.result()[0] for f in flood}, {200, 429})
        self.assertEqual(self.ask("/generate", generate("caps"))[0], 200)

    def test_an_adapters_own_limit(self):
        self.serve("--max-concurrent-requests-per-adapter", 2)
        flood = [self.pool.submit(self.ask, "/generate", generate("caps", 400)) for _ in range(6)]
        self.assertEqual(self.ask("/generate", generate("pirate"))[0], 200)
        statuses = [f.result()[0] for f in flood]
        self.assertGreaterEqual(statuses.count(200), 2)
        self.assertGreaterEqual(statuses.count(429), 1)

    def test_a_mount_that_hangs(self):
        for i in range(4):
            shutil.copytree(TINY / "adapters/caps", self.folder / f"hung/{i}")
        hangs = self.folder.parent / (self.folder.name + ".hangs")
        self.addCleanup(lambda: hangs.unlink(missing_ok=True))
        server = self.serve(env={"LD_PRELOAD": HANGING_FILES, "HUNG_WHILE": str(hangs)})
        hangs.touch()
        hung = [self.pool.submit(self.ask, "/generate", generate(f"hung/{i % 4}"))
                for i in range(24)]
        time.sleep(0.5)
        for adapter in (None, "caps", "pirate") * 4:
            status, _, body = self.ask("/generate", generate(adapter))
            self.assertEqual(status, 200, body)
            self.assertEqual(self.ask("/health")[0], 200)
        for request in hung:
            status, _, body = request.result()
            self.assertEqual(status, 504, body)
            self.assertIn("does not answer", json.loads(body)["error"])
        hangs.unlink()
        end = time.monotonic() + 60
        while self.ask("/generate", generate("hung/0"))[0] != 200:
            self.assertLess(time.monotonic(), end)
        hangs.touch()
        # Neither does it hold up the end.
        last = self.pool.submit(self.ask, "/generate", generate("hung/1"))
        time.sleep(0.3)
        self.assertEqual(server.stop(), 0)
        try:
            last.result()
        except (OSError, urllib.error.URLError):
            pass


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    HANGING_FILES = os.path.abspath(sys.argv.pop(1))
    unittest.main()
