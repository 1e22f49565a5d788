"""SQL expressions for the current or last name of a key, a user or a node.

`{id}` is the column that holds the id.
"""

from __future__ import annotations

from llb.policy.endpoints.dialects import CLOUD_KINDS
from llb.wire import OLLAMA_PORT_KEY_ID

KEY_NAME_SQL = f"""coalesce(
    (SELECT name FROM api_keys WHERE api_keys.id = {{id}}),
    (SELECT name FROM former_names WHERE former_names.id = {{id}}),
    iif({{id}} = '{OLLAMA_PORT_KEY_ID}', '{OLLAMA_PORT_KEY_ID}', NULL))"""  # noqa: S608  # a constant
USERNAME_SQL = """coalesce(
    (SELECT username FROM users WHERE users.id = {id}),
    (SELECT name FROM former_names WHERE former_names.id = {id}))"""
# A removed node keeps its row. An endpoint that the environment defines has no row, and its name as its id.
NODE_NAME_SQL = f"""coalesce(
    (SELECT name FROM nodes WHERE nodes.id = {{id}}),
    (SELECT name FROM endpoints WHERE endpoints.id = {{id}}),
    (SELECT name FROM former_names WHERE former_names.id = {{id}}),
    iif({{id}} IN ({", ".join(f"'{kind}'" for kind in sorted(CLOUD_KINDS))}), {{id}}, NULL))"""  # noqa: S608
