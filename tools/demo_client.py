#!/usr/bin/env python3
"""The streams of tools/demo: one request per adapter, all at once, then the metrics that matter.

    tools/demo_client.py URL ADAPTER_DIR
"""

import json
import pathlib
import re
import sys
import threading
import time
import urllib.request

PROMPT = "And he said unto them,"
METRICS = ("lorax_request_success", "lorax_generated_tokens", "lorax_steps",
           "lorax_adapter_loads{tier=\"host\"}", "lorax_prefix_cache_hit_tokens",
           "lorax_request_time_to_first_token_duration_sum")


def stream(url, name, screen):
    parameters = {"max_new_tokens": 48}
    if name != "base model":
        parameters["adapter_id"] = name
    request = urllib.request.Request(
        url + "/generate_stream", json.dumps({"inputs": PROMPT, "parameters": parameters}).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        for line in response:
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line[5:])
            if "error" in event:
                screen.add(name, f" [{event['error']}]")
            elif not event["token"]["special"]:
                screen.add(name, event["token"]["text"])


class Screen:
    """One line per stream, redrawn as it grows where the output is a terminal."""

    WIDTH = 100

    def __init__(self, names):
        self.texts = dict.fromkeys(names, "")
        self.lock = threading.Lock()
        self.live = sys.stdout.isatty()
        if self.live:
            print("\n" * len(names), end="")

    def add(self, name, text):
        with self.lock:
            self.texts[name] += text.replace("\n", " ")
            if self.live:
                self.draw(f"\033[{len(self.texts)}A")

    def draw(self, up=""):
        lines = [f"\033[K[{name}]{text[-self.WIDTH:]}" if self.live else f"[{name}]{text}"
                 for name, text in self.texts.items()]
        print(up + "\n".join(lines), flush=True)


def main():
    url, adapters = sys.argv[1], pathlib.Path(sys.argv[2])
    names = ["base model", *sorted(path.name for path in adapters.iterdir())]
    print(f"POST {url}/generate_stream for {len(names)} models at once: \"{PROMPT}\"")
    screen = Screen(names)
    start = time.monotonic()
    threads = [threading.Thread(target=stream, args=(url, name, screen)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not screen.live:
        screen.draw()
    print(f"{time.monotonic() - start:.2f} s for all of them")

    chat = {"model": "pirate", "max_tokens": 40, "temperature": 0,
            "messages": [{"role": "user", "content": "Recite John 3:16."}]}
    print(f"\nPOST {url}/v1/chat/completions: {json.dumps(chat)}")
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(chat).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        print(json.load(response)["choices"][0]["message"]["content"])

    print(f"\nGET {url}/metrics")
    text = urllib.request.urlopen(url + "/metrics").read().decode()
    for name in METRICS:
        print("  " + re.search(rf"^{re.escape(name)} \S+$", text, re.M).group())


if __name__ == "__main__":
    main()
