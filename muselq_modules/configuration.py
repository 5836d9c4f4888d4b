"""HyperPyYAML files, checked before anything of them is built

HyperPyYAML accepts in silence a misspelt key inside an `!include` block, a
run option (precision, max_grad_norm, ...) below the top level, where nobody
reads it, and `<<: !include:`, which drops the file. Here the file is read as a
tree of nodes, nothing is constructed, and each of these is one sentence with
the file and the line.
"""

import difflib
import inspect
import pydoc
import re
from pathlib import Path

import ruamel.yaml
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from speechbrain.utils.run_opts import HELP_TEXTS

from muselq_modules.errors import UserError

INCLUDE = "!include:"
CALLABLE = re.compile(r"!(new|name|apply|applyref|module):(.*)")
RUN_OPTIONS = {*HELP_TEXTS, "jit_module_keys", "compile_module_keys"}


def read_tree(path):
    """Reads a YAML file as a tree of nodes; constructs nothing

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    ruamel.yaml.nodes.MappingNode

    Raises
    ------
    UserError
        The file is absent, not valid YAML, or repeats a key.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = ruamel.yaml.YAML().compose(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or error.context
        raise UserError(f"{path}{line} is not valid YAML: {problem}") from error
    except ruamel.yaml.error.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {problem}") from error
    if not isinstance(tree, MappingNode):
        raise UserError(f"{path} must hold `key: value` lines")
    refuse_repeated_keys(tree)
    return tree


def refuse_repeated_keys(node):
    """Raises a UserError for a repeated key or `<<: !include:`"""
    if isinstance(node, SequenceNode):
        for item in node.value:
            refuse_repeated_keys(item)
    elif isinstance(node, MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value == "<<" and value.tag.startswith("!"):
                raise UserError(
                    f"{where(key)}: `<<: {value.tag}` would drop the file: "
                    f"write `name: {value.tag}` instead"
                )
            if str(key.value) in seen:
                raise UserError(f"{where(key)}: {key.value} is given twice")
            seen.add(str(key.value))
            refuse_repeated_keys(value)


def where(node):
    """The file and the line of a node, for a message"""
    mark = node.start_mark
    if mark.name.startswith("--"):  # composed from the command line
        return mark.name
    return f"{mark.name}, line {mark.line + 1}"


def entries(node):
    """The key and value nodes of a mapping as a dict, merge keys unfolded"""
    found = {}
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value != "<<":
                found[str(key.value)] = value
                continue
            bases = [value] if isinstance(value, MappingNode) else value.value
            for base in bases:
                found = {**entries(base), **found}
    return found


def nearest(name, valid):
    """' Did you mean X?' or an empty string"""
    valid = sorted(valid)
    close = [v for v in valid if len(name) > 2 and v.startswith(name)]
    close = close or difflib.get_close_matches(name, valid, 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


def include_path(node):
    """The file an `!include:` node names, relative to the including file"""
    if not node.tag.startswith(INCLUDE):
        return None
    folder = Path(node.start_mark.name).resolve().parent
    return folder / node.tag[len(INCLUDE) :]


def read_include(node, parents=()):
    """The tree of an included file

    Raises
    ------
    UserError
        The file is absent or includes itself.
    """
    path = include_path(node)
    if not path.is_file():
        raise UserError(
            f"{where(node)} includes {node.tag[len(INCLUDE) :]}, which is not "
            "there: keep the recipe under recipes/ or edit the include line"
        )
    if path.resolve() in parents:
        raise UserError(f"{where(node)}: {path.name} includes itself")
    return read_tree(path)


def locate(node):
    """The Python object that a `!new:`, `!name:` or `!apply:` node names

    Raises
    ------
    UserError
        There is no such class or function, or its module cannot be imported.
    """
    name = CALLABLE.match(node.tag)[2]
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise UserError(f"{where(node)}: {error}") from error
    if found is None:
        raise UserError(f"{where(node)}: there is no {name} to import")
    return found


def arguments(node):
    """The signature of a node's class or function; None when it has none"""
    found = locate(node)
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        return None


def accepted_keys(node):
    """The keys that may be set below a node; None when any may be"""
    if node.tag.startswith(INCLUDE):
        return set(entries(read_include(node)))
    if CALLABLE.match(node.tag):
        signature = arguments(node)
        if signature is None:
            return None
        parameters = signature.parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return None
        return {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return set(entries(node)) or None  # `{}` is a free-form mapping


def refuse_unknown(key, node, accepted, name):
    """Raises a UserError when `key` is a misplaced run option or unknown"""
    if key in RUN_OPTIONS and key not in (accepted or ()):
        raise UserError(
            f"{where(node)}: {key} is a run option, which counts at the top "
            f"level only: move it out of {name}"
        )
    if accepted is not None and key not in accepted:
        raise UserError(
            f"{where(node)}: {name} has no key {key}{nearest(key, accepted)}"
        )


def merge(target, given, name):
    """A copy of `target` with the values of `given`, as HyperPyYAML merges

    Parameters
    ----------
    target : Node or None
        The present value.
    given : Node
        What replaces it; a mapping replaces key by key.
    name : str
        Dotted name of the key, for messages.

    Returns
    -------
    Node

    Raises
    ------
    UserError
        A key of `given` is unknown to `target`.
    """
    if target is None or not isinstance(given, MappingNode):
        return given
    if not isinstance(target, MappingNode):
        if target.tag.startswith("tag:"):
            return given
        raise UserError(
            f"{where(given)}: {name} has no key in {where(target)}: list there "
            "the keys that may be changed"
        )
    accepted = accepted_keys(target)
    merged = entries(target)
    for key, value in entries(given).items():
        refuse_unknown(key, value, accepted, name)
        merged[key] = merge(merged.get(key), value, f"{name}.{key}")
    return mapping(merged, target)


def mapping(values, like):
    """A mapping node of named nodes with the tag and place of another"""
    pairs = [
        (ScalarNode("tag:yaml.org,2002:str", key, value.start_mark), value)
        for key, value in values.items()
    ]
    return MappingNode(like.tag, pairs, like.start_mark)


def check_tree(root, path):
    """Checks a whole configuration, the included files too

    Parameters
    ----------
    root : MappingNode
        The tree of the launched file, command line already merged.
    path : str or Path
        Its file.

    Raises
    ------
    UserError
        An unknown key, argument, class, file or reference, a misplaced run
        option, or a `!PLACEHOLDER` nobody filled.
    """
    for key, value in entries(root).items():
        _check(value, key, {str(path): root}, (Path(path).resolve(),))


def _check(node, name, roots, parents):
    # roots: file name -> its tree, since a reference belongs to the file it is
    # written in, also where an include line hands it to another file
    children = entries(node)
    if node.tag == "!PLACEHOLDER":
        raise UserError(_missing(node, name))
    if node.tag in ("!ref", "!copy"):
        known = entries(roots[node.start_mark.name])
        for reference in re.findall(r"<([^>\[.]*)", str(node.value)):
            if reference not in known:
                hint = nearest(reference, known)
                raise UserError(
                    f"{where(node)}: {name} refers to <{reference}>, which is "
                    f"no key of this file{hint}"
                )
    elif node.tag.startswith(INCLUDE):
        block = read_include(node, parents)
        for key, value in children.items():
            refuse_unknown(key, value, set(entries(block)) - RUN_OPTIONS, name)
        path = include_path(node)
        inside = {**roots, str(path): block}
        for key, value in entries(block).items():
            refuse_unknown(key, value, None, name)
            key_name = f"{name}.{key}"
            if key in children:
                value = merge(value, children[key], key_name)
            _check(value, key_name, inside, (*parents, path.resolve()))
        return
    elif CALLABLE.match(node.tag):
        _check_call(node, name)
    else:
        for key, value in children.items():
            refuse_unknown(key, value, None, name)
    for key, value in children.items():
        _check(value, f"{name}.{key}", roots, parents)
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _check(item, f"{name}[{index}]", roots, parents)


def _missing(node, name):
    if "." in name or "[" in name:
        return f"{name} is missing: fill its !PLACEHOLDER in {where(node)}"
    what = "DIR" if "folder" in name or name == "pretrained" else "VALUE"
    return f"{name} is missing: add --{name} {what}"


def _check_call(node, name):
    kind, dotted = CALLABLE.match(node.tag).groups()
    if kind == "new" and not inspect.isclass(locate(node)):
        raise UserError(f"{where(node)}: {dotted} is not a class")
    signature = arguments(node)
    if signature is None or kind in ("module", "applyref"):
        return
    given = entries(node)
    accepted = accepted_keys(node)
    for key, value in given.items():
        refuse_unknown(key, value, accepted, name)
    ordered = node.value if isinstance(node, SequenceNode) else ()
    bind = signature.bind_partial if kind == "name" else signature.bind
    try:
        bind(*ordered, **given)
    except TypeError as error:
        raise UserError(f"{where(node)}: {dotted}: {error}") from error
