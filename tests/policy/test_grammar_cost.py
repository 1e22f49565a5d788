"""Cost of patterns and grammars: what would keep the engine busy is refused, what programs send is not."""

from __future__ import annotations

import pytest

from llb.policy.grammar_cost import (
    MAX_ALTERNATIVES,
    MAX_GRAMMAR_CHARS,
    MAX_PATTERN_CHARS,
    MAX_WAYS,
    TooComplex,
    check_grammar,
    check_pattern,
)

BUSY = "[a-z]* " * 50
JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$",
        r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$",
        r"^(\+\d{1,2}\s?)?\(?\d{3}\)?[\s.-]?\d{3}[\s.-]?\d{4}$",
        r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$",
        r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        r"^((25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)$",
        r"^https?://[^\s/$.?#].[^\s]*$",
        r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)))?$",
        r"^(?=.*[A-Z])[A-Za-z\d]{8,}$",
        "[a-z]+",
        "^.{0,500}$",
        r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
        "foo.*bar.*baz",
        "^([a-z]*)*$",
        "^(東京|大阪|京都)[一-龥]*$",
        "",
        "^",
        "^$",
    ],
)
def test_patterns_of_programs(pattern: str) -> None:
    assert check_pattern(pattern) <= MAX_WAYS


@pytest.mark.parametrize(
    "pattern",
    [
        "^" + "[a-z]*" * 80 + "$",
        "^" + "[a-z]*" * 16 + "$",
        "^" + "([a-z]+)?" * 16 + "$",
        "^" + "[a-z]?" * 60 + "$",
        "^(" + "[a-z]*|" * 20 + ")*$",
        "^([a-z]|[a-m]|[b-y])*$",
        "^(.{0,30}){0,30}$",
        "^([a-z]?){0,30}$",
        "^(((a{0,99}){0,99}){0,99})$",
        "^a{2000}$",
        "^a{99999999999}$",
        "^" + "(" * 60 + "a" + ")" * 60 + "$",
        "a" * (MAX_PATTERN_CHARS + 1),
        # Three spellings of a letter, which llama.cpp reads as one; and a shorthand that is a set.
        "^" + r"[\xea]*[\u00EA]*[ê]*" * 8 + "$",
        "^" + r"[\d]*[0-9]*" * 8 + "$",
        # llama.cpp reads before the beginning of a list here.
        "^*$",
        "^({2})$",
        "^(a$",
        "^[a$",
        "^(?=a$",
        "^a{x}$",
    ],
)
def test_patterns_that_would_keep_the_engine_busy(pattern: str) -> None:
    with pytest.raises(TooComplex):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "grammar",
    [
        JSON_GRAMMAR,
        "root ::= " + "[a-z]* " * 7,
        "root ::= " + "[^a]* " * 5,
        'root ::= "yes" | "no"',
        'root ::=\r\n  "yes" | "no"\r\n',
        'root ::= (expr "=" term "\\n")+\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" expr ")"',
        'root ::= item+\nitem ::= "- " [^\\r\\n\\x0b\\u2028]+ "\\n"  # a list',
        "root ::= jp+ ([ \\t\\n] jp+)*\njp ::= h | k | c\nh ::= [ぁ-ゟ]\nk ::= [ァ-ヿ]\nc ::= [一-鿿]",
    ],
)
def test_grammars_of_programs(grammar: str) -> None:
    assert check_grammar(grammar) <= MAX_WAYS


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "[a-z]* " * 50,
        # Nearly every token of the vocabulary is read to its end.
        "root ::= " + "[^a]* " * 7,
        "root ::= r7\nr0 ::= [a-z]*\n" + "".join(f"r{i + 1} ::= r{i} r{i}\n" for i in range(7)),
        "root ::= x\nx ::= [a-z] x x x | [a-z] x x | [a-z] x | [a-z]",
        "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(200)) + 'r200 ::= "a"',
        "root ::= " + " | ".join(f'"{i}"' for i in range(MAX_ALTERNATIVES + 1)),
        "#" * (MAX_GRAMMAR_CHARS + 1),
        '%llguidance {}\nstart: "a"',
        # What llama.cpp reads: a rule that begins in the next line, the last of two rules, a carriage return
        # as the end of a line, and nothing after a NUL character.
        f"root ::=\n {BUSY}",
        f"root ::= # comment\n {BUSY}",
        f'root ::= "a"\rroot ::= {BUSY}',
        f'root ::= "a" | # comment\r {BUSY}',
        f'root ::= {BUSY}\nx ::= "\nroot ::= "\n#"\n',
        f'root ::= {BUSY}\0\nroot ::= "a"',
        f'root ::= "a"\nroot ::= {BUSY}',
        "root ::= " + '"a"{0,900} ' * 200,
        "root ::= (",
        "root ::= nothing",
        'root ::= "a',
        "root ::= [a",
        "root ::= *",
        'other ::= "a"',
        'root ::= "\\uZZZZ"',
    ],
)
def test_grammars_that_would_keep_the_engine_busy(grammar: str) -> None:
    with pytest.raises(TooComplex):
        check_grammar(grammar)
