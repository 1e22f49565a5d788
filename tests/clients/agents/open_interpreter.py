"""Open Interpreter with a model of llb: runs the commands that the model asks for, without a question."""

from __future__ import annotations

import os
import sys

from interpreter import interpreter

interpreter.offline = True
interpreter.disable_telemetry = True
interpreter.auto_run = True
interpreter.llm.model = f"openai/{os.environ['LLB_MODEL']}"
interpreter.llm.api_base = f"{os.environ['LLB_URL']}/v1"
interpreter.llm.api_key = os.environ["LLB_KEY"]
interpreter.llm.supports_functions = True
interpreter.llm.context_window = 100_000
interpreter.llm.max_tokens = 1000

if __name__ == "__main__":
    for message in interpreter.chat(sys.argv[1], display=False):
        print(message.get("content"))
