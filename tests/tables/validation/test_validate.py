"""A table against whole networks on its device: the report, the timing, the command."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpnas.android_bench.device import Device, DeviceInfo
from bpnas.android_bench.errors import DeviceLostError
from bpnas.android_bench.measurement import Failure
from bpnas.base.errors import UsageError
from bpnas.profiler import Backbone, Records
from bpnas.profiler.campaign.records import Plan
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.cost import network_cost
from bpnas.profiler.models.graph import EXPORT_VERSION
from bpnas.profiler.networks import fold_of, parse_network, random_networks
from bpnas.profiler.paths import NetworkPart, select_paths
from bpnas.tables import LatencyTable, build_table
from bpnas.tables.additivity.accuracy import accuracy
from bpnas.tables.schema import write_table
from bpnas.tables.validation.time_networks import plan_networks, time_networks
from bpnas.tables.validation.validate import TimedNetwork, validate
from tests.known_truth import PATHS, Truth, known_backbone, known_plan, known_records
from tests.records_factory import device_info, failure, measurement, write_records

OPEN_DEVICE = importlib.import_module("bpnas.android_bench.opening")

TRUTH = Truth(path=1.07, join=0.7, constant_ms=0.05, noise=0.004)
BACKBONE = known_backbone()


def make_table(folder: Path, *sizes: int, networks: int = 0, **changes) -> Path:
    """A table file of the known device."""
    plan = known_plan(*sizes, networks=networks, export_version=EXPORT_VERSION, **changes)
    built = build_table([known_records(folder / "r.sqlite", TRUTH, plan)])
    write_table(folder / "t.parquet", built.table, built.meta)
    return folder / "t.parquet"


def networks_of(count: int, fold: str = "test") -> tuple[NetworkPart, ...]:
    return random_networks(BACKBONE, select_paths(PATHS), count, fold=fold)


# Accuracy


def test_accuracy_by_hand():
    found = accuracy([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.1, 2.8, 5.0, 4.9])
    errors = [0.0, 2 / 2.1 - 1, 3 / 2.8 - 1, -0.2, 5 / 4.9 - 1]  # 0, -4.8 %, +7.1 %, -20 %, +2.0 %
    assert (found.networks, found.within_5, found.within_10) == (5, 0.6, 0.8)
    assert found.mape == pytest.approx(sum(map(abs, errors)) / 5)
    assert found.bias == pytest.approx(sum(errors) / 5)
    assert found.spearman == pytest.approx(1 - 6 * 2 / (5 * 24))  # the last two change places
    assert found.kendall == pytest.approx((9 - 1) / 10)


def test_ranks_of_two_networks_or_of_equals_are_unknown():
    for values in ([1.0, 2.0], [1.0, 1.0, 1.0]):
        found = accuracy(values, values)
        assert (found.mape, found.spearman, found.kendall) == (0.0, None, None)
    with pytest.raises(ValueError, match="no network"):
        accuracy([], [])


# The report


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> LatencyTable:
    return LatencyTable.load(make_table(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> LatencyTable:
    return LatencyTable.load(make_table(tmp_path_factory.mktemp("fitted"), networks=20))


ERRORS = (-0.12, -0.06, -0.03, 0.0, 0.04)


def timed_with(table: LatencyTable, errors=ERRORS) -> list[TimedNetwork]:
    """Networks that the plain sum misses by just so much."""
    chosen = networks_of(len(errors))
    truths = [table.with_additivity("sum").network(n.blocks) / (1 + e) for n, e in zip(chosen, errors, strict=True)]
    return [TimedNetwork(n, (0.99 * ms, ms, 1.01 * ms)) for n, ms in zip(chosen, truths, strict=True)]


def test_the_report_of_five_networks_by_hand(plain):
    timed = timed_with(plain)
    report = validate(plain, timed)
    (size,) = report.sizes
    assert (size.input_size, size.networks) == (32, 5)
    found = {one.predictor: one for one in size.models}
    total = found["sum"].accuracy
    assert (total.within_5, total.within_10) == (0.6, 0.8)
    assert (total.mape, total.bias) == (pytest.approx(0.25 / 5), pytest.approx(-0.17 / 5))
    assert [miss.error for miss in found["sum"].worst] == pytest.approx([-0.12, -0.06, 0.04, -0.03, 0.0], abs=1e-9)
    assert found["sum"].worst[0].network == timed[0].network.key
    assert size.repeat_error == pytest.approx(0.01 / 0.995)  # of 1/99.5, 1/100.5 and 2/100: the middle one
    assert "12 whole networks, and 0 are there" not in str(found["sum"])
    assert found["sum+joins"].accuracy.bias > total.bias
    assert "no whole networks" in found["corrected"].unavailable and "context/" in found["context"].unavailable


def test_only_the_worst_five_are_named(plain):
    (size,) = validate(plain, timed_with(plain, (0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.07))).sizes
    worst = [miss.error for miss in size.models[0].worst]
    assert worst == pytest.approx([0.07, -0.06, 0.05, -0.04, 0.03])


def test_what_is_measured_twice_is_evaluated_like_a_prediction(plain):
    first, second, third = networks_of(3)
    timed = [
        TimedNetwork(first, (1.0, 1.04, 1.0, 1.04)),
        TimedNetwork(second, (2.2, 2.0, 2.0)),  # two sessions, 2.1 ms between them, against one
        TimedNetwork(third, (3.0, 4.0)),
    ]
    (size,) = validate(plain, timed).sizes
    assert size.repetition.accuracy == accuracy([1.0, 2.1, 3.0], [1.04, 2.0, 4.0])
    assert size.repetition.note == "half of the 2 to 4 sessions of each network against the other half"
    assert any(line.startswith("  A/A") for line in validate(plain, timed).to_text().splitlines())


def test_baselines_without_known_networks_are_scaled_by_the_others(plain):
    timed = timed_with(plain)
    (size,) = validate(plain, timed).sizes
    macs, parameters, nearest = size.baselines
    measured = [each.latency_ms for each in timed]
    for one, counts in (
        (macs, [network_cost(t.network.blocks, BACKBONE).macs for t in timed]),
        (parameters, [network_cost(t.network.blocks, BACKBONE).weights for t in timed]),
    ):
        ratios = np.array(measured) / counts
        expected = [np.median([*ratios[:n], *ratios[n + 1 :]]) * count for n, count in enumerate(counts)]
        assert one.accuracy == accuracy(expected, measured)
        assert one.note == "scale: median of the other networks here"
    assert nearest.accuracy is None and "no whole networks" in nearest.unavailable


def test_baselines_with_known_networks(fitted):
    timed = timed_with(fitted)
    (size,) = validate(fitted, timed).sizes
    macs, _, nearest = size.baselines
    known = fitted.networks(32)
    scale = np.median([ms / network_cost(n.blocks, BACKBONE).macs for n, ms in known])
    expected = [scale * network_cost(t.network.blocks, BACKBONE).macs for t in timed]
    assert macs.accuracy == accuracy(expected, [t.latency_ms for t in timed])
    assert "20 networks of the table" in macs.note and "20 networks of the table" in nearest.note
    known_ms = {ms for _, ms in known}
    assert {miss.predicted_ms for miss in nearest.worst} <= known_ms
    model, sites = fitted.with_additivity("sum"), BACKBONE.sites

    def distance(a, b):
        pairs = zip(a.blocks, b.blocks, sites, strict=True)
        return sum(((model.block(p, s) if p else 0) - (model.block(q, s) if q else 0)) ** 2 for p, q, s in pairs)

    for miss in nearest.worst:
        asked = next(t.network for t in timed if t.network.key == miss.network)
        assert miss.predicted_ms == min(known, key=lambda pair: distance(pair[0], asked))[1]


def test_one_network_and_one_session(plain):
    (size,) = validate(plain, [TimedNetwork(networks_of(1)[0], (2.0,))]).sizes
    assert size.repeat_error is None and size.models[0].accuracy.spearman is None
    assert "a single network" in size.baselines[0].unavailable


def test_networks_that_may_have_been_fitted_to_are_refused(plain):
    (network,) = networks_of(1, "fit")
    with pytest.raises(UsageError, match="may be fitted to"):
        validate(plain, [TimedNetwork(network, (1.0,))])
    with pytest.raises(UsageError, match="no network was timed"):
        validate(plain, [])


def test_text_and_json_say_the_same(fitted):
    report = validate(fitted, timed_with(fitted))
    text = report.to_text()
    assert "the table predicts with 'corrected'" in text and "Furthest off by 'corrected':" in text
    assert "  sum                60%         80%    5.0%   -3.4%" in text
    assert "Two sessions of one network differ by 1.0%" in text
    assert "MOCK" not in text and "MOCK" in replace(report, mock=True).to_text()
    assert json.loads(json.dumps(report.to_dict()))["sizes"][0]["models"][0]["accuracy"]["within_10"] == 0.8


@pytest.mark.parametrize("width", [80, 60])
def test_the_text_fits_a_terminal_with_all_its_figures(fitted, width):
    report = validate(fitted, timed_with(fitted))
    text = report.to_text(width)
    named = [line for line in text.splitlines() if "@" in line]  # a network's name is one word
    assert max(len(line) for line in text.splitlines() if line not in named) <= width
    assert " ".join(text.split()) == " ".join(report.to_text().split())


# Timing


class KnownDevice(Device):
    """Answers with the truth, a little off in every session; may be lost on the way, or refuse one network."""

    def __init__(self, truth: Truth = TRUTH, lost_after: int = 10**9, refused: str = "", **changes) -> None:
        self._info = device_info(**changes)
        self.asked: list[tuple[str, int]] = []
        self._truth, self._left, self._refused = truth, lost_after, refused

    @property
    def info(self) -> DeviceInfo:
        return self._info

    def conditions(self) -> dict:
        return {}

    def run(self, requests, settings) -> Iterator:
        for request in requests:
            if is_sentinel(request.key):
                yield measurement(request.key, request.session, samples_ns=(4_000_000,), repeats=4)
                continue
            self.asked.append((request.key, request.session))
            if self._left == 0:
                raise DeviceLostError("it went away")
            self._left -= 1
            if request.key == self._refused:
                yield failure(request.key, request.session)
                continue
            ms = self._truth.network_ms(parse_network(request.key, BACKBONES)) * (1 + 0.002 * request.session)
            yield measurement(request.key, request.session, samples_ns=(round(4e6 * ms),), repeats=4)

    def close(self) -> None:
        pass


BACKBONES = (known_backbone(32), known_backbone(64))
pytestmark = pytest.mark.usefixtures("fake_models")


def run(table: LatencyTable, device: Device, records: Path, **options):
    plan = plan_networks(table.meta, device, **{"networks": 6, "sessions": 2, **options})
    with Records.write(records) as store:
        return time_networks(device, store, plan)


def test_networks_are_timed_and_evaluated(tmp_path, fitted):
    device = KnownDevice()
    timed = run(fitted, device, tmp_path / "v.sqlite")
    assert timed.campaign.is_complete and len(device.asked) == 12
    assert {fold_of(key) for key, _ in device.asked} == {"test"}
    assert not {key for key, _ in device.asked} & {network.key for network, _ in fitted.networks(32)}
    for each in timed.networks:
        truth = TRUTH.network_ms(each.network)
        assert each.sessions_ms == pytest.approx((truth, 1.002 * truth), rel=1e-6)
    (size,) = validate(fitted, timed.networks).sizes
    found = {one.predictor: one.accuracy for one in size.models}
    assert found["corrected"].within_5 == 1.0 and found["corrected"].mape < 0.01
    assert found["sum"].bias < -0.05
    assert size.repeat_error == pytest.approx(0.002, rel=0.01)


def test_networks_are_summed_up_as_the_table_was(tmp_path, plain):
    """Twelve of sixty samples are quick."""
    device = KnownDevice()
    run_calmly = device.run

    def disturbed(requests, settings):
        for one in run_calmly(requests, settings):
            (quick,) = one.samples_ns
            yield replace(one, samples_ns=(quick,) * 12 + (quick * 3 // 2,) * 48)

    device.run = disturbed
    plan = plan_networks(plain.meta, device, networks=2, sessions=1)
    with Records.write(tmp_path / "v.sqlite") as store:
        for statistic, factor in (("median", 1.5), ("p10", 1.0)):
            for each in time_networks(device, store, plan, statistic=statistic, max_sessions=1).networks:
                assert each.latency_ms == pytest.approx(factor * TRUTH.network_ms(each.network), rel=1e-4)
    assert len(device.asked) == 2


def test_a_table_of_low_percentiles_says_so_wherever_it_is_evaluated(cli, here, known_device):
    assert cli("build-table", "r.sqlite", "--out", "t.parquet", "--statistic", "p10").exit_code == 0
    known_device(KnownDevice())
    done = cli("build-table", "validate", "t.parquet", "--serial", "local", "--networks", "2", "--sessions", "1")
    assert done.stdout.startswith("bench, tflite, p10 instead of medians; the table predicts with")
    assert json.loads(Path("t.validation.json").read_text())["statistic"] == "p10"
    assert "statistic p10 instead of medians" in cli("build-table", "show", "t.parquet").stdout


def test_what_was_timed_before_the_device_was_lost_is_kept(tmp_path, plain):
    first = KnownDevice(lost_after=5)
    with pytest.raises(DeviceLostError):
        run(plain, first, tmp_path / "v.sqlite")
    second = KnownDevice()
    timed = run(plain, second, tmp_path / "v.sqlite")
    assert len(second.asked) == 7 and not set(second.asked) & set(first.asked[:5])
    assert len(timed.networks) == 6


def test_a_network_that_fails_is_left_out(tmp_path, plain):
    refused = networks_of(6)[2].key
    timed = run(plain, KnownDevice(refused=refused), tmp_path / "v.sqlite")
    assert {each.network.key for each in timed.networks} == {n.key for n in networks_of(6)} - {refused}
    assert [f.key for f in timed.campaign.failures] == [refused] * 2 and isinstance(timed.campaign.failures[0], Failure)


def test_networks_are_made_of_paths_that_the_table_has_everywhere(tmp_path):
    plan = known_plan(export_version=EXPORT_VERSION)
    make = TRUTH.measure(plan)
    hole = f"K3E4G8@{BACKBONE.sites[2]}"
    write_records(tmp_path / "r.sqlite", plan, lambda key, s: None if key == hole else make(key, s))
    built = build_table([tmp_path / "r.sqlite"], allow_missing=True)
    planned = plan_networks(built.meta, KnownDevice(), networks=30, sessions=1)
    assert len(planned.paths.split(",")) == len(select_paths(PATHS)) - 1
    timed = run(LatencyTable(built.table, built.meta), KnownDevice(), tmp_path / "v.sqlite", networks=30, sessions=1)
    used = {path for each in timed.networks for block in each.network.blocks if block for path in block.paths}
    assert used == set(select_paths(PATHS)) - set(select_paths("K3E4G8"))


def test_seeds_and_sizes(tmp_path):
    table = LatencyTable.load(make_table(tmp_path, 32, 64))
    device = KnownDevice()
    both, one = (plan_networks(table.meta, device, networks=4, sessions=1, input_sizes=s) for s in ((), (64,)))
    assert [b.input_size for b in both.backbones] == [32, 64] and [b.input_size for b in one.backbones] == [64]
    other = plan_networks(table.meta, device, networks=4, sessions=1, seed=1)
    first, second = (run(table, device, tmp_path / f"{n}.sqlite", networks=4, seed=n) for n in (0, 1))
    assert other.test_seed == 1
    assert not {t.network.key for t in first.networks} & {t.network.key for t in second.networks}
    with pytest.raises(UsageError, match=r"--input-size 96: the table holds input sizes 32, 64"):
        plan_networks(table.meta, device, networks=4, sessions=1, input_sizes=(96,))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "Test Bench 2"}, "model: Test Bench 1 | Test Bench 2"),
        ({"os": "none 2"}, "os: none 1 | none 2"),
        ({"runtime_version": "tflite 3"}, "runtime_version: tflite 2 | tflite 3"),
        ({"affinity": "f0"}, "affinity:  | f0"),
    ],
)
def test_another_device_is_refused_with_what_differs(plain, changes, named):
    with pytest.raises(UsageError) as caught:
        plan_networks(plain.meta, KnownDevice(**changes), networks=1, sessions=1)
    assert named in str(caught.value) and "same device" in str(caught.value)


def test_models_of_another_version_are_refused(plain):
    meta = replace(plain.meta, export_version=EXPORT_VERSION + 1)
    with pytest.raises(UsageError, match=f"export_version: {EXPORT_VERSION + 1} | {EXPORT_VERSION}"):
        plan_networks(meta, KnownDevice(), networks=1, sessions=1)


def test_a_plan_of_test_networks_is_read_back(tmp_path, plain):
    plan = plan_networks(plain.meta, KnownDevice(), networks=3, sessions=2, seed=5)
    with Records.write(tmp_path / "v.sqlite") as records:
        records.add_plan(plan)
        assert records.plans() == (plan,)
        assert isinstance(plan, Plan) and plan.test_seed == 5


# The command


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path, networks=15)
    return tmp_path


@pytest.fixture
def known_device(monkeypatch):
    def use(device: Device) -> Device:
        monkeypatch.setattr(OPEN_DEVICE, "open_device", lambda serial, runtime, options: device)
        return device

    return use


def test_the_command_writes_a_report_and_resumes(cli, here, known_device):
    known_device(KnownDevice(lost_after=7))
    command = ("build-table", "validate", "t.parquet", "--serial", "local", "--networks", 5, "--sessions", "2")
    lost = cli(*map(str, command))
    assert lost.exit_code == 1 and "it went away" in lost.stderr
    assert Path("t.validation.sqlite").exists() and not Path("t.validation.json").exists()
    device = known_device(KnownDevice())
    done = cli(*map(str, command))
    assert done.exit_code == 0, done.stderr
    assert len(device.asked) == 3
    assert "5 networks that nothing was fitted to" in done.stdout and "Furthest off by 'corrected'" in done.stdout
    stored = json.loads(Path("t.validation.json").read_text())
    assert stored["default"] == "corrected" and stored["sizes"][0]["networks"] == 5
    assert (stored["sessions"], stored["seed"], stored["failures"], stored["mock"]) == (2, 0, [], False)
    again = cli(*map(str, command), "--json")
    assert json.loads(again.stdout) == stored | {"out": "t.validation.json"}
    # The records of a validation are next to those of the table, and do not get into it.
    assert cli("build-table", "--out", "again.parquet").exit_code == 0
    assert LatencyTable.load("again.parquet").meta == LatencyTable.load("t.parquet").meta


def test_failures_are_reported_and_make_an_exit_code(cli, here, known_device):
    known_device(KnownDevice(refused=networks_of(3)[0].key))
    done = cli("build-table", "validate", "t.parquet", "--serial", "local", "--networks", "3", "--sessions", "1")
    assert done.exit_code == 1
    assert "2 networks that nothing" in done.stdout and "1 model failed" in done.stderr
    assert json.loads(Path("t.validation.json").read_text())["failures"][0]["kind"] == "crash"
    known_device(KnownDevice(refused=networks_of(1)[0].key))
    Path("t.validation.json").unlink()
    done = cli("build-table", "validate", "t.parquet", "--serial", "local", "--networks", "1", "--records", "w.sqlite")
    assert done.exit_code == 1 and "3 models failed" in done.stderr and not Path("t.validation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.parquet", "--serial", "local"], 1, "none.parquet: the table cannot be read"),
        (["t.parquet", "--serial", "mock:s9"], 2, "was measured on Test Bench 1, which mock:s9"),
        (["t.parquet", "--serial", "local", "--input-size", "7"], 2, "--input-size 7: the table holds input sizes 32"),
        (["t.parquet", "--serial", "local", "--networks", "0"], 2, "--networks"),
        (["t.parquet", "--serial", "local", "--out", "no/v.json"], 2, "does not exist"),
        (["t.parquet", "--serial", "local", "--records", "t.parquet"], 1, "t.parquet"),
        (["t.parquet", "--serial", "local", "--max-sessions", "2"], 2, "--max-sessions 2 is less than --sessions 3"),
        (["t.parquet", "--serial", "local", "--max-temperature", "-1"], 2, "--max-temperature"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(cli, here, known_device, arguments, code, message):
    device = known_device(KnownDevice())
    done = cli("build-table", "validate", *arguments)
    assert done.exit_code == code, done.output
    assert message in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert not device.asked and not Path("t.validation.json").exists()


def test_a_table_of_a_mock_wants_that_mock(cli, here, tmp_path):
    (tmp_path / "m").mkdir()
    make_table(tmp_path / "m", mock=True)
    done = cli("build-table", "validate", "m/t.parquet", "--serial", "local")
    assert done.exit_code == 2 and "--serial mock:bench" in done.stderr


def test_end_to_end_on_the_mock(cli, tmp_path, monkeypatch, real_models):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(
        'name = "small"\n'
        "stages = [{ channels = 8, blocks = 2, stride = 2 }, { channels = 16, blocks = 2, stride = 2 }]\n"
        "[stem]\nchannels = 8\n[head]\nchannels = 16\n"
    )
    profile = ("--backbone", "small.toml", "--input-size", "32", "--paths", "K1G1,K3G1,K[37]E2G1", "--context")
    done = cli("profile-device", "--serial", "mock:s9", *profile, "--networks", "13")
    assert done.exit_code == 0, done.stderr
    assert cli("build-table").exit_code == 0
    table = LatencyTable.load("s9.parquet")
    assert [b.name for b in table.meta.backbones] == ["small"] and isinstance(table.backbone(), Backbone)
    done = cli("build-table", "validate", "s9.parquet", "--networks", "5", "--sessions", "2")
    assert done.exit_code == 0, done.stderr
    assert "MOCK: computed, not measured" in done.stdout
    (size,) = json.loads(Path("s9.validation.json").read_text())["sizes"]
    found = {one["predictor"]: one["accuracy"] for one in size["models"]}
    # What the mock computes is a sum over operators: all is said once the additions are counted.
    assert found["sum"]["bias"] < -0.02
    assert all(found[name]["within_5"] == 1.0 for name in ("sum+joins", "context", "corrected"))
    assert 0 < size["repeat_error"] < 0.02
