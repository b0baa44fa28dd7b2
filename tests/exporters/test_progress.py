import io
import sys
from contextlib import redirect_stderr

import pytest

from opscope.exporters import progress
from opscope.exporters.progress import LONG, waiting
from opscope.waiting import untracked


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by so many seconds each time it is looked at."""
    clock = {"now": 0.0, "step": 0.0}

    def look():
        clock["now"] += clock["step"]
        return clock["now"]

    monkeypatch.setattr(progress, "monotonic", look)
    return clock


def is_clear(terminal):
    """Whether the last line was taken away, and nothing but moves of the cursor came after it."""
    _, cleared, after = terminal.getvalue().rpartition("\x1b[2K")
    return bool(cleared) and not after.replace("\x1b[?25h", "").strip()


def test_a_long_wait_at_a_terminal_is_shown(terminal, clock):
    clock["step"] = LONG / 10
    with redirect_stderr(terminal), waiting("counting") as track:
        assert list(track(range(20))) == list(range(20))

    assert "counting" in terminal.getvalue()
    assert "/20" in terminal.getvalue()


def test_what_was_shown_is_taken_away_when_the_wait_is_over(terminal, clock):
    clock["step"] = LONG / 10
    with redirect_stderr(terminal), waiting("counting") as track:
        list(track(range(20)))

    assert is_clear(terminal)


def test_what_was_shown_is_taken_away_when_the_wait_ends_in_an_error(terminal, clock):
    clock["step"] = LONG / 10
    with (
        redirect_stderr(terminal),
        pytest.raises(ZeroDivisionError),
        waiting("counting") as track,
    ):
        list(map((1).__truediv__, map((15).__sub__, track(range(20)))))

    assert "counting" in terminal.getvalue()
    assert is_clear(terminal)


def test_several_loops_are_shown_one_after_another(terminal, clock):
    clock["step"] = LONG / 10
    with redirect_stderr(terminal), waiting("counting") as track:
        assert [list(track(range(size))) for size in (20, 30)] == [[*range(20)], [*range(30)]]

    assert "/20" in terminal.getvalue()
    assert "/30" in terminal.getvalue()


def test_a_short_wait_shows_nothing(terminal, clock):
    clock["step"] = LONG / 100
    with redirect_stderr(terminal), waiting("counting") as track:
        assert list(track(range(60))) == list(range(60))

    assert terminal.getvalue() == ""


@pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "pipe"])
def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch, clock, stream):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with redirect_stderr(stream), waiting("counting") as track:
        assert track is untracked

    assert stream is None or stream.getvalue() == ""


def test_nothing_is_shown_where_stderr_is_closed():
    closed = io.StringIO()
    closed.close()
    with redirect_stderr(closed), waiting("counting") as track:
        assert track is untracked


def test_a_terminal_that_can_move_no_cursor_is_left_alone(terminal, clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    clock["step"] = LONG / 10
    with redirect_stderr(terminal), waiting("counting") as track:
        assert list(track(range(20))) == list(range(20))

    assert terminal.getvalue() == ""


def test_what_the_program_prints_goes_where_it_went_before(terminal, clock, capsys):
    out = sys.stdout
    clock["step"] = LONG / 10
    with redirect_stderr(terminal), waiting("counting") as track:
        assert all(sys.stdout is out and sys.stderr is terminal for _ in track(range(20)))
