"""Random documents that fit the schema, made by schemathesis, on a real server.

    TOKEN=tdk_… fuzz_graphql.py http://127.0.0.1:8080/graphql '{"ids": ["wh_…"], "texts": ["user.created"]}'

The ids and texts mean something to the server: half of what is sent is made of them.

A mutation never answers with an error beside its payload, whatever its arguments are. A query, and a field inside a
payload, does by one of the codes below, where an argument of its own has not the form that its description gives
(schema/errors.md), and then that field is null.
Either may be refused as a whole, before anything is done, because it asks for too much: the types do not say how much.

Prints how many cases there were; fails with those that went wrong. tests/it/contract.rs runs it.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import graphql
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis import strategies as st
from schemathesis.graphql import nodes

SEED = 5
CASES_PER_FIELD = 12
SAID = graphql.parse("{ userErrors { code } }").definitions[0].selection_set
WRONG_ARGUMENT = {"INVALID_INPUT", "INVALID_CURSOR", "WEBHOOK_FILTER_INVALID"}

url, known = sys.argv[1], json.loads(sys.argv[2])
headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
sdl = graphql.build_schema((Path(__file__).parent / "../../schema/schema.graphql").read_text())


def node(value):
    """A JSON value as GraphQL writes it."""
    if isinstance(value, dict):
        fields = [(graphql.NameNode(value=name), node(item)) for name, item in value.items()]
        return nodes.Object([graphql.ObjectFieldNode(name=name, value=item) for name, item in fields])
    if isinstance(value, list):
        return nodes.List([node(item) for item in value])
    if value is None:
        return nodes.Null
    kind = {bool: nodes.Boolean, int: nodes.Int, float: nodes.Float, str: nodes.String}[type(value)]
    return kind(value)


def register_scalars():
    """What the server's scalars take, as their descriptions say."""
    texts = st.text(st.characters(codec="utf-8"), max_size=300)
    names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True)
    leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | texts
    values = st.recursive(leaves, lambda some: st.lists(some, max_size=3) | st.dictionaries(names, some, max_size=3))
    moments = st.datetimes(datetime(1970, 1, 1)).map(lambda moment: moment.isoformat() + "Z")
    for name, values in {
        "DateTime": moments,
        "ID": st.sampled_from(known["ids"]) | texts,
        # `null` alone is no value where the type says that there is one.
        "JSON": st.dictionaries(names, values, max_size=3) | values.filter(lambda value: value is not None),
        "Long": st.integers(0, 2**64 - 1).map(str),
        "String": st.sampled_from(known["texts"]) | texts,
    }.items():
        schemathesis.graphql.scalar(name, values.map(node))


class Sensible(graphql.Visitor):
    """Takes away what the types cannot forbid and every resolver refuses, so that cases get past it."""

    def __init__(self, types):
        super().__init__()
        self.types = types

    def enter_field(self, field, *_):
        given = {argument.name.value: argument for argument in field.arguments or ()}
        # A cursor comes out of an answer; a page is counted from one end.
        unfit = {"after", "before"} | ({"last"} if "first" in given else set())
        field = replace(field, arguments=tuple(argument for name, argument in given.items() if name not in unfit))
        if str(self.types.get_parent_type()) != "Mutation":
            return field
        # Whether something was done is to be seen.
        chosen = (*field.selection_set.selections, *SAID.selections)
        return replace(field, selection_set=replace(field.selection_set, selections=chosen))

    def enter_argument(self, argument, *_):
        if argument.name.value in ("first", "last") and isinstance(argument.value, graphql.IntValueNode):
            return replace(argument, value=nodes.Int(int(argument.value.value) % 100 + 1))
        return None

    def enter_object_value(self, value, *_):
        # hypothesis-graphql does not know @oneOf.
        kind = graphql.get_named_type(self.types.get_input_type())
        definition = sdl.type_map[kind.name].ast_node if kind else None
        if definition and any(directive.name.value == "oneOf" for directive in definition.directives or ()):
            return replace(value, fields=tuple(value.fields or ())[:1])
        return None


def sensible(schema, text):
    document = graphql.parse(text)
    types = graphql.TypeInfo(schema)
    return graphql.print_ast(graphql.visit(document, graphql.TypeInfoVisitor(types, Sensible(types))))


def wrong(operation, answer):
    """What must not be in this answer, or None."""
    if answer.status_code != 200 or answer.headers["content-type"][0].split(";")[0] != "application/json":
        return f"{answer.status_code} {answer.headers}"
    body = answer.json()
    for error in body.get("errors", []):
        code = error["extensions"]["code"]
        if code == "QUERY_TOO_COMPLEX" and "data" not in body:
            continue
        asks = operation.startswith("Query.") or len(error.get("path", [])) > 1
        if not asks or code not in WRONG_ARGUMENT or at(body, error) is not None:
            return json.dumps(body)
    return None


def at(body, error):
    """What the answer has where that error was made."""
    found = body["data"]
    for step in error["path"]:
        found = found[step] if isinstance(found, list) else (found or {}).get(step)
    return found


def kind_of(operation, body):
    """What came of a case, in a word."""
    if "data" not in body:
        return "too complex"
    if operation.startswith("Query."):
        return "queries refused" if "errors" in body else "queries answered"
    payload = next(iter(body["data"].values()))
    return "mutations refused" if payload["userErrors"] else "mutations done"


def main():
    set_hypothesis_home_dir(Path(sys.prefix) / "hypothesis")
    register_scalars()
    schema = schemathesis.graphql.from_url(url, headers=headers)
    schema.config.generation.update(graphql_allow_null=False)
    seen, failures = Counter(), []

    def attempt(operation):
        @seed(SEED)
        @settings(
            max_examples=CASES_PER_FIELD,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def run(case):
            case.body = sensible(schema.client_schema, case.body)
            answer = case.call(headers=headers)
            seen["cases"] += 1
            if complaint := wrong(operation.label, answer):
                failures.append(f"{operation.label}: {case.body}\n{complaint}")
                return
            seen[kind_of(operation.label, answer.json())] += 1

        run()
        seen["fields"] += 1

    for result in schema.get_all_operations():
        attempt(result.ok())
    print(json.dumps(seen))
    if failures:
        sys.exit(f"{len(failures)} cases went wrong\n" + "\n\n".join(failures))


main()
