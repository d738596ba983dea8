from bpnas.base.plurals import counted, entries


def test_one_is_no_plural():
    assert [counted(count, "model") for count in (0, 1, 2, 1234)] == ["0 models", "1 model", "2 models", "1,234 models"]
    assert [entries(count) for count in (1, 6550)] == ["1 entry", "6,550 entries"]
    assert counted(1, "class", "classes") == "1 class"
