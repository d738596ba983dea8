"""What binds the directory of a study to its configuration."""

from bpnas.search.run_directory import Layout, Stage

STUDY_LAYOUT = Layout(("study",), (Stage(("searches.jsonl", "evaluations.jsonl", "study.csv")),))
