"""`llb routes`: where requests go when a model cannot answer."""

from __future__ import annotations

import argparse
from urllib.parse import quote

from llb.cli import output
from llb.cli.errors import CommandError
from llb.cli.options import client_of
from llb.cli.tables import EMPTY_CELL, print_table
from llb.wire import SpillRuleList, SpillRules


def show_routes(options: argparse.Namespace) -> int:
    """`llb routes [MODEL]`: shows the spill rules, or sets those of a model."""
    client = client_of(options)
    if options.model is None:
        if options.to or options.clear:
            raise CommandError("Name the model whose rules change.")
        listed = client.get("/api/routes", SpillRuleList)
        if options.json:
            output.print_json(listed)
            return 0
        _print_rules([(each.model, SpillRules(routes=each.routes)) for each in listed.models])
        return 0
    path = f"/api/models/{quote(options.model, safe='')}/routes"
    if options.clear or options.to:
        when = [word.strip() for word in options.when.split(",")]
        routes = [{"target": target, "when": when, "after_s": options.after} for target in options.to or ()]
        client.request("PUT", path, {"routes": routes})
    rules = client.get(path, SpillRules)
    if options.json:
        output.print_json(rules)
    else:
        _print_rules([(options.model, rules)])
    return 0


def _print_rules(rules: list[tuple[str, SpillRules]]) -> None:
    rows = [
        (
            model,
            rule.target,
            ", ".join(rule.when),
            f"{rule.after_s:g} s" if "busy" in rule.when else EMPTY_CELL,
        )
        for model, each in rules
        for rule in each.routes
    ]
    if not rows:
        output.print_note("No rules are set: 'llb routes MODEL --to TARGET' sets one.")
        return
    print_table(("MODEL", "GOES TO", "WHEN", "AFTER"), rows, flexible=1)
