"""Config files and pass rules that would run code, or take all time or memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.probing.probe import Probe, explained
from toolkit.errors import ToolkitError
from toolkit.evaluation.rule_process import find_rule_violations, parse_checked_rules
from toolkit.settings.import_export import export_settings, import_settings

MB = 1_000_000
TAGS = (
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:toolkit.config.Config {{}}",
    "!!python/tuple [1]",
    "!!binary aGk=",
    "!!set {{a, b}}",
    "!!omap [a: 1]",
    "!!pairs [a: 1]",
    "!!timestamp 2020-01-01",
    "!!str x",
    "!!int '1'",
    "!!null x",
    "!!float .nan",
    "!!map {{}}",
    "!<tag:yaml.org,2002:python/name:os.system> x",
    "!x y",
    "! y",
    "!!js/function x",
    "!ruby/object:Gem x",
    "!!python/object/apply:subprocess.Popen [[touch, {mark}]]",
)
PLACES = ("{}", "save_dir: {}", "model: {}", "lora: {{r: {}}}", "data: {{path: {}}}", "x: [1, {}]", "{}: x")
VALUES = (
    ".nan",
    ".inf",
    "-.inf",
    "1e999",
    "0x7fffffffffffffffffff",
    "0o777",
    "0b11",
    "1_000",
    "190:20:30",
    "1" + ":10" * 90_000,
    "1" + ":1" * 190 + ".5",
    "0x" + "f" * 90_000,
    "0b" + "1" * 90_000,
    "2020-01-01 00:00:00." + "9" * 90_000,
    "2020-01-01",
    "2020-13-45",
    "12:30:45.5",
    "yes",
    "on",
    "~",
    "null",
    "''",
    "{}",
    "[]",
    "[[]]",
    "[[[[1]]]]",
    "{a: {b: {c: {d: 1}}}}",
    "9" * 4000,
    "9" * 5000,
    "-" + "9" * 5000,
    "1e" + "9" * 400,
    "x" * 100_000,
    "'\\0'",
    '"\\0"',
    '"\\ud800"',
    '"\\U00110000"',
    '"\\x1b[2J"',
    "'https://evil.example'",
    "../../etc/passwd",
    "/dev/zero",
    "-1",
    "1.5",
    "=1+1",
)
FIELDS = (
    "save_dir",
    "model.hf_model_ckpt",
    "model.bnb",
    "lora.r",
    "lora.target_modules",
    "training.learning_rate",
    "data.path",
    "data.train_size",
    "data.prompt",
    "inference.max_new_tokens",
    "nobody",
    "model",
    "lora",
    "data",
    "training",
    "inference",
    "__class__",
    "<<",
)


def yaml_texts(mark: Path) -> Iterator[tuple[str, str]]:
    for tag in TAGS:
        for place in PLACES:
            yield f"{tag[:40]} in {place}", place.format(tag.format(mark=mark))
    for value in VALUES:
        for field in FIELDS:
            yield f"{field}: {value[:30]}", _nest(field, value)
    for depth in (21, 100, 1000, 10_000, 100_000):
        for opening, closing in (("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", ""), ("[{a: ", "}]")):
            yield f"{opening!r} {depth} deep", "x: " * (opening[0] in "[{") + opening * depth + "1" + closing * depth
            yield f"{opening!r} {depth} deep, unclosed", opening * depth
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
    )
    yield from {
        "bomb of aliases": bomb,
        "own alias": "a: &a [*a]",
        "alias as key": "a: &a x\n*a : y",
        "merge": "<<: {save_dir: x}\n",
        "merge twice": "<<: {save_dir: x}\n<<: {save_dir: y}\n",
        "merge list": "<<: [{save_dir: x}, {save_dir: y}]\n",
        "merge and own": "save_dir: a\n<<: {save_dir: x}\n",
        "merge inside": "model: {<<: {hf_model_ckpt: x}}\n",
        "merge bomb": "<<: " * 18 + "{save_dir: x}\n",
        "duplicate": "save_dir: a\nsave_dir: b\n",
        "duplicate inside": "lora: {r: 1, r: 2}\n",
        "duplicate quoted": "'save_dir': a\nsave_dir: b\n",
        "1 MB flow list": "x: [" + "a," * (MB // 2 - 10) + "a]",
        "1 MB list": "x:\n" + "- a\n" * (MB // 4 - 10),
        "1 MB keys": "".join(f"k{n}: {n}\n" for n in range(70_000)),
        "1 MB flow map": "x: {" + ",".join(f"k{n}: 1" for n in range(80_000)) + "}",
        "1 MB text": "x: " + "a" * (MB - 10),
        "1 MB block": "x: |\n" + "  a\n" * (MB // 4 - 10),
        "1 MB comments": "#\n" * (MB // 2),
        "1 MB brackets": "[" * (MB - 10),
        "1 MB braces": "{" * (MB - 10),
        "1 MB quotes": "'" * (MB - 10),
        "1 MB double quotes": '"' * (MB - 10),
        "1 MB escapes": 'x: "' + "\\x41" * (MB // 4 - 10) + '"',
        "1 MB dashes": "-\n" * (MB // 2 - 10),
        "1 MB colons": ":" * (MB - 10),
        "1 MB spaces": " " * (MB - 10) + "x: 1",
        "1 MB tabs": "\t" * (MB - 10),
        "1 MB question marks": "? " * (MB // 2 - 10),
        "1 MB anchors": "".join(f"&a{n} x\n" for n in range(90_000)),
        "1 MB documents": "---\n" * (MB // 4 - 10),
        "1 MB percent": "%" * (MB - 10),
        "1 MB newlines": "\n" * (MB - 10),
        "over 1 MB": "x" * (MB + 1),
        "one quote": "x: '" + "a " * (MB // 2 - 10),
        "folded": "x: >\n" + "  a b\n" * (MB // 6 - 10),
        "two documents": "save_dir: a\n---\nsave_dir: b\n",
        "directive": "%YAML 9.9\n---\nsave_dir: a\n",
        "tag directive": "%TAG ! tag:x,2000:\n---\nx: !a b\n",
        "NUL": "a: \0",
        "BOM inside": "a: \ufeffb",
        "C1": "a: \x85b",
        "escape": "a: \x1b[2J",
        "lone surrogate": "a: \ud800",
        "newer schema": "# finetuning-toolkit config, schema 999999999\n",
        "complex key": "? [a, b]\n: x",
        "map key": "{a: b}: x",
        "list": "[1]",
        "text": "x",
        "number": "1",
        "nothing": "",
        "grid of 40,000": "lora: {r: [" + ",".join(map(str, range(1, 40_001))) + "]}",
        "grid of 19,000": "lora: {r: [" + ",".join(map(str, range(1, 19_001))) + "]}",
        "grid of 10^12": "lora: {r: [1,2,3,4,5,6,7,8,9,10], lora_alpha: [1,2,3,4,5,6,7,8,9,10], lora_dropout: ["
        + ",".join(f"0.{n:02}" for n in range(1, 99))
        + "]}\ntraining: {seed: ["
        + ",".join(map(str, range(1000)))
        + "]}",
        "grid of odd lists": "lora: {target_modules: [[a, [b]], 1, {c: d}]}",
        "grid of maps": "lora: {r: [{a: 1}, {b: 2}]}",
        "grid of lists": "lora: {r: [[1], [2]]}",
        "accepted": "data: {accepted: [x, y]}",
    }.items()


def _nest(field: str, value: str) -> str:
    *outer, last = field.split(".")
    return "".join(f"{'  ' * at}{name}:\n" for at, name in enumerate(outer)) + f"{'  ' * len(outer)}{last}: {value}\n"


def yaml_probes(folder: Path) -> Iterator[Probe]:
    mark = folder / "yaml-was-run"
    for name, text in yaml_texts(mark):
        yield Probe("yaml", name, partial(_import_text, text, mark, "merge" in name or "duplicate" in name), 10)


def _import_text(text: str, mark: Path, must_fail: bool) -> str:
    try:
        found = import_settings(text)
    except ToolkitError as error:
        long = len(error.message) > 20_000
        return "it ran" if mark.exists() else f"{len(error.message):,} characters of errors" if long else ""
    if mark.exists() or must_fail:
        return "it ran" if mark.exists() else f"accepted: {export_settings(found.draft)[:100]}"
    export_settings(found.draft, found.grid)
    return ""


PATTERNS = (
    "(a+)+$",
    "(a|aa)+$",
    "(a|a?)+$",
    "(.*a){30}$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(a*)*b",
    "((a{0,50}){0,50}){0,50}b",
    "a{1,60000}",
    "((a{100}){100}){100}",
    "(?:a?){40}a{40}",
    "(x+x+)+y",
    "(?=(a+))a*b\\1",
    "(a)\\1{50000}",
    "(?i)(ß|ss)*x",
    "(?R)",
    "(?:(?R))",
    "(?<n>a(?&n)*)*b",
    "[^a]*" * 60 + "b",
    "(.+)+" * 10,
    "\\X*" * 20 + "b",
    "(?e)(?:aaaaaaaaaa){e<=9}",
    "(?b)(?:abcdefgh){i<=5,d<=5,s<=5}",
    "(?:" * 200 + ")" * 200,
    "(" * 400,
    "[" * 900,
    "(?P<a>x)(?P<a>y)",
    "(?P=a)",
    "\\",
    "(?",
    "*",
    "a**",
    "{",
    "(?L)x",
    "\\p{x}",
    "\\N{x}",
    "(?#" + "x" * 900,
    "|" * 999,
    "a|" * 400,
    "(?:a|b|ab)*c",
    "(?>a+)+$",
    "a" * 999,
    "\\d+" * 200 + "x",
    "(\\w+\\s?)*$!",
    "(?s).*" * 30 + "x",
    "(?<=a{1,500})b",
    "(?<!(a+)+)b",
    "\x00",
    "\ud800",
    "\u202e",
)
SUBJECTS = (
    "",
    "a" * 40 + "!",
    "a" * 5000,
    "x" * 3000,
    "aA " * 2000,
    '{"a": 1}',
    "[" * 5000,
    "[" * 50 + "1" + "]" * 50,
    '[{"a": [1, 1, 1]}]',
    str([0] * 3000),
    "\x00",
)


def _chain(kind: str, levels: int) -> dict[str, Any]:
    """Return a schema whose parts each refer twice to the next."""
    parts = {f"d{n}": {kind: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


def _nested(kind: str, levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {kind: [schema, schema] if kind.endswith("Of") else schema}
    return schema


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for kind in ("allOf", "anyOf", "oneOf"):
        for levels in (5, 18, 26, 200):
            yield f"{kind} chain 2^{levels}", _chain(kind, levels)
        yield f"{kind} 2^12 written out", _nested(kind, 12)
    for kind in ("contains", "items", "not", "additionalProperties", "propertyNames", "unevaluatedProperties", "if"):
        for levels in (3, 40, 300):
            yield f"{kind} {levels} deep", _nested(kind, levels)
    yield from {
        "own reference": {"$ref": "#"},
        "circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "in itself": {"allOf": [{"$ref": "#"}]},
        "remote": {"$ref": "http://evil.example/s"},
        "file": {"$ref": "file:///etc/passwd"},
        "missing": {"$ref": "#/$defs/none"},
        "odd reference": {"$ref": 7},
        "dynamic": {"$dynamicRef": "#x"},
        "remote meta": {"$schema": "http://evil.example/s"},
        "id": {"$id": "http://evil.example/", "$ref": "x"},
        "anchor": {"$anchor": "a", "$ref": "#a"},
        "unique": {"uniqueItems": True},
        "unique inside": {"items": {"uniqueItems": True}},
        "pattern": {"pattern": "(a+)+$"},
        "patternProperties": {"patternProperties": {"(a+)+$": False}},
        "format": {"format": "regex"},
        "enum": {"enum": list(range(30_000))},
        "required": {"required": [str(n) for n in range(30_000)]},
        "multipleOf": {"multipleOf": 1e-300},
        "multipleOf 0": {"multipleOf": 0},
        "huge": {"minimum": 10**400},
        "odd type": {"type": 7},
        "odd items": {"items": 7},
        "odd all": {"allOf": 7},
        "no type": {"type": "x"},
        "default": {"default": {"a": 1}},
        "deep enum": {"enum": [[[[[[]]]]]]},
        "const": {"const": [0] * 20_000},
        "dependent": {"dependentSchemas": {"a": {"$ref": "#"}}},
        "min contains": {"contains": {"$ref": "#"}, "minContains": 0},
        "prefix": {"prefixItems": [{"$ref": "#"}] * 200},
        "names": {"properties": {"a" * 50_000: True}},
    }.items()


def rule_probes() -> Iterator[Probe]:
    for pattern in PATTERNS:
        rule = {"kind": "regex", "pattern": pattern}
        yield Probe(
            "rules",
            f"compile {pattern[:40]!r}",
            partial(explained, partial(parse_checked_rules, {"rules": [rule]})),
            45,
        )
        yield Probe("rules", f"apply {pattern[:40]!r}", partial(_apply, rule), 45)
    for name, schema in schemas():
        rule = {"kind": "json_schema", "json_schema": schema}
        yield Probe("rules", f"compile {name}", partial(explained, partial(parse_checked_rules, {"rules": [rule]})), 45)
        yield Probe("rules", f"apply {name}", partial(_apply, rule), 45)


def _apply(rule: dict[str, Any]) -> str:
    try:
        rules = parse_checked_rules({"rules": [rule]}).rules
    except ToolkitError:
        return ""
    found = find_rule_violations(rules, SUBJECTS)
    return "" if len(found) == 1 and len(found[0]) == len(SUBJECTS) else f"{found!r:.200}"
