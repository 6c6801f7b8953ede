#!/usr/bin/env python3
"""Writes tests/data/text/chat: templates, what they are given, and what Jinja makes of them.

    tools/make_chat_goldens.py [folder]

Needs the package `jinja2` 3.1.6; the environment is that of transformers'
utils/chat_template_utils.py, restated here.

    families.json   templates in the style of well-known model families (tools/chat_templates)
                    with conversations
    snippets.json   one small template per feature (chat_snippets.py)
    random.json     small templates made at random

A case has "result", or "raised" (the message that the template gave to raise_exception), or "error"
(Python's exception while rendering), or "syntax" (the same while parsing).
"""

import datetime
import json
import pathlib
import random
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

import chat_snippets

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime.datetime(2024, 7, 26, 9, 5, 3)
RANDOM_CASES = 1200


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_generation_support")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _generation_support(self, _context, caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    pass


class TemplateDict:
    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    def __setitem__(self, name, value):
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)
        super().__setitem__(name, value)


def make_environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    environment.globals["dict"] = TemplateDict()
    environment.globals["namespace"] = TemplateNamespace
    return environment


ENVIRONMENT = make_environment()


def outcome(template, variables):
    try:
        compiled = ENVIRONMENT.from_string(template)
    except (jinja2.exceptions.TemplateSyntaxError, SyntaxError) as error:
        return {"syntax": type(error).__name__}
    # A copy, so that no rendering can change what the next one gets.
    variables = json.loads(json.dumps(variables))
    try:
        result = compiled.render(**variables)
        # Where Python prints an object's address there is nothing to compare.
        return {"error": "address"} if " at 0x" in result.lower() else {"result": result}
    except Raised as error:
        return {"raised": error.message}
    except Exception as error:  # whatever Python raises is the golden
        return {"error": type(error).__name__}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def family_cases():
    config = json.loads((HERE.parent / "models/tiny-gemma2/tokenizer_config.json").read_text())
    templates = {path.stem: path.read_text(encoding="utf-8")
                 for path in sorted((HERE / "chat_templates").glob("*.jinja"))}
    templates["gemma2"] = config["chat_template"]
    cases = []
    for family in templates:
        for name, variables in chat_snippets.CONVERSATIONS.items():
            for prompt in (True, False):
                given = {"tools": None, "documents": None, **variables,
                         "add_generation_prompt": prompt, "bos_token": "<bos>",
                         "eos_token": "<eos>"}
                cases.append({"template": family, "conversation": name,
                              "add_generation_prompt": prompt,
                              **outcome(templates[family], given)})
    return {"templates": templates, "conversations": chat_snippets.CONVERSATIONS, "cases": cases}


def snippet_cases():
    cases = []
    for template in chat_snippets.SNIPPETS:
        cases.append({"template": template, **outcome(template, chat_snippets.VARIABLES)})
    return {"variables": chat_snippets.VARIABLES, "cases": cases}


class Generator:
    """Templates at random: expressions of a few types, so that most of them have a value."""

    def __init__(self, rng):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)

    def number(self, depth):
        if depth <= 0:
            return self.pick("0", "1", "2", "7", "-3", "i", "n", "2.5", "0.1", "1e3", "true")
        a, b = self.number(depth - 1), self.number(depth - 1)
        return self.pick(
            f"({a} {self.pick('+', '-', '*', '/', '//', '%')} {b})", f"-{a}", f"({a})|abs",
            f"({self.text(depth - 1)})|length", f"{self.items(depth - 1)}|length",
            f"({a})|int", f"({a})|float", f"({a})|round(1)", f"({self.text(depth - 1)})|int",
            f"({a} if {self.truth(depth - 1)} else {b})", f"({a}) ** 2",
            f"({self.text(depth - 1)}).find({self.text(depth - 1)})",
            f"{self.items(depth - 1)}|sum", f"({a} or {b})")

    def text(self, depth):
        if depth <= 0:
            return self.pick("'a'", "''", "' Ab c '", "'é☃😀'", "s", "t", "m.role", "m['content']",
                             "'x\\ny'", "'ǆ ß'", "\"it's\"", "m.missing")
        a, b = self.text(depth - 1), self.text(depth - 1)
        n = self.number(depth - 1)
        return self.pick(
            f"({a} ~ {b})", f"({a} + {b})", f"({a})|upper", f"({a})|lower", f"({a})|trim",
            f"({a})|title", f"({a})|capitalize", f"({a})|replace({b}, {self.text(0)})",
            f"({a})[{self.bound()}:{self.bound()}]", f"({a})[::-1]", f"({a})[{n}]",
            f"({a}).strip()", f"({a}).split()|join('|')", f"({a}).title()", f"({a}).upper()",
            f"({a} * 2)", f"({n})|string", f"{self.items(depth - 1)}|join({self.text(0)})",
            f"({a})|tojson", f"{self.items(depth - 1)}|tojson", f"({n})|tojson",
            f"({a} if {self.truth(depth - 1)} else {b})", f"({a})|default({b})",
            f"({a})|default({b}, true)", f"({a})|indent(2)", f"({a})|reverse",
            f"'%s-%s' % ({a}, {n})", f"({a}).split({self.text(0)})[0]",
            f"({a}).replace({self.text(0)}, {b})", f"({a} and {b})", f"'{{}}'.format({n})")

    def bound(self):
        return self.pick("", "", "0", "1", "-1", "-2", "5", "2")

    def items(self, depth):
        if depth <= 0:
            return self.pick("xs", "[1, 2, 3]", "[]", "range(4)", "m.keys()|list", "ys",
                             "['b', 'A', 'c']", "(1, 'x')", "d.values()|list")
        a = self.items(depth - 1)
        return self.pick(
            f"({a})|list", f"({a})|reverse|list", f"({a})|map('string')|list",
            f"({a})|select|list", f"({a})|unique|list", f"({a})|sort",
            f"({a})[{self.bound()}:{self.bound()}:{self.pick('', '2', '-1', '-2')}]",
            f"({a} + {self.items(depth - 1)})", f"({self.text(depth - 1)})|list",
            f"[{self.number(depth - 1)}, {self.text(depth - 1)}]",
            f"({a})|reject('equalto', {self.number(depth - 1)})|list",
            f"({a})|select('{self.pick('string', 'number', 'defined', 'none', 'in', 'odd')}')|list",
            f"({a})|batch(2)|list", f"d|dictsort|map('first')|list",
            f"({a} * 2)", f"({self.text(depth - 1)}).split({self.pick('', '', repr(' '))})",
            f"messages|map(attribute='role')|list",
            f"messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list")

    def truth(self, depth):
        if depth <= 0:
            return self.pick("true", "false", "m.tools is defined", "u is undefined", "i > 1",
                             "s is string", "none", "xs", "loop is defined")
        return self.pick(
            f"({self.truth(depth - 1)} {self.pick('and', 'or')} {self.truth(depth - 1)})",
            f"not {self.truth(depth - 1)}",
            f"{self.text(depth - 1)} in {self.pick(self.items(depth - 1), self.text(depth - 1))}",
            f"({self.number(depth - 1)} {self.pick('<', '<=', '==', '!=', '>', '>=')}"
            f" {self.number(depth - 1)})",
            f"({self.text(depth - 1)} {self.pick('==', '!=', '<')} {self.text(depth - 1)})",
            f"{self.items(depth - 1)} is {self.pick('iterable', 'sequence', 'mapping', 'string')}",
            f"({self.number(depth - 1)}) is {self.pick('odd', 'even', 'number', 'integer', 'float')}",
            f"({self.items(depth - 1)} == {self.items(depth - 1)})",
            f"0 {self.pick('<', '==')} {self.number(depth - 1)} {self.pick('<', '!=')} 9")

    def value(self, depth):
        return self.pick(self.number, self.text, self.text, self.items, self.truth)(depth)

    def space(self):
        return self.pick("", "", "", " ", "\n", "\n  ", "  \n", "\t")

    def tag(self, inside):
        left, right = self.pick("", "", "-", "+"), self.pick("", "", "-", "+")
        return f"{{%{left} {inside} {right}%}}"

    def block(self, depth):
        parts = []
        for _ in range(self.rng.randrange(1, 4)):
            kind = self.rng.randrange(9) if depth > 0 else 0
            if kind <= 2:
                left, right = self.pick("", "-"), self.pick("", "-")
                parts.append(f"{{{{{left} {self.value(2)} {right}}}}}")
            elif kind == 3:
                parts += [self.tag(f"if {self.truth(1)}"), self.block(depth - 1),
                          self.tag("else"), self.block(depth - 1), self.tag("endif")]
            elif kind == 4:
                over = self.pick("xs", "range(3)", self.items(1))
                parts += [self.tag(f"for i in {over}"), self.pick("{{ loop.index }}", "", "{{ i }}"),
                          self.block(depth - 1),
                          self.pick("", self.tag("if loop.last") + "." + self.tag("endif")),
                          self.tag("endfor")]
            elif kind == 5:
                parts.append(self.tag(f"set {self.pick('n', 's', 't', 'ns.x')} = {self.value(1)}"))
            elif kind == 6:
                parts += [self.tag("for m in messages"), self.block(depth - 1),
                          self.tag("endfor")]
            elif kind == 7:
                parts += [self.tag("set t"), self.block(depth - 1), self.tag("endset")]
            else:
                parts.append(f"{{#{self.pick('', '-', '+')} note {self.pick('', '-')}#}}")
            parts.append(self.space() + self.pick("", "x", "text ") + self.space())
        return "".join(parts)

    def template(self):
        return "{% set ns = namespace(x=0) %}" + self.block(2) + "{{ ns.x }}"


def random_cases():
    generator = Generator(random.Random(1))
    cases = []
    while len(cases) < RANDOM_CASES:
        template = generator.template()
        case = {"template": template, **outcome(template, chat_snippets.VARIABLES)}
        if len(case.get("result", "")) < 2000:
            cases.append(case)
    return {"variables": chat_snippets.VARIABLES, "cases": cases}


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "tests/data/text/chat"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "families.json", family_cases())
    write_json(folder / "snippets.json", snippet_cases())
    write_json(folder / "random.json", random_cases())


if __name__ == "__main__":
    main()
