"""Variables that are set again in blocks, of every kind and in every depth."""
import asyncio
import itertools

import pytest

from jinja2 import Environment

# Blocks with a scope of their own. Each renders its content once.
BLOCKS = {
    "for": "{% for _ in [0] %}BODY{% endfor %}",
    "else": "{% for _ in [] %}{% else %}BODY{% endfor %}",
    "with": "{% with %}BODY{% endwith %}",
    "call": "{% call wrap() %}BODY{% endcall %}",
    "filter": "{% filter string %}BODY{% endfilter %}",
    "macro": "{% macro inner() %}BODY{% endmacro %}{{ inner() }}",
    "set": "{% set text %}BODY{% endset %}{{ text }}",
    "autoescape": "{% autoescape false %}BODY{% endautoescape %}",
}

# Where x becomes 'outer'. Where it does not do so by itself, the template sets it.
OUTER = {
    "loop variable": "{% for x in ['outer'] %}BODY{% endfor %}",
    "with variable": "{% with x = 'outer' %}BODY{% endwith %}",
    "argument": "{% macro outer(x) %}BODY{% endmacro %}{{ outer('outer') }}",
    "default": "{% macro outer(x='outer') %}BODY{% endmacro %}{{ outer() }}",
    "call argument": "{% call(x) give() %}BODY{% endcall %}",
    "set in loop": "{% for _ in [0] %}{% set x = 'outer' %}BODY{% endfor %}",
    "set in block": "{% block content %}{% set x = 'outer' %}BODY{% endblock %}",
    "set at top": "{% set x = 'outer' %}BODY",
}

# What stands in the innermost block, and what it prints.
INNER = {
    "not taken": ("{% if no %}{% set x = 'inner' %}{% endif %}{{ x }}", "outer"),
    "taken": ("{% if yes %}{% set x = 'inner' %}{% endif %}{{ x }}", "inner"),
    "read before": ("{{ x }},{% if yes %}{% set x = 'inner' %}{% endif %}{{ x }}", "outer,inner"),
    "other branch": ("{% if no %}{% set x = 1 %}{% elif no %}{% set x = 2 %}{% else %}-{% endif %}{{ x }}", "-outer"),
    "elif": ("{% if no %}-{% elif yes %}{% set x = x ~ '!' %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", "outer!"),
    "nested": ("{% if yes %}{% if no %}{% set x = 1 %}{% endif %}{{ x }}{% endif %}{{ x }}", "outerouter"),
    "always": ("{% set x = x ~ '+' %}{{ x }}", "outer+"),
    "swapped": ("{% set x, y = y, x %}{{ x }}{{ y }}", "ctx-youter"),
}

MACROS = "{% macro wrap() %}{{ caller() }}{% endmacro %}{% macro give() %}{{ caller('outer') }}{% endmacro %}"
CONTEXT = {"x": "ctx-x", "y": "ctx-y", "yes": True, "no": False}


def render(source, asynchronous=False, **context):
    environment = Environment(enable_async=asynchronous)
    template = environment.from_string(source)
    if asynchronous:
        return asyncio.run(template.render_async(CONTEXT | context))
    return template.render(CONTEXT | context)


def paths():
    yield from itertools.product(BLOCKS, repeat=2)
    yield from itertools.product(["for", "with", "macro"], repeat=3)
    yield from [("for",) * 5, ("with",) * 4, ("set", "filter", "call", "for"), ("macro", "with", "for", "macro")]


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("path", list(paths()), ids="-".join)
def test_set_again(outer, path):
    for name in "not taken", "elif", "always":
        body, printed = INNER[name]
        for block in reversed(path):
            body = BLOCKS[block].replace("BODY", body)
        source = MACROS + OUTER[outer].replace("BODY", f"{body}|{{{{ x }}}}")
        expected = f"{printed}|outer"
        assert render(source) == expected, (name, source)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("outer", OUTER)
def test_every_depth(outer, block):
    for depth in 1, 4:
        for inner, printed in INNER.values():
            body = inner
            for _ in range(depth):
                body = BLOCKS[block].replace("BODY", body)
            assert render(MACROS + OUTER[outer].replace("BODY", f"{body}|{{{{ x }}}}")) == f"{printed}|outer"


@pytest.mark.parametrize("path", list(itertools.product(BLOCKS, repeat=2)), ids="-".join)
def test_asynchronous(path):
    for outer in "loop variable", "argument", "set in block":
        inner, printed = INNER["read before"]
        for block in reversed(path):
            inner = BLOCKS[block].replace("BODY", inner)
        assert render(MACROS + OUTER[outer].replace("BODY", f"{inner}|{{{{ x }}}}"), asynchronous=True) == f"{printed}|outer"


@pytest.mark.parametrize("path", list(itertools.product(BLOCKS, repeat=2)), ids="-".join)
def test_what_the_template_never_set_is_from_the_context(path):
    for inner, printed in INNER.values():
        body = inner
        for block in reversed(path):
            body = BLOCKS[block].replace("BODY", body)
        # Read at the top, so that the compiler knows the name there.
        assert render(MACROS + "{{ x }}|" + body) == "ctx-x|" + printed.replace("outer", "ctx-x")
        if "set x = 'inner'" in inner or "elif no" in inner:
            assert render(MACROS + body) == printed.replace("outer", "ctx-x")


def test_each_pass_begins_with_the_value_of_outside():
    source = "{% set n = 1 %}{% for a in [1, 2] %}{% for b in [1, 2] %}{% set n = n + b %}{{ n }} {% endfor %}{% endfor %}{{ n }}"
    assert render(source) == "2 3 2 3 1"
    source = "{% for n in [1, 5] %}{% with %}{% for b in [1, 2] %}{% if b > 1 %}{% set n = n * b %}{% endif %}{{ n }} {% endfor %}{% endwith %}{% endfor %}"
    assert render(source) == "1 2 5 10 "


def test_the_value_nearest_to_the_block_counts():
    source = (
        "{% set x = 'a' %}{% for _ in [0] %}{% set x = 'b' %}{% with %}{% for x in ['c'] %}{% with %}{% with %}"
        "{% if no %}{% set x = 'd' %}{% endif %}{{ x }}{% endwith %}{{ x }}{% endwith %}{% endfor %}"
        "{% with %}{% if no %}{% set x = 'e' %}{% endif %}{{ x }}{% endwith %}{% endwith %}{{ x }}{% endfor %}{{ x }}"
    )
    assert render(source) == "ccbba"


def test_recursive_loops():
    source = (
        "{% macro walk(x) %}{% for node in tree recursive %}{% with %}{% if node.x %}{% set x = node.x %}{% endif %}"
        "{{ node.name }}={{ x }} {% endwith %}{{ loop(node.children) }}{% endfor %}{% endmacro %}{{ walk('top') }}"
    )
    leaf = {"name": "c", "x": None, "children": []}
    tree = [{"name": "a", "x": "A", "children": [leaf]}, {"name": "b", "x": None, "children": []}]
    assert render(source, tree=tree) == "a=A c=top b=top "


def test_scoped_blocks():
    source = (
        "{% for x in ['outer'] %}{% block b scoped %}{% for _ in [0] %}{% with %}"
        "{% if no %}{% set x = 1 %}{% endif %}{{ x }}{% endwith %}{% endfor %}{% endblock %}{% endfor %}"
    )
    assert render(source) == "outer"


def test_two_names_and_namespaces():
    source = (
        "{% set ns = namespace(n=0) %}{% macro m(x, y) %}{% for a in [1, 2] %}{% with %}"
        "{% if a == 1 %}{% set x = 'X' %}{% else %}{% set y = 'Y' %}{% endif %}{% set ns.n = ns.n + 1 %}{{ x }}{{ y }} "
        "{% endwith %}{% endfor %}{% endmacro %}{{ m('x', 'y') }}{{ ns.n }}"
    )
    assert render(source) == "Xy xY 2"


def test_imports_are_assignments():
    environment = Environment()
    environment.loader = __import__("jinja2").DictLoader({"lib": "{% macro f() %}lib{% endmacro %}"})
    source = (
        "{% macro m(f) %}{% for _ in [0] %}{% with %}{% if yes %}{% from 'lib' import f %}{{ f() }}{% endif %}{% endwith %}"
        "{% with %}{% if no %}{% import 'lib' as f %}{% endif %}{{ f }}{% endwith %}{% endfor %}{% endmacro %}{{ m('arg') }}"
    )
    assert environment.from_string(source).render(yes=True, no=False, f="context") == "libarg"
