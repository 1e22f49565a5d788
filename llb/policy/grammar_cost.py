"""Cost of a regular expression or a grammar in the engine, estimated before the engine has it. Pure.

llama.cpp compares every token of its vocabulary with the grammar, for every token that it generates, in the
loop that all slots share. It follows each way through the grammar separately, so that the cost is the number
of ways in which the grammar can read one token. `[a-z]*` eight times reads ten letters in 20,000 ways, eighty
times in 5,000,000,000,000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from msgspec import Struct, field

MAX_PATTERN_CHARS = 500
# Ways to read `WINDOW_CHARS` characters, over all places where the grammar may be. `bench.request_bounds`
# shows what the engine needs at each bound.
MAX_WAYS = 50_000
WINDOW_CHARS = 10
# A set of more characters than any alphabet has, such as `[^a]`, reads nearly every token to its end; `[a-z]`
# reads few of them. Measured, that takes this many times as long.
BROAD_SET_CHARS = 1000
_BROAD_WEIGHT = 8
# Each alternative at one place is a pass over the vocabulary.
MAX_ALTERNATIVES = 256
# Repetitions of a part; counts inside counts multiply. llama.cpp itself refuses more than 2,000.
MAX_REPETITIONS = 1000
# The same for a part of variable length: llama.cpp follows each pair of counts separately.
MAX_NESTED_REPETITIONS = 100
# A counted part that may be empty can be left out in as many ways as there are subsets.
MAX_NULLABLE_REPETITIONS = 8
MAX_DEPTH = 50
MAX_POSITIONS = 4000
MAX_TRANSITIONS = 20_000
# Counted repetitions, of all parts: llama.cpp makes a rule for each, in the loop that all slots share.
MAX_COPIES = 100_000
MAX_GRAMMAR_CHARS = 16_384

_LAST_CHAR = 0x10FFFF
# A set of characters, as ranges of code points, both ends included. A joint has none.
CharSet = tuple[tuple[int, int], ...]
_ANY: CharSet = ((0, _LAST_CHAR),)


class TooComplex(ValueError):
    """The expression would keep the engine busy, or is none. The message is a clause that says why.

    `keyword` names the part of a JSON schema, if it is one.
    """

    def __init__(self, message: str, *, keyword: str | None = None) -> None:
        super().__init__(message)
        self.keyword = keyword


class _Part(Struct, frozen=True):
    """Part of an expression: the positions at which it begins and ends."""

    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()
    is_nullable: bool = True
    # The most repetitions of anything inside.
    repetitions: int = 1
    has_variable_length: bool = False


class _Automaton(Struct):
    """Position automaton (Glushkov's): one position for each set of characters in the expression."""

    chars: list[CharSet] = field(default_factory=list)
    following: list[set[int]] = field(default_factory=list)
    # Counted repetitions keep a place of their own for each count.
    weights: list[int] = field(default_factory=list)
    transition_count: int = 0
    # How often counted repetitions repeat a part.
    copies: int = 0

    def add_char(self, chars: CharSet) -> _Part:
        position = len(self.chars)
        if position >= MAX_POSITIONS:
            raise TooComplex("is too long")
        self.chars.append(chars)
        self.following.append(set())
        size = sum(high - low + 1 for low, high in chars)
        self.weights.append(_BROAD_WEIGHT if size > BROAD_SET_CHARS else 1)
        place = frozenset((position,))
        return _Part(place, place, is_nullable=False)

    def join(self, parts: Iterable[_Part]) -> _Part:
        """Return the sequence of `parts`."""
        whole = _Part()
        for part in parts:
            self.connect(whole.last, part.first)
            whole = _Part(
                whole.first | part.first if whole.is_nullable else whole.first,
                part.last | whole.last if part.is_nullable else part.last,
                whole.is_nullable and part.is_nullable,
                max(whole.repetitions, part.repetitions),
                whole.has_variable_length or part.has_variable_length,
            )
        return whole

    @staticmethod
    def choose(parts: Sequence[_Part]) -> _Part:
        """Return the alternatives `parts`."""
        if len(parts) == 1:
            return parts[0]
        first = frozenset[int]().union(*(part.first for part in parts))
        if len(first) > MAX_ALTERNATIVES:
            raise TooComplex(f"has more than {MAX_ALTERNATIVES} alternatives at one place")
        return _Part(
            first,
            frozenset[int]().union(*(part.last for part in parts)),
            any(part.is_nullable for part in parts),
            max(part.repetitions for part in parts),
            has_variable_length=True,
        )

    def repeat(self, part: _Part, low: int, high: int | None) -> _Part:
        """Return `part` repeated `low` to `high` times, None for no limit."""
        count = max(low, 1 if high is None else high)
        repetitions = part.repetitions * max(1, count)
        if repetitions > MAX_REPETITIONS:
            raise TooComplex(f"repeats a part more than {MAX_REPETITIONS} times")
        if part.has_variable_length and count > 1 and repetitions > MAX_NESTED_REPETITIONS:
            raise TooComplex(
                f"has repetitions inside repetitions that multiply to more than {MAX_NESTED_REPETITIONS}"
            )
        if part.is_nullable and part.first and count > MAX_NULLABLE_REPETITIONS:
            raise TooComplex(f"repeats a part that may be empty more than {MAX_NULLABLE_REPETITIONS} times")
        if count > 1:
            self.copies += repetitions
            if self.copies > MAX_COPIES:
                raise TooComplex(f"has repetition counts above {MAX_COPIES} together")
        if high == 0:
            return _Part()
        if high is None or high > 1:
            self.connect(part.last, part.first)
        if high != low and count > 1:
            for position in part.last:
                self.weights[position] *= count
        return _Part(
            part.first,
            part.last,
            part.is_nullable or low == 0,
            repetitions,
            part.has_variable_length or high != low,
        )

    def count_ways(self) -> int:
        """Return in how many ways a token can be read; raises `TooComplex` if there are more than `MAX_WAYS`.

        The text is chosen character by character, each the one with the most ways.
        """
        self._skip_joints()
        most = 1
        masks = _character_masks(self.chars)
        classes = [1 << bit for bit in range(max(masks, default=0).bit_length())]
        for chars in classes:
            ways = {at: weight for at, weight in enumerate(self.weights) if masks[at] & chars}
            if all(len(self.following[at] & ways.keys()) <= 1 for at in ways):
                # Every place has one successor: however many there are, they do not multiply.
                continue
            for _ in range(WINDOW_CHARS):
                ways = self._read_worst_char(ways, masks, classes)
                if sum(ways.values()) > MAX_WAYS:
                    raise TooComplex("can read the same text in too many ways: it has too many repetitions")
            most = max(most, sum(ways.values()))
        return most

    def _skip_joints(self) -> None:
        """Connect what a joint connects; only recursive rules have joints."""
        joints = {position for position, chars in enumerate(self.chars) if not chars}
        if not joints:
            return
        for position, following in enumerate(self.following):
            pending, reached = list(following), set(following)
            while pending:
                at = pending.pop()
                if at in joints:
                    new = self.following[at] - reached
                    reached |= new
                    pending += new
            self.following[position] = reached
            self.transition_count += len(reached) - len(following)
            if self.transition_count > MAX_TRANSITIONS:
                raise TooComplex("has too many parts that may follow each other")

    def _read_worst_char(
        self, ways: Mapping[int, int], masks: Sequence[int], classes: Sequence[int]
    ) -> dict[int, int]:
        after: dict[int, int] = {}
        for position, count in ways.items():
            for following in self.following[position]:
                after[following] = after.get(following, 0) + count
        readings = (
            {position: count for position, count in after.items() if masks[position] & chars}
            for chars in classes
        )
        return max(readings, key=lambda reading: sum(reading.values()), default={})

    def connect(self, last: frozenset[int], first: frozenset[int]) -> None:
        for position in last:
            following = self.following[position]
            before = len(following)
            following |= first
            self.transition_count += len(following) - before
        if self.transition_count > MAX_TRANSITIONS:
            raise TooComplex("has too many parts that may follow each other")


def _character_masks(char_sets: Sequence[CharSet]) -> list[int]:
    """Return for each set a mask: one bit for each class of characters that some set separates."""
    distinct = dict.fromkeys(char_sets)
    examples = sorted({code for chars in distinct for low, high in chars for code in (low, high + 1)})
    columns: dict[tuple[bool, ...], None] = {}
    for code in examples:
        column = tuple(any(low <= code <= high for low, high in chars) for chars in distinct)
        if any(column):
            columns[column] = None
    masks = {
        chars: sum(1 << bit for bit, column in enumerate(columns) if column[at])
        for at, chars in enumerate(distinct)
    }
    return [masks[chars] for chars in char_sets]


def _char(text: str) -> CharSet:
    return ((ord(text), ord(text)),)


def _complement(chars: CharSet) -> CharSet:
    ranges: list[tuple[int, int]] = []
    at = 0
    for low, high in sorted(chars):
        if low > at:
            ranges.append((at, low - 1))
        at = max(at, high + 1)
    return (*ranges, (at, _LAST_CHAR)) if at <= _LAST_CHAR else tuple(ranges)


# --- readers -----------------------------------------------------------------------------------------

_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_SETS_OF_SHORTHANDS: Mapping[str, CharSet] = {
    "d": ((0x30, 0x39),),
    "w": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "s": ((0x09, 0x0D), (0x20, 0x20)),
}
_SHORTHANDS = {
    **_SETS_OF_SHORTHANDS,
    **{name.upper(): _complement(chars) for name, chars in _SETS_OF_SHORTHANDS.items()},
}


class _Reader:
    """Base of the readers of regular expressions and GBNF."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.automaton = _Automaton()

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        self.at += 1
        return char

    def open_group(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooComplex(f"has groups nested more than {MAX_DEPTH} deep")

    def read_repetition(self, part: _Part) -> _Part:
        """Read the quantifiers that follow `part`."""
        while self.peek() and self.peek() in "*+?{":
            match self.take():
                case "*":
                    part = self.automaton.repeat(part, 0, None)
                case "+":
                    part = self.automaton.repeat(part, 1, None)
                case "?":
                    part = self.automaton.repeat(part, 0, 1)
                case _:
                    part = self.automaton.repeat(part, *self._read_counts())
        return part

    def _read_counts(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at : end].partition(",")
        self.at = end + 1
        low, high = low.strip(), high.strip()
        if end < 0 or not all(digits.isascii() and digits.isdigit() for digits in (low, high) if digits):
            raise TooComplex("has a repetition count that is no number")
        if max(len(low), len(high)) > 9:
            raise TooComplex(f"repeats a part more than {MAX_REPETITIONS} times")
        first = int(low or "0")
        return first, (int(high) if high else None) if comma else first

    def read_set(self) -> CharSet:
        """Read a set of characters up to its `]`."""
        is_negated = self.peek() == "^"
        self.at += is_negated
        ranges: list[tuple[int, int]] = []
        while self.peek() != "]":
            if (shorthand := self.read_shorthand()) is not None:
                ranges += shorthand
                continue
            low = self.read_char()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                ranges.append((ord(low), ord(self.read_char())))
            else:
                ranges.append((ord(low), ord(low)))
        self.at += 1
        return _complement(tuple(ranges)) if is_negated else tuple(ranges)

    def read_shorthand(self) -> CharSet | None:
        """Read the shorthand of a set, such as `\\d`; None if there is none."""
        return None

    def read_char(self) -> str:
        raise NotImplementedError

    def read_escape(self) -> str:
        """Read what follows a backslash, as GBNF does."""
        char = self.take()
        if (count := _HEX_DIGITS.get(char)) is None:
            return _ESCAPES.get(char, char)
        digits = self.text[self.at : self.at + count]
        self.at += count
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise TooComplex("has an invalid escape") from None


class _PatternReader(_Reader):
    """Reads the regular expressions of JSON schemas as llama.cpp does."""

    def read(self) -> _Part:
        part = self._read_alternatives()
        if self.peek():
            raise TooComplex("has an unbalanced parenthesis")
        return part

    def _read_alternatives(self) -> _Part:
        alternatives: list[_Part] = []
        sequence: list[_Part] = []
        while (char := self.peek()) and char != ")":
            if char == "|":
                self.at += 1
                alternatives.append(self.automaton.join(sequence))
                sequence = []
            else:
                sequence.append(self.read_repetition(self._read_atom()))
        return self.automaton.choose([*alternatives, self.automaton.join(sequence)])

    def _read_atom(self) -> _Part:
        match char := self.take():
            case "(":
                return self._read_group()
            case "[":
                return self.automaton.add_char(self.read_set())
            case ".":
                return self.automaton.add_char(_ANY)
            case "*" | "+" | "?" | "{":
                # llama.cpp reads past the beginning of a list here.
                raise TooComplex("has a repetition of nothing")
            case "\\":
                # A class such as \d, or a character. Which one makes no difference for the bound.
                escaped = self.take()
                return self.automaton.add_char(_ANY if escaped.isalnum() else _char(escaped or char))
            case _:
                return self.automaton.add_char(_char(char))

    def _read_group(self) -> _Part:
        self.open_group()
        if self.peek() == "?":
            if self.text[self.at : self.at + 2] != "?:":
                # llama.cpp leaves out what looks ahead or behind.
                self._skip_group()
                return _Part()
            self.at += 2
        part = self._read_alternatives()
        if self.take() != ")":
            raise TooComplex("has an unbalanced parenthesis")
        self.depth -= 1
        return part

    def _skip_group(self) -> None:
        depth = 1
        while depth:
            match self.take():
                case "\\":
                    self.at += 1
                case "(":
                    depth += 1
                case ")":
                    depth -= 1
                case "":
                    raise TooComplex("has an unbalanced parenthesis")
        self.depth -= 1

    def read_shorthand(self) -> CharSet | None:
        chars = _SHORTHANDS.get(self.text[self.at + 1 : self.at + 2]) if self.peek() == "\\" else None
        self.at += 2 if chars else 0
        return chars

    def read_char(self) -> str:
        char = self.take()
        if char == "\\":
            # llama.cpp copies a set into its grammar as it is.
            char = self.read_escape()
        if not char:
            raise TooComplex("has an unbalanced bracket")
        return char


# --- GBNF ------------------------------------------------------------------------------------------------

_RULE = re.compile(r"^[ \t]*([A-Za-z0-9-]+)[ \t]*::=", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9-]+")


class _GrammarReader(_Reader):
    """Reads GBNF. A rule is read again at each place that refers to it, a recursive one once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._rules: dict[str, int] = {}
        for match in _RULE.finditer(text):
            # llama.cpp takes the last one. Here it could be a text within quotes that looks like a rule.
            if match[1] in self._rules:
                raise TooComplex(f"defines '{match[1][:40]}' more than once")
            self._rules[match[1]] = match.end()
        # Joints at the beginning and the end of the rules that are being read, and whether they are used.
        self._open_rules: dict[str, _Part | None] = {}

    def read(self) -> _Part:
        if "root" not in self._rules:
            raise TooComplex("has no rule 'root'")
        return self._read_rule("root")

    def _read_rule(self, name: str) -> _Part:
        if name not in self._rules:
            raise TooComplex(f"refers to '{name[:40]}', which it does not define")
        if name in self._open_rules:
            joints = self._open_rules[name]
            if joints is None:
                begin, end = self.automaton.add_char(()), self.automaton.add_char(())
                joints = self._open_rules[name] = _Part(begin.first, end.last, is_nullable=False)
            return joints
        self._open_rules[name] = None
        self.open_group()
        return_to, self.at = self.at, self._rules[name]
        # A rule may begin in the next line.
        self._skip_space(within_group=True)
        part = self._read_alternatives(end="")
        self.at = return_to
        self.depth -= 1
        joints = self._open_rules.pop(name)
        if joints is None:
            return part
        self.automaton.connect(joints.first, part.first)
        self.automaton.connect(part.last, joints.last)
        if part.is_nullable:
            self.automaton.connect(joints.first, joints.last)
        return _Part(joints.first, joints.last, part.is_nullable, part.repetitions, has_variable_length=True)

    def _read_alternatives(self, *, end: str) -> _Part:
        """Read up to `end`, the closing parenthesis or nothing for the end of a rule."""
        alternatives: list[_Part] = []
        sequence: list[_Part] = []
        while self._skip_space(within_group=bool(end)) and self.peek() != ")":
            if self.peek() == "|":
                self.at += 1
                # A rule may continue on the next line.
                self._skip_space(within_group=True)
                alternatives.append(self.automaton.join(sequence))
                sequence = []
                continue
            part = self._read_atom()
            self._skip_space(within_group=bool(end))
            sequence.append(self.read_repetition(part))
        if self.take() != end and end:
            raise TooComplex("has an unbalanced parenthesis")
        return self.automaton.choose([*alternatives, self.automaton.join(sequence)])

    def _skip_space(self, *, within_group: bool) -> bool:
        """Skip white space and comments; returns whether the rule continues."""
        while (char := self.peek()) and char in (" \t\r\n#" if within_group else " \t#"):
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                self.at += 1
        return bool(char) and char not in "\r\n"

    def _read_atom(self) -> _Part:
        char = self.peek()
        if (name := _NAME.match(self.text, self.at)) is not None:
            self.at = name.end()
            return self._read_rule(name[0])
        self.at += 1
        match char:
            case '"':
                return self.automaton.join(self._read_literal())
            case "[":
                return self.automaton.add_char(self.read_set())
            case ".":
                return self.automaton.add_char(_ANY)
            case "(":
                self.open_group()
                part = self._read_alternatives(end=")")
                self.depth -= 1
                return part
            case _:
                raise TooComplex(f"has an unexpected {char!r}")

    def _read_literal(self) -> Iterator[_Part]:
        while self.peek() != '"':
            yield self.automaton.add_char(_char(self.read_char()))
        self.at += 1

    def read_char(self) -> str:
        char = self.take()
        if char == "\\":
            char = self.read_escape()
        if not char:
            raise TooComplex("has an unbalanced quote or bracket")
        return char


# --- checks --------------------------------------------------------------------------------------------


def check_pattern(pattern: str) -> int:
    """Return in how many ways a regular expression of a JSON schema can read a token; raises `TooComplex`."""
    return measure_pattern(pattern)[0]


@lru_cache(maxsize=512)
def measure_pattern(pattern: str) -> tuple[int, int]:
    """Return the result of `check_pattern`, and the number of copies that repetition counts make."""
    if len(pattern) > MAX_PATTERN_CHARS:
        raise TooComplex(f"is longer than {MAX_PATTERN_CHARS} characters")
    has_begin = pattern.startswith("^")
    has_end = pattern.endswith("$") and len(pattern) > has_begin
    reader = _PatternReader(pattern[has_begin : len(pattern) - has_end])
    automaton = reader.automaton
    # What is not anchored may stand anywhere in the text.
    before, after = (
        _Part() if anchored else automaton.repeat(automaton.add_char(_ANY), 0, None)
        for anchored in (has_begin, has_end)
    )
    automaton.join((before, reader.read(), after))
    return automaton.count_ways(), automaton.copies


@lru_cache(maxsize=64)
def check_grammar(grammar: str) -> int:
    """Return in how many ways a GBNF grammar can read a token; raises `TooComplex`."""
    if len(grammar) > MAX_GRAMMAR_CHARS:
        raise TooComplex(f"is longer than {MAX_GRAMMAR_CHARS} characters")
    if grammar.lstrip().startswith("%"):
        raise TooComplex("is not in GBNF")
    grammar = grammar.replace("\r\n", "\n")
    if "\0" in grammar or "\r" in grammar:
        # The engine stops reading at the first, and begins a line at the second.
        raise TooComplex("has a NUL character, or a carriage return without a line feed")
    reader = _GrammarReader(grammar)
    reader.read()
    return reader.automaton.count_ways()
