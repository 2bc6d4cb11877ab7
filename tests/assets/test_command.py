import errno
import subprocess
import sys

import pytest

from assets.__main__ import main
from assets.command import guarded
from assets.config import SECTIONS
from assets.errors import ConfigError, DataError, StoreError


def raiser(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("error", [ConfigError("wrong key"), DataError("bad shard")])
def test_a_users_mistake_is_one_line_and_exit_code_two(capsys, error):
    assert guarded(raiser(error)) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_store_that_fails_has_an_exit_code_of_its_own_so_that_a_stage_can_be_tried_again(capsys):
    assert guarded(raiser(StoreError("no answer"))) == 4
    assert capsys.readouterr().err == "error: no answer\n"


def test_a_full_disk_is_explained(capsys):
    assert guarded(raiser(OSError(errno.ENOSPC, "No space left on device", "x.tar"))) == 3
    assert "no space left on the disk while writing x.tar" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_tells_how_to_go_on(capsys):
    assert guarded(raiser(KeyboardInterrupt())) == 130
    assert "run the same command again" in capsys.readouterr().err


def test_an_output_that_nobody_reads_any_more_ends_quietly():
    code = "from assets.command import guarded; raise SystemExit(guarded(lambda: print('line\\n' * 100_000)))"
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert command.stdout.readline() == "line\n"
    command.stdout.close()
    assert command.wait() == 141 and command.stderr.read() == ""


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(KeyError):
        guarded(raiser(KeyError("bug")))
    with pytest.raises(PermissionError):
        guarded(raiser(PermissionError(errno.EACCES, "denied")))


def test_success_is_zero():
    assert guarded(lambda: None) == 0


def test_an_unknown_data_set_is_named_with_the_nearest(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    sections = (name for name in SECTIONS if name != "datasets")
    params.write_text("\n".join([*(f"{name}: {{}}" for name in sections), "datasets: {emoji: {}}"]))
    assert main(["ingest", "--name", "emoij", "--params", str(params)]) == 2
    assert "did you mean 'emoji'?" in capsys.readouterr().err


def test_a_missing_params_file_is_named(tmp_path, capsys):
    assert main(["ingest", "--name", "emoji", "--params", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["ingest", "validate"])
def test_help_lists_the_paths_and_nothing_else(capsys, stage):
    with pytest.raises(SystemExit):
        main([stage, "--help"])
    text = capsys.readouterr().out
    assert "--name" in text
    assert "--params" in text
    assert "--out" in text
    assert text.count("\n  --") == {"ingest": 3, "validate": 7}[stage]
