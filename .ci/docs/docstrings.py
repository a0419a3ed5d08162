"""Reads the docstrings of funcnet for Sphinx, and looks up what they refer to as a reader would.

"Params: weight (O, I).  Buffers: none." are sections of one line. A name in a role is looked up in the class, in the
module where it is written, among the public names and in torch; what is private has no page and stands as it is; what
is nowhere is an error.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import names
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import inspect as sphinx_inspect

TORCH = "https://docs.pytorch.org/docs/stable/generated/"
LINE_SECTION = re.compile(
    r"^(?:Params|Buffers|Draws|Shape|Source|Raises|State|Structure|Inputs|Axes|Hyperparameters): +\S"
)
NAMES_GO_ON = re.compile(r"^    (?:\*{0,2}\w+, )*\*{0,2}\w+,$")  # the first line of more arguments than fit
LINE_OF_HELP = re.compile(r"^(?:\w+, )*\w+ {2,}\S")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is here to Sphinx, which calls this."""
    # Before napoleon, which reads the sections that take several lines.
    app.connect("autodoc-process-docstring", rewrite_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-signature", sign_record)
    app.connect("missing-reference", resolve_reference)
    app.add_domain(RankedDomain, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class RankedDomain(PythonDomain):
    """The names of Python, of which the search shows those of ``funcnet`` itself before the same ones of its packages.

    So ``fn.value_and_grad`` comes before ``fn.distributed.value_and_grad``.
    """

    def get_objects(self) -> Iterator[tuple[str, str, str, str, str, int]]:
        """The names as Python's domain has them, with their priorities: 0 is before 1."""
        for name, title, kind, document, anchor, priority in super().get_objects():
            is_first = name.rpartition(".")[0] == "funcnet" and priority == 1
            yield name, title, kind, document, anchor, 0 if is_first else priority


def rewrite_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Write sections of one line as paragraphs, and lines of help as a list."""
    # napoleon takes the first line of a property for its type if there is a colon in it.
    written = [""] if what in {"property", "attribute"} else []
    index = 0
    while index < len(lines):
        line = escape(lines[index])
        index += 1
        if line.startswith(">>> "):
            written.append(line)
            while index < len(lines) and lines[index].strip():
                written.append(lines[index])
                index += 1
        elif NAMES_GO_ON.match(line):
            written.append(f"{line} {escape(lines[index].strip())}")
            index += 1
        elif LINE_SECTION.match(line):
            while index < len(lines) and lines[index].startswith("    "):
                line += " " + escape(lines[index].strip())
                index += 1
            for section in re.split(r"  +(?=[A-Z]\w+: )", line):
                title, _, content = section.partition(":")
                written += ["", f"**{title}**: {content.strip()}", ""]
        elif what == "module" and LINE_OF_HELP.match(line):
            listed, content = re.split(r" {2,}", line, maxsplit=1)
            written.append(
                f"- {', '.join(f':py:obj:`{word} <{name}.{word}>`' for word in listed.split(', '))} {content}"
            )
        else:
            written.append(line)
    lines[:] = written


def escape(line: str) -> str:
    """A line in which a star is a star, as in shapes, and ``input_`` no link; code and bold words stay."""
    if line.lstrip().startswith("* "):  # a list
        return line
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"(?<!\*)\*(?!\*)|\*\*(?=kwargs)|(?<=\w)_(?!\w)", r"\\\g<0>", parts[index])
    return "".join(parts)


def sign_record(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """The fields of a record are its arguments, also where its ``__new__`` takes any."""
    if what != "class" or not dataclasses.is_dataclass(obj):
        return None
    parameters = sphinx_inspect.signature(obj.__init__, bound_method=True, type_aliases={})
    text = sphinx_inspect.stringify_signature(parameters, show_return_annotation=False, unqualified_typehints=True)
    return text.replace("<factory>", "{}"), returns


def skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of records are described with their class, and what torch or Python has given is not ours to describe."""
    if what == "class" and not (inspect.isroutine(obj) or isinstance(obj, property)):
        return True
    return skip


def resolve_reference(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element) -> Any:
    """A link to a page of these or of torch, plain text for types in signatures, None for what is nowhere."""
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    module, cls = node.get("py:module"), node.get("py:class")
    path = find(target, module, cls)
    if path and path.startswith("torch."):
        return nodes.reference("", "", content, internal=False, refuri=f"{TORCH}{path}.html")
    if path:
        domain = env.domains.python_domain
        found = domain.find_obj(env, "", "", path, None)
        if found:
            document, anchor = found[0][1].docname, found[0][1].node_id
            link = nodes.reference("", "", content, internal=True)
            link["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], document)}#{anchor}"
            return link
    is_role = "refwarn" in node  # and no type in a signature
    return content if path == "" or not is_role else None


def find(target: str, module: str | None, cls: str | None) -> str | None:
    """The path of a name among those that have a page; "" if it has none, None if there is nothing of that name."""
    if target.startswith("torch."):
        return target if resolve(importlib.import_module("torch"), target.removeprefix("torch.")) else None
    scopes = [importlib.import_module("funcnet")]
    if module:
        scopes.insert(0, importlib.import_module(module))
    if cls and (owner := resolve(scopes[0], cls)):
        scopes[:0] = [owner[1], importlib.import_module(owner[1].__module__)]
    for scope in scopes:
        for name in (target, target.removeprefix("funcnet."), *([target.removeprefix(f"{module}.")] if module else [])):
            if found := resolve(scope, name):
                return page_of(*found, name.rpartition(".")[2])
    return None


def resolve(scope: Any, name: str) -> tuple[Any, Any] | None:
    """What a dotted name means in a scope, after what holds it."""
    holder = value = scope
    try:
        for part in name.split("."):
            holder, value = value, getattr(value, part)
    except AttributeError:
        return None
    return holder, value


def page_of(holder: Any, value: Any, name: str) -> str:
    """The public path of a value or of the class that defines a method; "" if it has none."""
    if path := names.path_of(value):
        return path
    if inspect.isclass(holder):
        for cls in holder.__mro__:
            if name in vars(cls) and (path := names.path_of(cls)):
                return f"{path}.{name}"
    return ""
