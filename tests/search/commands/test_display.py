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
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    shown = []
    with display(mock=True) as progress:
        progress.stage("retraining", 3, 1)
        for share in (0.25, 0.75):
            progress.within(share, "40 of 160 images")
            task = progress._bar.tasks[0]
            shown.append((task.completed, task.description))
        progress.step("epoch 2: loss 1.5")
        shown.append((progress._bar.tasks[0].completed, progress._bar.tasks[0].description))
    text = "retraining [mock]: 40 of 160 images"
    assert shown == [(1.25, text), (1.75, text), (2, "retraining [mock]")]
    assert "epoch 2: loss 1.5" in capsys.readouterr().err
