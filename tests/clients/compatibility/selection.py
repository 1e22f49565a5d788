"""All programs by name: libraries and agents, in the order of the document."""

from __future__ import annotations

from tests.clients.compatibility.agents import AGENT_PROGRAMS
from tests.clients.compatibility.programs import LIBRARIES, Program

AGENTS = {agent.program.name: agent for agent in AGENT_PROGRAMS}
PROGRAMS: dict[str, Program] = {
    program.name: program for program in (*LIBRARIES, *(agent.program for agent in AGENT_PROGRAMS))
}
