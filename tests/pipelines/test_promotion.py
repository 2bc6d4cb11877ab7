"""Promotion and rollback on one machine: what they refuse, what they commit, and that a kill anywhere does no harm."""

import json
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import pytest
from dvc.repo import Repo

from assets.errors import ConfigError, DataError
from assets.folder_lock import folder_lock
from assets.manifest import verify_manifest, version_of
from pipelines.promotion.history import print_champions
from pipelines.promotion.plan import WORK
from pipelines.promotion.promote import promote
from pipelines.promotion.rollback import rollback
from tests.pipelines.registry_project import NAME, REPOSITORY, RUN, Project, make_project, promote_and_die, run

STEPS = ("planned", "placed", "added", "recorded", "committed", "registered", "tagged")
GTO = Path(sysconfig.get_path("scripts")) / "gto"


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("registry") / "project"
    project = make_project(root)
    project.train_text("one")
    project.decide()
    return root


@pytest.fixture(scope="session")
def promoted_template(template, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("promoted") / "project"
    shutil.copytree(template, root, symlinks=True)
    assert promote(root, NAME, None) is not None
    return root


@pytest.fixture
def project(template, tmp_path) -> Project:
    shutil.copytree(template, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def champion(promoted_template, tmp_path) -> Project:
    """A project with version 1."""
    run(tmp_path, "cp", "-a", str(promoted_template), "project")
    return Project(tmp_path / "project")


def refuses(project: Project, error: type[Exception], *words: str) -> None:
    before = project.state()
    with pytest.raises(error) as caught:
        promote(project.root, NAME, None)
    for word in words:
        assert word in str(caught.value)
    assert project.state() == before
    assert not (project.root / WORK / f"{NAME}.json").exists()
    assert project.history.champion is None


def test_the_first_champion_is_kept_by_dvc_recorded_committed_and_tagged(champion):
    history, entry = champion.history, champion.history.champion
    assert (entry.version, entry.tag, entry.published, entry.run) == (1, "champion@v1.0.0", None, RUN)
    assert entry.model == version_of(champion.folder) == version_of(champion.root / "models" / RUN)
    assert verify_manifest(champion.folder) == []
    assert entry.md5.endswith(".dir")
    assert entry.md5 in (champion.root / "models/champion.dvc").read_text()
    assert entry.files == sum(path.is_file() for path in champion.folder.rglob("*"))
    assert entry.size == sum(path.stat().st_size for path in champion.folder.rglob("*") if path.is_file())
    assert [(event.what, event.version, event.when) for event in history.events] == [("promoted", 1, entry.when)]
    commit = champion.git("rev-parse", "HEAD")
    assert entry.commit == champion.git("rev-parse", "HEAD~1")
    for tag in ("champion@v1.0.0", "champion#production#1"):
        assert champion.git("rev-parse", f"{tag}^{{commit}}") == commit
        assert champion.git("cat-file", "-t", tag) == "tag"
        assert "better by 2.0 points" in champion.git("tag", "-n9", "--list", tag)
    assert champion.git("status", "--porcelain") == ""


def test_the_champion_shares_its_bytes_with_the_cache_and_outlives_the_run(champion):
    weights = champion.folder / "tower/weights.bin"
    cached = [path for path in (champion.root / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert weights.stat().st_ino in {path.stat().st_ino for path in cached}
    before = weights.read_bytes()
    champion.train_text("something else")
    assert weights.read_bytes() == before


def test_promoting_again_changes_nothing_and_says_why(champion, capfd):
    before = champion.state()
    assert promote(champion.root, NAME, None) is None
    assert "is the champion already, version 1" in capfd.readouterr().err
    assert champion.state() == before


def test_a_worse_challenger_changes_nothing_and_the_reason_is_printed(champion, capfd):
    champion.train_text("two")
    champion.decide("keep", "worse by 3.0 points")
    before = champion.state()
    assert promote(champion.root, NAME, None) is None
    assert "worse by 3.0 points" in capfd.readouterr().err
    assert champion.state() == before
    assert version_of(champion.folder) == champion.history.champion.model


def test_only_our_paths_are_committed_and_what_else_is_staged_stays_staged(project):
    (project.root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (project.root / "batches").mkdir()
    (project.root / "batches/emoji.json").write_text("{}")
    (project.root / "notes.txt").write_text("mine")
    project.git("add", "notes.txt")
    promote(project.root, NAME, None)
    committed = set(project.git("show", "--name-only", "--format=", "HEAD").split())
    assert committed == {"dvc.lock", "batches/emoji.json", "champions/champion.json", "models/champion.dvc"}
    assert project.git("status", "--porcelain") == "A  notes.txt"


def test_no_decision_is_refused(project):
    shutil.rmtree(project.root / "reports")
    refuses(project, DataError, "does not exist", 'run "dvc repro challenge@champion"')


def test_a_decision_about_another_model_is_refused(project):
    project.train_text("trained since")
    refuses(project, DataError, "out of date", "another challenger", "dvc repro challenge@champion")


def test_a_decision_about_another_champion_is_refused(project):
    project.decide(champion={"version": 7, "run": RUN, "model": "0" * 16, "scores": {}})
    refuses(project, DataError, "out of date", "another champion", "0" * 16)


def test_a_damaged_model_is_refused(project):
    (project.root / "models" / RUN / "tower/weights.bin").write_bytes(b"half")
    refuses(project, DataError, "is damaged", "tower/weights.bin")


@pytest.mark.parametrize("name", ["code.py", "params.yaml"])
def test_uncommitted_code_and_parameters_are_refused(project, name):
    with (project.root / name).open("a") as stream:
        stream.write("# edited\n")
    refuses(project, DataError, f"not committed: {name}", "commit or stash")


def test_a_detached_head_is_refused(project):
    project.git("checkout", "-q", "--detach")
    refuses(project, ConfigError, "HEAD is detached", "git switch")


def test_a_nameless_committer_is_refused(project, monkeypatch):
    for variable in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(variable, "/dev/null")
    for variable in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(variable, raising=False)
    project.git("config", "--unset", "user.name")
    refuses(project, ConfigError, "git does not know who you are", "git config user.name")


def test_an_ignored_dvc_file_is_refused(project):
    (project.root / ".gitignore").write_text("/data\n/models\n/reports\nwork/*\n")
    project.git("commit", "-qam", "ignore all models")
    refuses(project, ConfigError, "git ignores models/champion.dvc", ".gitignore")


def test_a_tag_that_the_history_does_not_know_is_refused_and_not_moved(project):
    project.git("tag", "champion@v1.0.0")
    refuses(project, DataError, "the tag champion@v1.0.0 exists", "merge the branch")


def test_a_second_promotion_at_the_same_time_is_refused(project):
    with folder_lock(project.root / WORK, "test holds"):
        refuses(project, DataError, "another promotion or rollback works in")


def test_an_unknown_champion_is_refused(project):
    with pytest.raises(ConfigError, match="champoin"):
        promote(project.root, "champoin", None)


def test_dvc_sees_the_champions_of_this_repository(tmp_path):
    # DVC takes a folder for ignored when a pattern such as "/models/*" could mean the folder itself, and then forgets
    # the .dvc files in it: "dvc pull" would leave champions out, "dvc gc" would throw them away
    run(tmp_path, "git", "init", "-q")
    shutil.copy(REPOSITORY / ".gitignore", tmp_path)
    run(tmp_path, sys.executable, "-m", "dvc", "init", "-q")
    (tmp_path / "models").mkdir()
    text = f"outs:\n- md5: {'0' * 32}.dir\n  size: 1\n  nfiles: 1\n  hash: md5\n  path: champion\n"
    (tmp_path / "models/champion.dvc").write_text(text)
    run(tmp_path, "git", "add", "models/champion.dvc")
    found = [Path(stage.path).relative_to(tmp_path).as_posix() for stage in Repo(str(tmp_path)).index.stages]
    assert found == ["models/champion.dvc"]


@pytest.mark.slow
def test_killed_after_every_step_in_turn_the_same_command_completes_it(project):
    begin = project.git("rev-parse", "HEAD")
    for step in STEPS:
        assert promote_and_die(project, step, None) == -signal.SIGKILL, step
        tagged = "champion#production#1" in project.tags()
        assert not tagged or project.history.champion is not None, "a tag may not come before the record"
    (plan,) = (project.root / WORK).glob("*.json")
    planned = json.loads(plan.read_text())

    done = promote(project.root, NAME, None)

    assert done is not None
    history = project.history
    assert (done.version, len(history.versions), len(history.events)) == (1, 1, 1)
    assert history.champion.when == planned["when"]
    assert project.git("rev-list", "--count", f"{begin}..HEAD") == "1"
    assert sorted(project.tags()) == ["champion#production#1", "champion@v1.0.0"]
    assert version_of(project.folder) == history.champion.model
    assert project.git("status", "--porcelain") == ""
    assert not plan.exists()
    assert "up to date" in project.dvc("status", "models/champion.dvc")


def test_a_promotion_killed_before_it_began_is_given_up_when_the_model_is_another_one(project, capfd):
    assert promote_and_die(project, "planned", None) == -signal.SIGKILL
    model = project.train_text("trained since")
    project.decide()
    done = promote(project.root, NAME, None)
    assert "giving up the promotion" in capfd.readouterr().err
    assert (done.version, project.history.champion.model) == (1, model)


@pytest.mark.slow
def test_rollback_brings_back_the_bytes_bars_the_model_and_gto_agrees(champion, capfd):
    first = champion.history.champion
    bytes_before = (champion.folder / "tower/weights.bin").read_bytes()
    second = champion.train_text("two")
    champion.decide()
    assert promote(champion.root, NAME, None).version == 2
    assert champion.history.champion.model == second
    shown = json.loads(run(champion.root, str(GTO), "show", "--json"))["champion"]
    assert shown["stage"]["production"] == "v2.0.0"

    for step in STEPS[:1] + STEPS[2:5]:
        code = promote_and_die(champion, step, None, "rollback(root, NAME, None, store, die)")
        assert code == -signal.SIGKILL, step
    with pytest.raises(DataError, match="rollback of champion to version 1 was cut off"):
        promote(champion.root, NAME, None)
    done = rollback(champion.root, NAME, None, None)

    assert (done.version, done.tag, done.md5) == (1, "champion@v1.0.0", first.md5)
    assert (champion.folder / "tower/weights.bin").read_bytes() == bytes_before
    assert first.md5 in (champion.root / "models/champion.dvc").read_text()
    history = champion.history
    assert (history.current, history.barred) == (1, (second,))
    assert [event.what for event in history.events] == ["promoted", "promoted", "rolled_back"]
    assert champion.git("status", "--porcelain") == ""
    rows = json.loads(run(champion.root, str(GTO), "show", "champion", "--json"))
    assert sorted(row["version"] for row in rows) == ["v1.0.0", "v2.0.0"]
    shown = json.loads(run(champion.root, str(GTO), "show", "--json"))["champion"]
    assert (shown["version"], shown["stage"]["production"]) == ("v2.0.0", "v1.0.0")
    assert "up to date" in champion.dvc("status", "models/champion.dvc")

    capfd.readouterr()
    assert promote(champion.root, NAME, None) is None, "the old decision still says promote"
    assert "was rolled back" in capfd.readouterr().err
    print_champions(champion.root, NAME)
    printed = capfd.readouterr().out
    assert "barred" in printed
    assert "rolled back from version 2 to version 1" in printed

    assert rollback(champion.root, NAME, 2, None).version == 2
    assert champion.history.barred == (), "who goes forward again takes the rollback back"


def test_a_rollback_without_an_earlier_version_or_to_an_unknown_one_is_refused(champion):
    before = champion.state()
    with pytest.raises(DataError, match="no champion to roll back to"):
        rollback(champion.root, NAME, None, None)
    with pytest.raises(DataError, match="no such version, got 9, wanted 1"):
        rollback(champion.root, NAME, 9, None)
    with pytest.raises(DataError, match="is the champion already"):
        rollback(champion.root, NAME, 1, None)
    assert champion.state() == before


def test_a_rollback_to_bytes_that_nobody_has_changes_nothing(champion):
    history = json.loads((champion.root / "champions/champion.json").read_text())
    lost = {**history["versions"][0], "model": "0" * 16, "md5": f"{'0' * 32}.dir"}
    history |= {"versions": [lost, {**history["versions"][0], "version": 2}], "current": 2}
    (champion.root / "champions/champion.json").write_text(json.dumps(history))
    before = champion.state()
    with pytest.raises(DataError, match="version 1 of champion is not in the cache of this clone"):
        rollback(champion.root, NAME, None, None)
    assert champion.state() == before
    assert not (champion.root / WORK / f"{NAME}.json").exists()


def test_without_a_champion_there_is_nothing_to_roll_back(project, capsys):
    with pytest.raises(DataError, match="there is no champion"):
        rollback(project.root, NAME, None, None)
    print_champions(project.root, None)
    assert "no champions yet" in capsys.readouterr().out
