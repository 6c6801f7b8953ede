"""Many clients at once, polite and not: python3 load_test.py path/to/lorax [--seconds N] [names]

--seconds: how long the mixed load of test_soak lasts.
"""

import asyncio
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time
import unittest

from live_server import Gone, LiveServer, ROOT, adapters_beside, call

SOAK_SECONDS = 60.0
LORAX = ROOT / "build/release/lorax"
PROMPTS = ["And it came to pass", "In the beginning", "<start_of_turn>user\nRecite John 3:16."
           "<end_of_turn>\n<start_of_turn>model\n", "Blessed are", "The LORD said unto Moses,",
           "And he said unto them,", "Now when", "Behold"]


def generate_body(prompt, adapter=None, tokens=24, **parameters):
    body = {"inputs": prompt, "parameters": {"max_new_tokens": tokens, **parameters}}
    if adapter:
        body["parameters"]["adapter_id"] = adapter
    return body


def text_of(events):
    last = json.loads(events[-1])
    if last.get("generated_text") is None:
        raise AssertionError(f"the stream ended with {events[-1]}")
    return last["generated_text"]


class LoadTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name)

    def serve(self, *flags, adapters=4):
        names = adapters_beside(self.dir, adapters)
        server = LiveServer(LORAX, "--adapter-dir", self.dir, "--dtype", "float32", *flags)
        self.addCleanup(server.__exit__)
        return server, names

    def assert_idle(self, server):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            busy = [server.metric(name) for name in
                    ("vllm:num_requests_running", "vllm:num_requests_waiting",
                     "lorax_kv_blocks_used")]
            if busy == [0, 0, 0]:
                return
            time.sleep(0.05)
        self.fail(f"running, waiting, pages in use: {busy}")

    def test_a_thousand_streams_over_twenty_adapters_give_what_each_gives_alone(self):
        server, names = self.serve("--max-concurrent-requests", 1200, adapters=20)
        choices = [(prompt, adapter) for prompt in PROMPTS for adapter in [None, *names]]
        alone = {}
        for prompt, adapter in choices:
            status, _, answer = server.post("/generate", generate_body(prompt, adapter))
            self.assertEqual(status, 200, answer)
            alone[prompt, adapter] = answer["generated_text"]
        self.assertGreater(len(set(alone.values())), len(choices) // 2)
        before = server.resident_bytes()
        wanted = [random.Random(1).choice(choices) for _ in range(1000)]

        async def all_at_once():
            return await asyncio.gather(*(call(server.port, "/generate_stream",
                                               generate_body(*choice)) for choice in wanted))

        for choice, (status, events, _) in zip(wanted, asyncio.run(all_at_once())):
            self.assertEqual(status, 200, events)
            self.assertEqual(text_of(events), alone[choice], choice)
        self.assert_idle(server)
        self.assertLess(server.resident_bytes() - before, 256 << 20)
        self.assertEqual(server.stop(), 0)

    def test_a_flood_on_one_adapter_does_not_starve_another(self):
        server, names = self.serve()

        async def first_token(adapter):
            status, _, seconds = await call(server.port, "/generate_stream",
                                            generate_body("In the beginning", adapter, tokens=4))
            self.assertEqual(status, 200)
            return seconds

        async def lone_request(adapter):
            # At a random moment of a step: else each would come when the last one's step ends, and
            # wait for all of the next.
            await asyncio.sleep(rng.uniform(0, 0.02))
            return await first_token(adapter)

        rng = random.Random(1)

        async def measure():
            await first_token(names[1])
            idle = [await lone_request(names[1]) for _ in range(25)]
            flood = [asyncio.create_task(call(
                server.port, "/generate",
                generate_body("Now when", names[0], tokens=64, ignore_eos_token=True)))
                for _ in range(500)]
            await asyncio.sleep(0.3)
            busy = [await lone_request(names[1]) for _ in range(25)]
            waiting = sum(not task.done() for task in flood)
            self.assertGreater(waiting, 100, "the flood was over too soon to tell")
            statuses = [(await task)[0] for task in flood]
            self.assertEqual(set(statuses), {200})
            return statistics.median(idle), statistics.median(busy)

        idle, busy = asyncio.run(measure())
        print(f"first token of another adapter: {idle * 1e3:.1f} ms idle, {busy * 1e3:.1f} ms "
              f"beside 500 requests, ratio {busy / idle:.2f}")
        # docs/benchmarks.md: the aim is 3. Clients, and whatever else runs, share the cores.
        self.assertLess(busy, 6 * idle)
        self.assert_idle(server)
        self.assertEqual(server.stop(), 0)

    def test_soak(self):
        server, names = self.serve("--max-concurrent-requests", 64, "--max-batch-total-tokens",
                                   3072, "--max-active-adapters", 3)
        (self.dir / "broken").mkdir()
        (self.dir / "broken/adapter_config.json").write_text("{}")
        client = MixedClient(server, names)
        asyncio.run(client.run(SOAK_SECONDS))
        print(f"soak: {SOAK_SECONDS:.0f} s, {dict(sorted(client.outcomes.items()))}; memory "
              f"{[round(bytes / 2**20) for bytes in client.memory]} MiB")
        self.assertEqual(client.surprises, [])
        for outcome in ("whole", "stream", "left", "chat", "refused", "overloaded"):
            self.assertGreater(client.outcomes.get(outcome, 0), 0, outcome)
        self.assert_idle(server)
        self.assertEqual(server.get("/health")[0], 200)
        # Flat: the second half holds no more than the first, but for noise and for KV pages (21 MB)
        # that are touched for the first time.
        half = len(client.memory) // 2
        self.assertLess(max(client.memory[half:]), max(client.memory[:half]) + (40 << 20))
        self.assertLess(server.open_files(), 100)
        self.assertEqual(server.stop(), 0)


class MixedClient:
    """Clients of all manners for some time."""

    CLIENTS = 24

    def __init__(self, server, adapters):
        self.server = server
        self.adapters = adapters
        self.outcomes = {}
        self.surprises = []
        self.memory = []

    def note(self, outcome, status=200):
        outcome = "overloaded" if status == 429 else outcome
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def check(self, condition, what):
        if not condition and len(self.surprises) < 20:
            self.surprises.append(what)

    async def run(self, seconds):
        end = time.monotonic() + seconds
        clients = [self.one_client(random.Random(i), end) for i in range(self.CLIENTS)]
        await asyncio.gather(self.watch(end), self.bursts(end), *clients)

    async def watch(self, end):
        await asyncio.sleep(min(5.0, max(0.0, end - time.monotonic()) / 4))
        while time.monotonic() < end:
            self.memory.append(self.server.resident_bytes())
            await asyncio.sleep(1)

    async def bursts(self, end):
        """More at once than the server takes, half of the time at most, however slow it is."""
        took = 0.0
        while time.monotonic() < end:
            await asyncio.sleep(max(3.0, took))
            start = time.monotonic()
            results = await asyncio.gather(*(
                call(self.server.port, "/generate", generate_body("Behold", tokens=40))
                for _ in range(80)))
            for status, answer, _ in results:
                self.check(status in (200, 429), f"burst: {status} {answer}")
                self.note("whole", status)
            took = time.monotonic() - start

    async def one_client(self, rng, end):
        while time.monotonic() < end:
            kind = rng.choice([self.whole, self.stream, self.stream, self.leave, self.chat,
                               self.refused, self.slow, self.garbage])
            try:
                if await kind(rng) == 429:
                    await asyncio.sleep(rng.uniform(0.2, 1.0))
            except Gone as error:
                self.check(False, f"{kind.__name__}: connection lost: {error}")

    def body(self, rng):
        prompt = rng.choice(PROMPTS) * rng.choice([1, 1, 1, 8])
        parameters = {"tokens": rng.randint(1, 60)}
        if rng.random() < 0.5:
            parameters.update(temperature=rng.uniform(0.2, 1.5), seed=rng.randint(0, 1 << 40))
        if rng.random() < 0.3:
            parameters.update(top_p=0.9, repetition_penalty=1.2)
        if rng.random() < 0.2:
            parameters.update(stop=["the"], details=True, decoder_input_details=False)
        return generate_body(prompt, rng.choice([None, *self.adapters]), **parameters)

    async def whole(self, rng):
        status, answer, _ = await call(self.server.port, "/generate", self.body(rng))
        self.check(status in (200, 429), f"whole: {status} {answer}")
        self.note("whole", status)
        return status

    async def stream(self, rng):
        status, events, _ = await call(self.server.port, "/generate_stream", self.body(rng))
        self.check(status in (200, 429), f"stream: {status} {events}")
        if status == 200:
            self.check(json.loads(events[-1]).get("generated_text") is not None,
                       f"stream ended with {events[-1]}")
        self.note("stream", status)
        return status

    async def slow(self, rng):
        status, _, _ = await call(self.server.port, "/generate_stream", self.body(rng), pause=0.02)
        self.note("slow", status)
        return status

    async def leave(self, rng):
        status, _, _ = await call(self.server.port, "/generate_stream", self.body(rng),
                                  leave_after=rng.randint(1, 5))
        self.note("left", status)
        return status

    async def chat(self, rng):
        body = {"model": rng.choice(["", *self.adapters]), "stream": True, "max_tokens": 20,
                "messages": [{"role": "user", "content": rng.choice(PROMPTS)}]}
        status, events, _ = await call(self.server.port, "/v1/chat/completions", body)
        self.check(status in (200, 429), f"chat: {status} {events}")
        if status == 200:
            self.check(events[-1] == "[DONE]", f"chat ended with {events[-1]}")
        self.note("chat", status)
        return status

    async def refused(self, rng):
        body = generate_body("x", rng.choice(["broken", "no-such", "../../etc", "a\u0000b"]))
        status, answer, _ = await call(self.server.port, "/generate", body)
        self.check(400 <= status < 500 and answer.get("error"), f"refused: {status} {answer}")
        self.note("refused")
        return status

    async def garbage(self, rng):
        body = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        path = rng.choice(["/generate", "/v1/completions", "/v1/chat/completions", "/tokenize",
                           "/nothing"])
        status, answer, _ = await call(self.server.port, path, body)
        self.check(400 <= status < 500 and answer.get("error"), f"garbage: {status} {answer}")
        self.note("garbage")
        return status


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-"):
        LORAX = pathlib.Path(arguments.pop(0)).resolve()
    if "--seconds" in arguments:
        at = arguments.index("--seconds")
        SOAK_SECONDS = float(arguments[at + 1])
        del arguments[at:at + 2]
    unittest.main(argv=[sys.argv[0], *arguments], verbosity=2)
