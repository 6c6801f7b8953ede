"""A server that has too little memory: python3 memory_test.py path/to/lorax [unittest arguments]

Whatever is missing, it answers with an error, or ends with status 1 and a line that says what to
do; no signal ends it, and with memory it serves as before. Python's standard library only.
"""

import asyncio
import json
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from live_server import TINY, Gone, LiveServer, adapters_beside, call

PROGRAM = None
MIB = 1 << 20
STREAMS = 100
ERRORS = {429, 424, 500, 503, 504}
BODY = {"inputs": "In the beginning", "parameters": {"max_new_tokens": 24, "temperature": 0}}


def limit_memory(process, headroom):
    """What the process has, and so many bytes more; None: no limit."""
    soft = resource.RLIM_INFINITY
    if headroom is not None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        soft = int(re.search(r"VmSize:\s+(\d+) kB", status).group(1)) * 1024 + headroom
    resource.prlimit(process.pid, resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))


class MemoryTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lorax-memory-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.random = random.Random(1)

    def serve(self, adapters):
        self.names = adapters_beside(self.folder, adapters)
        server = LiveServer(PROGRAM, "--adapter-dir", self.folder, "--threads", 1,
                            "--max-batch-total-tokens", 16384, "--max-active-adapters", 4)
        self.addCleanup(server.__exit__)
        return server

    def request(self):
        """Of any kind: streamed or whole, short or long, of any adapter or none."""
        words = " ".join(self.random.choices(("and", "the", "LORD", "said"),
                                             k=self.random.choice((3, 30, 600))))
        body = {"inputs": words, "parameters": {"max_new_tokens": 16, "temperature": 0.7,
                                                "return_k_alternatives": 5, "stop": ["Selah"]}}
        if self.random.random() < 0.7:
            body["parameters"]["adapter_id"] = self.random.choice(self.names)
        return self.random.choice(("/generate", "/generate_stream")), body

    async def attack(self, server):
        """All at once. How many were served, refused, cut."""
        outcomes = {"served": 0, "refused": 0, "cut": 0}

        async def one(path, body):
            try:
                status, answer, _ = await asyncio.wait_for(call(server.port, path, body), 30)
            except asyncio.TimeoutError as error:
                raise AssertionError(f"no answer to {path}:\n{server.output()}") from error
            except (Gone, OSError, ValueError):
                outcomes["cut"] += 1
                return
            if status == 200 and path == "/generate_stream":
                last = json.loads(answer[-1]) if answer else {"error": "none"}
                outcomes["refused" if "error" in last else "served"] += 1
            else:
                self.assertTrue(status == 200 or status in ERRORS, (status, answer))
                outcomes["served" if status == 200 else "refused"] += 1

        await asyncio.gather(*(one(*self.request()) for _ in range(STREAMS)))
        return outcomes

    def assert_at_rest(self, server):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            busy = [server.metric(name) for name in
                    ("vllm:num_requests_running", "vllm:num_requests_waiting",
                     "lorax_kv_blocks_used")]
            if busy == [0, 0, 0]:
                return
            time.sleep(0.05)
        self.fail(f"running, waiting, pages in use: {busy}\n{server.output()}")

    def test_errors_while_it_is_short_and_service_afterwards(self):
        refused = 0
        server = None
        for headroom in (0, MIB // 4, 1 * MIB, 3 * MIB, 8 * MIB, 24 * MIB):
            if server is None:
                server = self.serve(40) if refused == 0 else self.serve(0)
                expected = server.post("/generate", BODY)[2]["generated_text"]
            limit_memory(server.process, headroom)
            outcomes = asyncio.run(self.attack(server))
            refused += outcomes["refused"] + outcomes["cut"]
            if server.process.poll() is None:
                limit_memory(server.process, None)
                status, _, answer = server.post("/generate", BODY)
                self.assertEqual(status, 200, (answer, server.output()))
                self.assertEqual(answer["generated_text"], expected)
                self.assert_at_rest(server)
            else:
                self.assertEqual(server.process.returncode, 1, server.output())
                self.assertIn("engine", server.output())
                server = None
        self.assertGreater(refused, 0, "memory was never short")
        if server is not None:
            self.assertEqual(server.stop(), 0, server.output())

    def test_it_ends_in_order_without_memory(self):
        server = self.serve(4)
        limit_memory(server.process, 0)
        self.assertEqual(server.stop(), 0, server.output())

    def start(self, address_space, stack=None, *flags):
        """Exit status and output; "serves" where it came up."""
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
            if stack is not None:
                resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.RLIM_INFINITY))

        process = subprocess.Popen(
            [PROGRAM, "serve", "--model-id", TINY, "--port", "0", "--threads", "2", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limit)
        lines = []
        with process.stdout:
            for line in process.stdout:
                lines.append(line)
                if "http://127.0.0.1" in line:
                    process.terminate()
        return process.wait(60), "".join(lines)

    def test_a_start_without_room_says_what_to_change(self):
        short = served = 0
        for mebibytes in (120, 160, 200, 240, 280, 320, 400, 500, 700, 1000, 1500, 4000):
            status, output = self.start(mebibytes * MIB)
            if status == 127 or "loading shared libraries" in output:
                continue  # it never came to be
            if status == 0:
                served += 1
                continue
            short += 1
            self.assertEqual(status, 1, f"{mebibytes} MiB: {output}")
            self.assertRegex(output, r"(?m)^lorax: .*(RLIMIT_AS|ulimit -v|memory is too short)",
                             f"{mebibytes} MiB: {output}")
        self.assertGreater(short, 0)
        self.assertGreater(served, 0)

    def test_a_start_without_threads_says_what_to_change(self):
        status, output = self.start(4096 * MIB, 3000 * MIB)
        self.assertEqual(status, 1, output)
        self.assertRegex(output, r"(?m)^lorax: cannot start a thread for .*ulimit", output)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
