"""The records of bench/results: what they must be, and how they are read and written (bench/README.md)."""

import datetime
import json
import re

TOPICS = {"cpu": "CPU", "adapters": "Adapters on a CPU", "tokens": "Tokenizer and choice of tokens",
          "server": "Server on a CPU", "gpu-decode": "GPU: decode", "gpu-prefill": "GPU: prefill",
          "gpu-server": "GPU: server", "gpu-exact": "GPU: exactness"}
LESS_IS_BETTER = ["ms", "us", "s", "kcycles", "relative error", "of Hugging Face's error", "reports", "MiB",
                  "GB", "MB", "of the weights' bytes"]
MORE_IS_BETTER = ["tokens/s", "GB/s", "TB/s", "TFLOP/s", "of the read bandwidth", "of C", "streams", "tokens",
                  "adapters"]


class Wrong(Exception):
    pass


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def is_text(value):
    return isinstance(value, str) and value.strip() == value != ""


def is_figure(value):
    return is_number(value) or isinstance(value, list) and len(value) > 0 and all(map(is_number, value))


def is_date(value):
    try:
        return datetime.date.fromisoformat(value).isoformat() == value
    except (TypeError, ValueError):
        return False


def matches(pattern):
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


TEXT = (is_text, "a text")
FIGURE = (is_figure, "a number of at least 0, or a list of them")
ID = (matches(r"[a-z0-9]+([./-][a-z0-9]+)*"), "lower-case words and digits joined by . / or -")
TEXTS = (lambda value: isinstance(value, list) and all(map(is_text, value)), "a list of texts")
OBJECT = (lambda value: isinstance(value, dict), "an object")
# Of each field its test and what it must be; "?" ends the names of those that may be absent.
RECORD = {"id": ID, "date": (is_date, "a date such as 2026-11-29"),
          "commit": (matches("[0-9a-f]{7,40}"), "7 to 40 hexadecimal digits"),
          "machine": TEXT, "command": TEXT, "case": TEXT, "at?": TEXT, "figure": FIGURE,
          "unit": (lambda value: value in LESS_IS_BETTER + MORE_IS_BETTER,
                   "one of " + ", ".join(LESS_IS_BETTER + MORE_IS_BETTER)),
          "peers?": (lambda value: isinstance(value, list), "a list"), "limit?": OBJECT, "target?": OBJECT,
          "base?": OBJECT, "note?": TEXT, "superseded?": TEXT}
PEER = {"name": TEXT, "version": TEXT, "figure": FIGURE, "command?": TEXT}
LIMIT = {"name": TEXT, "figure?": FIGURE, "share?": FIGURE}
BASE = {"name": TEXT, "figure?": FIGURE, "id?": ID}
TARGET = {"of": (lambda value: value in ("figure", "limit", "base", "peer"), "figure, limit, base or peer"),
          "at_most?": (is_number, "a number"), "at_least?": (is_number, "a number")}
SET = {"topic": (lambda value: value in TOPICS, "one of " + ", ".join(TOPICS)), "title": TEXT,
       "note?": TEXTS, "findings?": TEXTS, "defaults?": OBJECT,
       "records": (lambda value: isinstance(value, list), "a list")}


def check_fields(where, value, fields, one_of=()):
    if not isinstance(value, dict):
        raise Wrong(f"{where}: must be an object")
    names = {name.rstrip("?") for name in fields}
    for name in value:
        if name not in names:
            raise Wrong(f"{where}: {name}: unknown field; known: {', '.join(sorted(names))}")
    for field, (test, what) in fields.items():
        name = field.rstrip("?")
        if name not in value:
            if field == name:
                raise Wrong(f"{where}: {name}: missing")
        elif not test(value[name]):
            raise Wrong(f"{where}: {name}: must be {what}, not {json.dumps(value[name])[:80]}")
    if one_of and sum(name in value for name in one_of) != 1:
        raise Wrong(f"{where}: must have one of {', '.join(one_of)}")


def check_record(where, record, machines):
    check_fields(where, record, RECORD)
    if record["machine"] not in machines:
        raise Wrong(f"{where}: machine: {record['machine']} is not in bench/machines.json")
    for i, peer in enumerate(record.get("peers", [])):
        check_fields(f"{where}: peers[{i}]", peer, PEER)
    if "limit" in record:
        check_fields(f"{where}: limit", record["limit"], LIMIT, ("figure", "share"))
    if "base" in record:
        check_fields(f"{where}: base", record["base"], BASE, ("figure", "id"))
    if "target" in record:
        target = record["target"]
        check_fields(f"{where}: target", target, TARGET, ("at_most", "at_least"))
        if target["of"] != "figure" and not record.get(target["of"] + "s" * (target["of"] == "peer")):
            raise Wrong(f"{where}: target: of: the record has no {target['of']}")


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Wrong(f"{path.name}: {error}") from error


def load(bench):
    """The machines and the sets, by file name; their records have the set's defaults."""
    machines, sets, records = read_json(bench / "machines.json"), {}, {}
    for path in sorted((bench / "results").glob("*.json")):
        data = read_json(path)
        check_fields(path.name, data, SET)
        data["records"] = [{**data.get("defaults", {}), **record} if isinstance(record, dict) else record
                           for record in data["records"]]
        for number, record in enumerate(data["records"], 1):
            named = record.get("id", number) if isinstance(record, dict) else number
            check_record(f"{path.name}: record {named}", record, machines)
            if record["id"] in records:
                raise Wrong(f"{path.name}: record {named}: id: there is another one")
            records[record["id"]] = record
        sets[path.name] = data
    for name, data in sets.items():
        for record in data["records"]:
            other = record.get("base", {}).get("id")
            if other is not None and (other not in records or records[other]["unit"] != record["unit"]):
                raise Wrong(f"{name}: record {record['id']}: base: id: no record {other} of that unit")
            if other is not None:
                record["base"]["figure"] = records[other]["figure"]
    return machines, sets


def written(data):
    """A set as text: a record is one line."""
    heads = [f"  {json.dumps(name)}: {json.dumps(data[name], ensure_ascii=False)}"
             for name in ("topic", "title") if name in data]
    for name in ("note", "findings", "records"):
        if name in data:
            lines = ",\n".join("    " + json.dumps(item, ensure_ascii=False) for item in data[name])
            heads.append(f"  {json.dumps(name)}: [\n{lines}\n  ]")
    if "defaults" in data:
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
                           for name, value in data["defaults"].items())
        heads.insert(len(heads) - 1, f"  \"defaults\": {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(heads) + "\n}\n"
