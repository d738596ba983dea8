"""What a running search shows."""

from bpnas.search.commands import display as display_module
from bpnas.search.commands.display import display


def run(progress):
    progress.stage("retraining", 3, 1)
    progress.within(0.25, "40 of 160 images")
    progress.step("epoch 2: loss 1.5")
    progress.note("done")


def test_lines_are_one_a_step_and_within_it_one_a_minute(capsys, monkeypatch):
    with display(mock=True) as progress:
        run(progress)
    steps = ["retraining [mock] 2/3: epoch 2: loss 1.5", "done [mock]"]
    assert capsys.readouterr().err.splitlines() == steps
    monkeypatch.setattr(display_module, "_LOG_SECONDS", 0)
    with display(mock=True) as progress:
        run(progress)
    assert capsys.readouterr().err.splitlines() == ["retraining [mock] 1.25/3: 40 of 160 images", *steps]


def test_a_bar_moves_within_a_step(capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", property(lambda console: True))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    moves = []
    monkeypatch.setattr("bpnas.base.live_bar.LiveBar.move", lambda bar, stage, done, title: moves.append((done, title)))
    with display(mock=True) as progress:
        progress.stage("retraining", 3, 1)
        for share in (0.25, 0.75):
            progress.within(share, "40 of 160 images")
        progress.step("epoch 2: loss 1.5")
    text = "retraining [mock]: 40 of 160 images"
    assert moves == [(1.25, text), (1.75, text), (2, "retraining [mock]")]
    shown = capsys.readouterr().err
    assert "epoch 2: loss 1.5" in shown and "1/3" in shown
