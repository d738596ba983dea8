"""A network is searched with the classes of its images, and its limit holds with the head that will be deployed."""

import json
import re
import shlex
import shutil

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.profiler.paths import HEAD_CLASSES
from bpnas.search import InfeasibleLimitError
from bpnas.search.networks.network_file import NetworkFile
from bpnas.search.search_plan import SearchRequest, plan_search
from bpnas.tables import LatencyTable
from tests.image_folders import write_imagenet
from tests.records_factory import backbone, make_plan
from tests.root import ROOT
from tests.table_factory import write

SIZE, OWN, DEPLOYED = 8, 10, 20
HEAD_MS = {10: 1.0, 100: 5.5, 1000: 10.0}
"""So that a head of 20 classes takes 1.5 ms."""

GIVEN = ("K1G1", "K3E2G1")
STAGE1 = "--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40".split()
STAGE2 = "--connection-epochs 2 --connection-images 40 --retrain-epochs 1 --retrain-images 40".split()


def head_row(row):
    classes = re.fullmatch(r"head@\d+-\d+-(\d+)x\d+", row["key"])
    if classes is None:
        return row
    ms = HEAD_MS[int(classes[1])]
    return row | {f"{name}_ms": ms for name in ("latency", "low", "high", "p10", "p90")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a table of the heads above."""
    plan = make_plan(backbone(SIZE), paths="K1G1,K3G1,K3E2G[12]", heads=HEAD_CLASSES, mock=True, name="s9")
    write(tmp_path / "t.parquet", plan, head_row)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def table(here):
    return LatencyTable.load(here / "t.parquet")


@pytest.fixture
def least_ms(table):
    """The fastest network of the given blocks, with its own head."""
    blocks = [Block.parse(text) for text in GIVEN]
    sites = backbone(SIZE).sites
    fastest = [None if site.is_residual else min(blocks, key=lambda b: table.block(b, site)) for site in sites]
    return table.network(fastest, SIZE, OWN)


def request(**values):
    blocks = tuple(map(Block.parse, GIVEN))
    return SearchRequest(**{"stage": "connections", "proposals": blocks, "input_size": SIZE, **values})


def search(cli, target_ms, *more):
    words = ["--table", "t.parquet", "--input-size", SIZE, "--proposals", ",".join(GIVEN), "--stage", "connections"]
    return cli("run-search", *words, "--target", target_ms, "--out", "run", *STAGE2, *more)


def test_a_target_below_what_the_deployed_head_leaves_is_refused(table, least_ms):
    target_ms = least_ms + 0.25  # the deployed head takes 0.5 ms more
    assert plan_search(request(target_ms=target_ms), table).deploy_classes is None
    for stage in ({}, {"stage": "all", "proposals": ()}):
        smallest = least_ms + 0.5 if not stage else None
        with pytest.raises(InfeasibleLimitError) as caught:
            plan_search(request(target_ms=least_ms if stage else target_ms, deploy_classes=DEPLOYED, **stage), table)
        assert smallest is None or caught.value.smallest_ms == pytest.approx(smallest)


def test_the_plan_says_which_head_is_meant(table, cli, least_ms):
    plan = plan_search(request(target_ms=least_ms + 9, deploy_classes=DEPLOYED), table)
    assert (plan.backbone.classes, plan.deployed.classes, plan.config(1, 1)["deploy_classes"]) == (10, 20, 20)
    same = plan_search(request(target_ms=least_ms + 9, deploy_classes=OWN), table)
    assert same.deploy_classes is None and same.config(1, 1)["deploy_classes"] is None
    with_stage_1 = plan_search(request(stage="all", proposals=(), target_ms=least_ms + 9, deploy_classes=1000), table)
    assert "ms at 8 px with a head of 1,000 classes correspond to at 8 px with a head of 10" in with_stage_1.limits_from
    assert "stage 1 with a head of 10 classes, of targets and stage 2 with a head of 1,000" in with_stage_1.heads
    one_head = plan_search(request(stage="all", proposals=(), target_ms=least_ms + 9), table)
    assert one_head.heads == "latencies with a head of 10 classes"
    done = search(cli, least_ms + 9, "--deploy-classes", DEPLOYED, "--plan")
    head = "with a head of 20 classes that is interpolated from 10 and 100, which will be deployed (trained with 10)"
    assert done.exit_code == 0 and head in done.stdout
    # The skips are as many as the deployed head takes.
    assert plan_search(request(target_ms=least_ms + 0.5, deploy_classes=DEPLOYED), table).forced_skips(
        least_ms + 0.5
    ) == len([site for site in plan.backbone.sites if site.is_residual])


def test_the_limit_holds_with_the_deployed_head_and_all_that_is_written_says_so(here, cli, table, least_ms):
    target_ms = least_ms + 0.6
    done = search(cli, target_ms, "--deploy-classes", DEPLOYED)
    assert done.exit_code == 0, done.stderr
    values, file = json.loads((here / "run/network.json").read_text()), NetworkFile.load(here / "run")
    own_ms, deployed_ms = (table.network(file.blocks, SIZE, classes) for classes in (OWN, DEPLOYED))
    assert values["backbone"]["classes"] == len(values["classes"]) == OWN
    assert values["predicted_latency_ms"] == own_ms and "head_interpolated_from" not in values
    assert (values["deploy_classes"], values["deployed_latency_ms"]) == (DEPLOYED, deployed_ms)
    assert values["deployed_head_interpolated_from"] == [10, 100]
    assert values["limit_ms"] == target_ms >= deployed_ms and values["within_limit"] is True
    connections = json.loads((here / "run/connections.json").read_text())
    assert connections["deploy_classes"] == DEPLOYED and connections["chosen"]["latency_ms"] == deployed_ms
    assert json.loads((here / "run/config.json").read_text())["deploy_classes"] == DEPLOYED
    assert f"{deployed_ms:.4g} ms by table (mock: computed, not measured) with a head of 20 classes" in done.stdout
    assert f"({own_ms:.4g} ms with a head of 10 classes, as it is now)" in done.stdout
    # Again, from what is there, for machines.
    again = json.loads(search(cli, target_ms, "--deploy-classes", DEPLOYED, "--json").stdout)["network"]
    assert (again["classes"], again["deploy_classes"], again["deployed_latency_ms"]) == (OWN, DEPLOYED, deployed_ms)
    assert again["predicted_latency_ms"] == own_ms and again["within_limit"] is True


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["--deploy-classes", "20"], [], "started with --deploy-classes 20, now it is nothing"),
        ([], ["--deploy-classes", "20"], "started with --deploy-classes nothing, now it is 20"),
        (["--deploy-classes", "20"], ["--deploy-classes", "100"], "--deploy-classes 20, now it is 100"),
    ],
)
def test_a_run_keeps_the_head_that_it_began_with(here, cli, least_ms, first, second, words):
    assert search(cli, least_ms + 6, *first).exit_code == 0
    done = search(cli, least_ms + 6, *second)
    assert done.exit_code == 1 and words in done.stderr and done.stderr.count("Error: ") == 1


def test_the_next_steps_train_and_time_it_with_that_head(here, cli, table, least_ms):
    done = search(cli, least_ms + 0.6, "--deploy-classes", DEPLOYED)
    found = [shlex.split(line) for line in re.findall(r"run-search (.+)$", done.stdout, re.MULTILINE)]
    retrain, measure = found[0], found[1]
    assert retrain[:4] == ["retrain", "run", "--data", "folder:IMAGES"] and measure == ["measure", "run-retrained"]
    assert "--retrain-epochs" in retrain and "--connection-epochs" not in retrain
    own = NetworkFile.load("run")

    # As it is, it is timed with its own head, and the limit is told apart.
    timed = cli("run-search", "measure", "run", "--sessions", "1", "--runs", "3", "--seconds", "0")
    assert timed.exit_code == 0, timed.stderr
    assert f"predicts {own.predicted_latency_ms:.4g} ms" in timed.stdout and "above the limit" not in timed.stdout
    assert "The prediction is with a head of 10 classes\n" in timed.stdout
    assert f"By table it takes {own.deployed_latency_ms:.4g} ms with a head of 20 classes" in timed.stdout

    # No table is needed, as the search knew that head.
    write_imagenet(here / "IMAGES", classes=DEPLOYED, train=2)
    retrain[retrain.index("folder:IMAGES")] = "imagenet:IMAGES"
    done = cli("run-search", *retrain)
    assert done.exit_code == 0, done.stderr
    new = NetworkFile.load("run-retrained")
    assert new.backbone.classes == DEPLOYED and new.deploy_classes is None
    assert new.predicted_latency_ms == own.deployed_latency_ms and new.values["within_limit"] is True
    assert new.values["head_interpolated_from"] == [10, 100] and "deployed_latency_ms" not in new.values
    assert "with a head of 20 classes that is interpolated from 10 and 100" in done.stdout
    answer = json.loads(
        cli("run-search", *measure, "--sessions", "1", "--runs", "3", "--seconds", "0", "--json").stdout
    )
    assert answer["classes"] == DEPLOYED and answer["head_interpolated_from"] == [10, 100]


def test_trained_again_on_its_own_images_it_is_still_for_the_deployed_head(here, cli, least_ms):
    search(cli, least_ms + 0.6, "--deploy-classes", DEPLOYED)
    for more in ([], ["--table", "t.parquet", "--out", "with-table"]):
        done = cli("run-search", "retrain", "run", "--retrain-epochs", "1", "--retrain-images", "40", *more, "--json")
        assert done.exit_code == 0, done.stderr
        facts = json.loads(done.stdout)
        new, old = NetworkFile.load(facts["out"]), NetworkFile.load("run")
        assert facts["deploy_classes"] == new.deploy_classes == DEPLOYED and facts["within_limit"] is True
        assert new.deployed_latency_ms == old.deployed_latency_ms == facts["deployed_latency_ms"]
        assert new.predicted_latency_ms == old.predicted_latency_ms


def test_with_other_classes_than_those_the_limit_is_checked(here, cli, table, least_ms):
    search(cli, least_ms + 0.6, "--deploy-classes", DEPLOYED)
    write_imagenet(here / "IMAGES", classes=25, train=2)  # 0.75 ms more than its own head
    call = ("run-search", "retrain", "run", "--data", "imagenet:IMAGES")
    done = cli(*call)
    assert (
        done.exit_code == 2 and "searched for 10 classes, to be deployed with 20, and the images have 25" in done.stderr
    )
    done = cli(*call, "--table", "t.parquet")
    assert done.exit_code == 2 and "--deploy-classes 25" in done.stderr and "a head of 25 classes takes" in done.stderr


def test_a_run_of_an_earlier_bpnas_is_as_it_was_searched(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(shutil.copytree(ROOT / "tests/earlier", tmp_path / "earlier"))
    old = NetworkFile.load("finished")
    assert old.deploy_classes is None and old.limited_ms == old.predicted_latency_ms
    micro = "--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40 --connection-epochs 2 "
    micro += "--connection-images 40 --retrain-epochs 2 --retrain-images 40 --out finished"
    again = ("run-search", "--table", "table.parquet", *micro.split())
    assert cli(*again).exit_code == 0
    assert cli(*again, "--deploy-classes", "10").exit_code == 0  # the same head


@pytest.mark.parametrize("classes", [0, 1, -5, 1_000_001])
def test_a_head_that_cannot_be_is_refused(table, cli, classes):
    with pytest.raises(UsageError, match="--deploy-classes must be from 2 to 1,000,000"):
        plan_search(request(deploy_classes=classes), table)
    done = search(cli, 9, "--deploy-classes", classes)
    assert done.exit_code == 2 and "--deploy-classes" in done.stderr


def test_several_targets_all_hold_with_that_head(here, cli, table, least_ms):
    targets = f"{least_ms + 0.6},{least_ms + 0.8},{least_ms + 2}"
    words = ["--table", "t.parquet", "--input-size", SIZE, "--proposals", ",".join(GIVEN), "--stage", "connections"]
    done = cli("run-search", *words, "--targets", targets, "--deploy-classes", DEPLOYED, "--json", *STAGE2)
    assert done.exit_code == 0, done.stderr
    networks = json.loads(done.stdout)["networks"]
    assert len(networks) == 3
    for each in networks:
        assert each["deployed_latency_ms"] <= each["target_ms"] and each["deploy_classes"] == DEPLOYED
        assert each["deployed_latency_ms"] == pytest.approx(each["predicted_latency_ms"] + 0.5)


def test_without_a_target_it_is_that_of_the_middle_proposal_with_that_head(here, cli, table):
    words = ["--table", "t.parquet", "--input-size", SIZE, *STAGE1, *STAGE2, "--deploy-classes", DEPLOYED, "--json"]
    done = cli("run-search", *words)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    middle = found["proposals"][len(found["proposals"]) // 2]
    assert found["network"]["target_ms"] == pytest.approx(middle["latency_ms"] + 0.5)
    assert found["proposals_classes"] == OWN and found["network"]["within_limit"] is True


def test_a_damaged_head_is_named(here, cli, least_ms):
    search(cli, least_ms + 0.6, "--deploy-classes", DEPLOYED)
    for change, words in (
        ({"deploy_classes": -1}, "'deploy_classes' must be a whole number"),
        ({"deployed_latency_ms": None}, "'deployed_latency_ms'"),
        ({"deployed_head_interpolated_from": "x"}, "'deployed_head_interpolated_from'"),
    ):
        values = json.loads((here / "run/network.json").read_text()) | change
        (here / "bad").mkdir(exist_ok=True)
        for seal in ("format", "file_sha256"):
            values.pop(seal, None)
        (here / "bad/network.json").write_text(json.dumps(values))
        done = cli("run-search", "measure", "bad")
        assert done.exit_code == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_the_papers_next_step_needs_no_folder_of_the_users(here, cli):
    from types import SimpleNamespace

    from bpnas.search.commands.search_text import following_lines
    from bpnas.search.run import SearchResult

    network = SimpleNamespace(deploy_classes=1000)
    result = SearchResult(here / "out", True, "s9", "tflite", (), network, (), "sum")
    first = following_lines("t.parquet", result, [], ["--data", "imagenet100@3:DIR"], (SIZE,), ["--preset", "paper"])[0]
    assert first.endswith(f"run-search retrain {here}/out --data imagenet:DIR --preset paper")
