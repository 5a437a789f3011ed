"""Looking at what is there: executions, artifacts, registries, adapters, plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from house.command import EntryMaker, Theory


def test_ls_lists_executions_with_ref_and_status(theory: Theory) -> None:
    done = theory.hello("--json").ok().line["execution_id"]
    listed = theory("ls").ok().stdout
    (line,) = [line for line in listed.splitlines() if done in line]
    assert "llm/litellm@1" in line
    assert "success" in line


def test_ls_in_an_empty_home_is_no_failure(theory: Theory) -> None:
    assert theory("ls").ok().stdout.count("\n") <= 1


def test_ls_of_a_prefix_lists_the_artifacts_below_it(theory: Theory) -> None:
    outputs = theory.hello("--json").ok().line["outputs"]
    listed = theory("ls", "/artifacts/outputs/").ok().stdout
    assert [output for output in outputs if f"{output['cid']}  {output['path']}\n" not in listed] == []
    assert theory("ls", "/artifacts/outputs/nothing/").ok().stdout == ""


def test_show_gives_the_envelope_of_an_execution(theory: Theory) -> None:
    envelope = theory.hello("--json").ok().line
    assert theory("show", envelope["execution_id"]).ok().json["envelope"] == envelope


def test_show_tells_of_a_failure_too(theory: Theory, entry: EntryMaker) -> None:
    root = entry("test/bad@1", "raise SystemExit(9)\n")
    failed = theory("run", "test/bad@1", "--adapter", "process", "--registry", root, "--json").line
    assert "ERR_PROCESSOR" in theory("show", failed["execution_id"]).ok().stdout


def test_cat_gives_the_bytes_of_an_artifact(theory: Theory) -> None:
    envelope = theory.hello("--json").ok().line
    assert len(theory("cat", envelope["outputs"][0]["path"]).ok().stdout.encode()) == 26


def test_get_copies_artifacts_to_a_folder(theory: Theory) -> None:
    envelope = theory.hello("--json").ok().line
    paths = [output["path"] for output in envelope["outputs"]]
    target = theory.cwd / "got"
    target.mkdir()
    theory("get", *paths, "--to", target).ok()
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == ["meta.json", "response.txt"]


def test_a_name_means_the_last_closed_execution(theory: Theory) -> None:
    run = ("run", "text/wordcount@1", "--adapter", "process", "--json", "--inputs-json")
    path = theory(*run, '{"text":"one"}').ok().line["outputs"][0]["path"]
    assert theory("cat", path).ok().json["words"] == 1
    theory(*run, '{"text":"one two"}').ok()
    assert theory("cat", path).ok().json["words"] == 2


def test_registry_ls_lists_every_published_ref(theory: Theory) -> None:
    listed = theory("registry", "ls").ok().stdout
    assert [ref for ref in ("data/profile@1", "llm/litellm@1", "text/wordcount@1") if ref not in listed] == []


def test_registry_show_tells_the_inputs_of_an_entry(theory: Theory) -> None:
    shown = theory("registry", "show", "llm/litellm@1").ok().stdout
    assert "messages" in shown


def test_registry_check_is_content_with_what_we_publish(theory: Theory) -> None:
    theory("registry", "check").ok()


FAULTY = {
    "a misspelt key": (
        '{"ref": "test/x@1", "description": "d", "image": {"oci": "a"}, "imputs": {}}',
        "imputs",
    ),
    "a duplicate key": ("ref: test/x@1\ndescription: d\nimage: {oci: a}\ndescription: e\n", "description"),
    "an alias": ("ref: test/x@1\ndescription: &d text\nimage: {oci: *d}\n", "alias"),
    "another ref than its path": ("ref: test/y@1\ndescription: d\nimage: {oci: a}\n", "test/y@1"),
}


@pytest.mark.parametrize(("text", "named"), FAULTY.values(), ids=FAULTY)
def test_registry_check_names_the_file_and_line_of_a_fault(theory: Theory, text: str, named: str) -> None:
    file = theory.cwd / "mine" / "test" / "x" / "1" / "processor.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    result = theory("registry", "check", "mine")
    assert result.code == 2
    told = result.stdout + result.stderr
    assert "test/x/1/processor.yaml:" in told
    assert named in told


def test_adapters_ls_lists_what_is_installed_and_imports_nothing(theory: Theory) -> None:
    listed = theory("adapters", "ls").ok().stdout
    assert "mock" in listed
    assert "process" in listed


def test_adapters_show_documents_each_option(theory: Theory) -> None:
    shown = theory("adapters", "show", "mock").ok().stdout
    assert "cost_micro_usd" in shown


def test_adapters_show_process_is_honest_about_isolation(theory: Theory) -> None:
    offers = theory("adapters", "show", "process").ok().stdout
    assert "isolat" in offers


def test_plugins_lists_every_distribution_as_whole(theory: Theory) -> None:
    listed = theory("plugins").ok().stdout
    ours = ("theory-adapter-mock", "theory-adapter-process", "theory-registry")
    assert [name for name in ours if name not in listed] == []
    assert "broken" not in listed


def test_the_version_is_told(theory: Theory) -> None:
    assert "0.1.0" in theory("--version").ok().stdout


def test_help_lists_every_command(theory: Theory) -> None:
    shown = theory("--help").ok().stdout
    commands = [
        "run",
        "ls",
        "show",
        "cat",
        "get",
        "plan",
        "registry",
        "adapters",
        "plugins",
        "config",
        "schema",
    ]
    assert [command for command in commands if f"\n  {command} " not in shown] == []


def test_config_tells_where_a_value_comes_from(theory: Theory) -> None:
    (theory.cwd / "theory.toml").write_text('plan = "from-the-file"\n')
    shown = theory("config").ok().stdout
    assert "from-the-file" in shown
    assert "theory.toml" in shown
    assert "THEORY_PLAN" in theory.with_environ(THEORY_PLAN="from-outside")("config").ok().stdout
