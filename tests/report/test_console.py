"""Reports in a terminal and in a pipe."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from robustkit.report import EvasionReport, Flag, Report, show, words
from tests.report.examples import evasion, full, hostile


def shown(report: Report, *, width: int = 80, terminal: bool = False, encoding: str = "") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding or "utf-8", newline="\n")
    show(report, Console(file=stream, width=width, force_terminal=terminal or None))
    stream.flush()
    return raw.getvalue().decode(encoding or "utf-8")


def test_the_verdict_comes_first_with_its_interval_and_n() -> None:
    first, second = shown(evasion()).splitlines()[:2]
    assert first.split("  ") == [
        "Robust accuracy",
        "40.0 %",
        "95 % interval 16.8 to 68.7 %, n = 10",
    ]
    assert " ".join(second.split()) == "Clean accuracy 80.0 % 95 % interval 49.0 to 94.3 %"


def test_each_attack_has_a_row() -> None:
    lines = shown(evasion()).splitlines()
    rows = [line.split() for line in lines if line.startswith(("fgsm", "pgd"))]
    assert rows == [
        ["fgsm", "direct", "8", "1", "70.0", "%", "0", "8", "8", "0.1", "s"],
        ["pgd", "direct", "7", "3", "40.0", "%", "0", "1,216", "792", "12", "s"],
    ]


def test_what_was_not_run_stands_under_its_reason() -> None:
    text = shown(evasion())
    assert "square, cgba: not in plan" in text
    assert "step-ll: It pursues its own target." in text


def test_flags_controls_and_cost() -> None:
    lines = [line.strip() for line in shown(full()).splitlines()]
    assert "warn  few-examples  Only 10 examples were used." in lines
    assert any(line.startswith("undefended net: Robust accuracy 0.") for line in lines)
    assert lines[-1] == "1,234 forward and 800 backward passes (1,300 rows run) in 12 s"


def test_a_void_number_says_so_at_once() -> None:
    void = replace(evasion(), flags=(Flag(id="x", severity="void", message="Broken."),))
    assert shown(void).splitlines()[2].startswith("This number is not valid")


def test_attacks_with_nothing_to_try_are_counted_and_not_listed() -> None:
    report = evasion()
    idle = replace(report.attacks[0], name="idle-one", examples_in=0, broken=0, violations=0)
    text = shown(replace(report, attacks=(*report.attacks, idle, idle)))
    assert "idle-one" not in text
    assert "2 more had nothing left to try." in text
    assert "had nothing left" not in shown(report)


def test_a_worst_case_stands_though_the_direct_number_is_void() -> None:
    fooled = replace(evasion(), flags=(Flag(id="F2", severity="void", message="Fooled."),))
    assert "This number is not valid" not in shown(fooled)
    assert "Fooled." in shown(fooled)


def test_violations_show() -> None:
    row = replace(evasion().attacks[0], violations=2)
    assert "2" in shown(replace(evasion(), attacks=(row,))).split("fgsm")[1].splitlines()[0].split()


@pytest.mark.parametrize("make", [evasion, full, hostile])
@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_wider_than_the_terminal(make: Callable[[], EvasionReport], width: int) -> None:
    for line in shown(make(), width=width).splitlines():
        assert cell_len(line) <= width


def test_a_large_run_keeps_its_numbers_whole_at_80_columns() -> None:
    row = replace(
        evasion().attacks[1],
        name="autoattack:standard",
        through="surrogate:mean",
        examples_in=10_000,
        broken=4_321,
        forward=123_456_789,
        backward=12_345_678,
        seconds=36_000.0,
    )
    text = shown(replace(evasion(), attacks=(row,)))
    for figure in ("10,000", "4,321", "123.5 M", "12.35 M", "10.0 h"):
        assert figure in text


_TITLES = ["Attack", "Through", "In", "Broken", "Left", "Viol.", "Forward", "Backward", "Time"]


@pytest.mark.parametrize("width", [40, 60, 70])
def test_a_narrow_terminal_leaves_columns_out_and_cuts_no_number(width: int) -> None:
    row = replace(evasion().attacks[1], examples_in=12_345, broken=4_321, forward=987_654)
    lines = shown(replace(evasion(), attacks=(row,)), width=width).splitlines()
    (title,) = (line.split() for line in lines if line.startswith("Attack"))
    (numbers,) = (line.split() for line in lines if line.startswith("pgd"))
    whole = ["pgd", "direct", "12,345", "4,321", "0.0", "%", "0", "987,654", "792", "12", "s"]
    assert numbers == whole[: len(numbers)]
    assert title == _TITLES[: len(title)]
    assert len(title) >= 4


def test_attacks_of_one_name_are_told_apart_where_there_is_room() -> None:
    first, second = (replace(evasion().attacks[1], options=told) for told in _TWINS)
    report = replace(evasion(), attacks=(evasion().attacks[0], first, second))
    lines = shown(report).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("fgsm")] == ["direct"]
    assert [line.split()[1] for line in lines if line.startswith("pgd")] == ["loss=dlr", "loss=ce"]
    narrow = shown(report, width=40).splitlines()
    assert [line.split()[1] for line in narrow if line.startswith("pgd")] == ["direct", "direct"]


_TWINS: tuple[dict[str, str | int], ...] = ({"steps": 9, "loss": "dlr"}, {"steps": 9, "loss": "ce"})


def test_a_sweep_is_told() -> None:
    lines = [line.split() for line in shown(full()).splitlines()]
    place = lines.index(["Radius", "Robust"])
    assert lines[place + 2] == ["0.01", "70.0", "%"]


def test_the_worst_flags_come_first() -> None:
    given = [("a", "info"), ("b", "warn"), ("c", "void"), ("d", "unlisted"), ("e", "void")]
    flags = tuple(Flag(id=name, severity=word, message="m") for name, word in given)  # type: ignore[arg-type]
    assert "".join(flag.id for flag in words.worst_first(flags)) == "cedba"
    text = shown(replace(evasion(), flags=flags)).split("Flags")[1]
    assert [line.split()[1] for line in text.splitlines()[1:6]] == list("cedba")


class TestStrings:
    @pytest.mark.parametrize("terminal", [False, True])
    def test_nothing_in_a_report_steers_the_terminal(self, terminal: bool) -> None:
        text = shown(hostile(), terminal=terminal)
        for sequence in ("\x1b[31m", "\x1b]0;", "\x07", "\x9b", "\u202e"):
            assert sequence not in text

    def test_markup_is_printed_as_it_is(self) -> None:
        assert "[red]{{ 7*7 }}[/]" in shown(hostile())

    def test_a_pipe_gets_no_colours(self) -> None:
        assert "\x1b" not in shown(full())
        assert "\x1b" in shown(full(), terminal=True)

    def test_a_stream_that_cannot_hold_a_name(self) -> None:
        report = replace(evasion(), model=replace(evasion().model, spec="модель ≤ 1"))
        assert "модель ≤ 1" in shown(report)
        assert "\\u043c" in shown(report, encoding="ascii")


class TestWords:
    @pytest.mark.parametrize(
        ("time", "expected"),
        [
            (0.04, "0.0 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (150, "2 min 30 s"),
            (7260, "2 h 1 min"),
        ],
    )
    def test_seconds(self, time: float, expected: str) -> None:
        assert words.seconds(time) == expected

    @pytest.mark.parametrize(
        ("time", "expected"),
        [(9.96, "10 s"), (59.6, "1.0 min"), (3590, "59.8 min"), (36e3, "10.0 h")],
    )
    def test_brief(self, time: float, expected: str) -> None:
        assert words.brief(time) == expected

    @pytest.mark.parametrize(
        ("count", "expected"),
        [
            (0, "0"),
            (999_999, "999,999"),
            (10**6, "1 M"),
            (999_949_999, "999.9 M"),
            (10**10, "10 G"),
        ],
    )
    def test_compact(self, count: int, expected: str) -> None:
        assert words.compact(count) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(8 / 255, "8/255 (0.03137)"), (0.5, "0.5"), (12.0, "12"), (0.0, "0"), (1.0, "1")],
    )
    def test_number(self, value: float, expected: str) -> None:
        assert words.number(value) == expected

    def test_threats(self) -> None:
        facts = evasion().threat
        assert words.threat(facts) == (
            "White box: the adversary sees the whole model, gradients included. It may change "
            "every value by at most 8/255 (0.03137), within [0, 1]. It wins with any wrong answer."
        )
        limited = replace(facts, access="decision", queries=5000, poison_rate=0.01)
        assert "labels and nothing else" in words.threat(limited)
        assert "5,000 times per example" in words.threat(limited)
        assert "It may ask once per example." in words.threat(replace(limited, queries=1))
        assert "1.0 % of the training data." in words.threat(limited)

    def test_an_unknown_norm_is_no_template(self) -> None:
        allowed = evasion().threat.perturbation
        assert allowed is not None
        odd = replace(evasion().threat, perturbation=replace(allowed, norm="{radius.real}"))
        assert "{radius.real}" in words.threat(odd)

    def test_printable_leaves_ordinary_text_alone(self) -> None:
        text = "résumé  →  模型 ü"
        assert words.printable(text) == text
        assert words.printable("a\tb\r\nc\u2028d\x00\u200b") == "a b  c d\\x00\\u200b"
