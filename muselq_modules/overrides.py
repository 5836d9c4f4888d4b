"""From the text of an option to a value of the type that it replaces

Where the YAML holds text the option's text is kept to the letter; elsewhere it
is read as YAML and must have the type of the present value. Tags (`!new:`,
`!apply:`, ...), which could run code, are refused.
"""

import io
import math
import re

import ruamel.yaml
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from muselq_modules import configuration as tree
from muselq_modules.errors import UserError

BOOLEANS = {"true": True, "false": False}
TUPLE = re.compile(r"^\(.*\)$")  # as HyperPyYAML recognises them
IMPLICIT_TUPLE = "!tuple"  # their tag once HyperPyYAML has been used
TAG = "tag:yaml.org,2002:"
EXPECTED = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "seq": "a list such as [a, b]",
    "map": 'a mapping such as "{key: value}"',
    "tuple": "a tuple such as (1, 2)",
    "any": "anything but NaN",
}


def compose(text, name):
    """The YAML node of an option's text; None when the text is not YAML"""
    # a stream with a name, so that messages can say --key instead of a file
    stream = io.StringIO(text)
    stream.name = f"--{name}"
    try:
        return ruamel.yaml.YAML().compose(stream)
    except ruamel.yaml.error.YAMLError:
        return None


def plain(node, text):
    """The value of an untyped node; text that is no YAML stays text"""
    if node is None:
        return text
    if isinstance(node, SequenceNode):
        return [plain(item, item.value) for item in node.value]
    if isinstance(node, MappingNode):
        return {
            key: plain(value, value.value)
            for key, value in tree.entries(node).items()
        }
    kind = node.tag.removeprefix(TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return BOOLEANS[node.value.lower()]
    if kind == "int":
        digits = node.value.replace("_", "")
        return int(digits, 0 if digits.lower()[:2] in ("0x", "0o") else 10)
    if kind == "float":
        digits = node.value.replace("_", "").lower()
        return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    return DoubleQuotedScalarString(text if node.style is None else node.value)


def _kind(node, root):
    """What a value may be replaced with: a key of EXPECTED, any or fixed"""
    if node is None or node.tag == f"{TAG}null":
        return "any"
    if node.tag == "!PLACEHOLDER":
        return "str"
    if node.tag in ("!ref", "!copy"):
        return _kind_of_reference(str(node.value), root)
    if isinstance(node, MappingNode):
        return "map"
    if node.tag.startswith(("!new:", "!name:", "!apply", "!module:", "!incl")):
        return "fixed"
    kind = node.tag.removeprefix(TAG)
    if kind in ("str", IMPLICIT_TUPLE) and node.style is None:
        kind = "tuple" if TUPLE.match(node.value) else "str"
    return kind if kind in EXPECTED else "str"


def _kind_of_reference(text, root):
    names = re.findall(r"<([^>]*)>", text)
    if len(names) == 1 and text.strip() == f"<{names[0]}>":
        target = tree.entries(root).get(names[0])
        kind = "fixed" if target is None else _kind(target, root)
        return "fixed" if kind == "map" else kind
    arithmetic = re.fullmatch(r"[\d\s.+*/()%-]*", re.sub(r"<[^>]*>", "", text))
    targets = (tree.entries(root).get(name) for name in names)
    kinds = {"fixed" if t is None else _kind(t, root) for t in targets}
    numbers = kinds <= {"int", "float"}
    return "float" if arithmetic and numbers else "str"


def read_node(name, text, target, root):
    """The node of an option's text, as its present value asks for"""
    if text is None:
        raise UserError(f"--{name} has no value: add one after it")
    if text.startswith("!"):
        raise UserError(
            f"--{name} is {text}: tags are not taken from the command line; "
            f"for a path write ./{text}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--{name} is not valid UTF-8 text") from error
    kind = _kind(target, root)
    composed = None
    if kind != "str" and (kind != "any" or not _is_text(text)):
        composed = compose(text, name)
    if composed is None or _differs(composed, text):
        mark = ruamel.yaml.error.FileMark(f"--{name}", 0, 0, 0)
        return ScalarNode(f"{TAG}str", text, mark, style='"')
    tree.refuse_repeated_keys(composed)
    return composed


def _is_text(text):
    node = None if ": " in text and text[:1] not in "[{" else compose(text, "")
    return node is None or node.tag in (f"{TAG}str", IMPLICIT_TUPLE)


def _differs(node, text):
    # YAML cuts a scalar at " #"; what was typed is then not what it reads
    return isinstance(node, ScalarNode) and node.value != text.strip()


def convert(node, target, root, name):
    """The Python value of a node, checked against the value it replaces"""
    if node.tag.startswith("!") and node.tag != IMPLICIT_TUPLE:
        raise UserError(
            f"{name} holds {node.tag}: tags are not taken from the command line"
        )
    kind = _kind(target, root)
    found = node.tag.removeprefix(TAG)
    if kind == "fixed":
        raise UserError(
            f"{name} cannot be replaced from the command line: "
            f"{tree.where(target)} sets it to {target.tag} {target.value}"
        )
    if kind == "map" and found == "map":
        return _convert_mapping(node, target, root, name)
    if kind == "seq" and found == "seq":
        like = target.value[0] if _uniform(target, root) else None
        return [convert(item, like, root, name) for item in node.value]
    if kind == "tuple" and TUPLE.match(str(node.value)):
        return TaggedScalar(node.value, tag=IMPLICIT_TUPLE)
    if kind == "str" and isinstance(node, ScalarNode):
        return DoubleQuotedScalarString(node.value)
    if kind == "any" or kind == found or (kind, found) == ("float", "int"):
        _refuse_tags(node, name)
        value = plain(node, node.value)
        if kind == "float":
            value = float(value)
        if not (isinstance(value, float) and math.isnan(value)):
            return value
    raise UserError(
        f"{name} is {_shown(node)}: it must be {EXPECTED[kind]}, as in "
        f"{tree.where(target)}"
    )


def _uniform(target, root):
    return len({_kind(item, root) for item in target.value}) == 1


def _convert_mapping(node, target, root, name):
    accepted = tree.accepted_keys(target)
    present = tree.entries(target)
    block = {}
    if target.tag.startswith(tree.INCLUDE):
        included = tree.read_include(target)
        block = tree.entries(included)
    values = {}
    for key, value in tree.entries(node).items():
        tree.refuse_unknown(key, value, accepted, name.removeprefix("--"))
        old, base = present.get(key), root
        if old is None and key in block:
            old, base = block[key], included
        values[key] = convert(value, old, base, f"{name} {key}")
    return values


def _refuse_tags(node, name):
    if node.tag.startswith("!") and node.tag != IMPLICIT_TUPLE:
        raise UserError(
            f"{name} holds {node.tag}: tags are not taken from the command line"
        )
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_tags(item, name)
    for value in tree.entries(node).values():
        _refuse_tags(value, name)


def _shown(node):
    return node.value if isinstance(node, ScalarNode) else f"a {node.id}"
