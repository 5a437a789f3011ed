from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from theory import config
from theory.errors import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from theory.config import Settings


class Place:
    """A project's folder and a user's configuration."""

    def __init__(self, base: Path) -> None:
        self.home, self.project = base / "home", base / "work" / "project"
        self.environ = {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "conf")}
        self.users = config.user_file(self.environ)
        for folder in (self.users.parent, self.project / "src" / "deep"):
            folder.mkdir(parents=True)

    def write(self, users: str = "", theory: str = "", pyproject: str = "") -> None:
        for file, text in (
            (self.users, users),
            (self.project / "theory.toml", theory),
            (self.project / "pyproject.toml", pyproject),
        ):
            if text:
                file.write_text(text)

    def load(self, folder: str = "src/deep", **environ: str) -> Settings:
        return config.load({**self.environ, **environ}, self.project / folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def origins(settings: Settings) -> Mapping[str, str]:
    return {setting.key: setting.origin for setting in settings.origins}


def values(settings: Settings) -> Mapping[str, object]:
    return {setting.key: setting.value for setting in settings.origins}


# ---------------------------------------------------------------- precedence


def test_without_a_word_from_anybody_the_defaults_hold(place: Place) -> None:
    settings = place.load()
    assert (settings.adapter, settings.plan, settings.write_prefix) == (
        "local",
        "default",
        "/artifacts/outputs/",
    )
    assert (settings.named_registries, settings.found_registries, settings.secrets_file) == ((), (), None)
    assert settings.store == (settings.home / "store").as_uri()
    assert set(origins(settings).values()) == {"default"}


@pytest.mark.skipif(sys.platform == "darwin", reason="needs Linux")
def test_the_home_is_where_the_base_directory_specification_says(place: Place) -> None:
    assert place.load().home == place.home / ".local/share/theory"
    assert place.load(XDG_DATA_HOME="/data").home.as_posix() == "/data/theory"
    assert place.users == place.home / "conf/theory/config.toml"


@pytest.mark.parametrize("stronger", ["user", "theory.toml", "pyproject.toml", "variable"])
def test_the_stronger_source_wins_and_is_named(place: Place, stronger: str) -> None:
    place.write(users='plan = "user"\n')
    expected = {"user": str(place.users), "variable": "THEORY_PLAN"}.get(
        stronger, str(place.project / stronger)
    )
    if stronger != "user":
        place.write(pyproject='[tool.theory]\nplan = "pyproject.toml"\n')
    if stronger in {"theory.toml", "variable"}:
        place.write(theory='plan = "theory.toml"\n')
    settings = place.load(**({"THEORY_PLAN": "variable"} if stronger == "variable" else {}))
    assert settings.plan == stronger
    assert origins(settings)["plan"] == expected


def test_an_empty_variable_says_nothing(place: Place) -> None:
    assert place.load(THEORY_PLAN="").plan == "default"


def test_the_nearest_project_file_is_the_projects(place: Place) -> None:
    place.write(theory='plan = "outer"\n')
    (place.project / "src" / "theory.toml").write_text('plan = "inner"\n')
    assert place.load().plan == "inner"
    assert place.load(".").plan == "outer"


@pytest.mark.parametrize(
    "text", ["[project]\nname='x'\n", "[tool.other]\nplan = 'x'\n", "not toml [", "tool = 3 # theory\n"]
)
def test_a_pyproject_that_says_nothing_of_theory_is_passed_over(place: Place, text: str) -> None:
    place.write(pyproject=text)
    (place.project.parent / "theory.toml").write_text('plan = "above"\n')
    assert place.load().plan == "above"


def test_any_spelling_of_the_table_is_read(place: Place) -> None:
    place.write(pyproject='[tool]\ntheory = {plan = "inline"}\n')
    assert place.load().plan == "inline"


def test_options_of_an_adapter_are_merged_by_key(place: Place) -> None:
    place.write(
        users='[adapters.mock]\na = 1\nb = "u"\n[adapters.other]\nx = true\n',
        theory="[adapters.mock]\na = 2\n",
    )
    settings = place.load()
    assert settings.adapter_options == {"mock": {"a": 2, "b": "u"}, "other": {"x": True}}
    assert origins(settings)["adapters.mock.a"] == str(place.project / "theory.toml")
    assert origins(settings)["adapters.mock.b"] == str(place.users)


# ---------------------------------------------------------------- what a project may not


@pytest.mark.parametrize("key", ["home", "store", "secrets_file"])
@pytest.mark.parametrize("file", ["theory", "pyproject"])
def test_a_project_may_not_set_what_is_the_users(place: Place, key: str, file: str) -> None:
    text = f'{key} = "x"\n'
    place.write(**{file: text if file == "theory" else "[tool.theory]\n" + text})
    with pytest.raises(Usage, match=rf"^{key} stands in .*{file}\.toml, but a project may not set it$"):
        place.load()


def test_a_project_may_not_choose_process_but_a_user_may(place: Place) -> None:
    place.write(users='adapter = "process"\n')
    assert place.load().adapter == "process"
    place.write(theory='adapter = "process"\n')
    with pytest.raises(Usage, match=r"theory\.toml makes process the adapter"):
        place.load()


def test_a_user_may_set_what_a_project_may_not(place: Place) -> None:
    place.write(users='home = "/h"\nstore = "s3://bucket"\nsecrets_file = "/s"\n')
    settings = place.load()
    assert (settings.home.as_posix(), settings.store, str(settings.secrets_file)) == (
        "/h",
        "s3://bucket",
        "/s",
    )


# ---------------------------------------------------------------- folders and files


def test_a_relative_folder_is_meant_from_the_file_that_names_it(place: Place) -> None:
    place.write(theory='registry = ["mine", "../shared"]\n')
    assert place.load().found_registries == (place.project / "mine", place.project.parent / "shared")
    assert place.load().named_registries == ()


def test_what_a_user_names_is_meant_from_the_users_file(place: Place) -> None:
    place.write(
        users='registry = ["reg", "~/r", "/abs"]\nhome = "h"\nstore = "blobs"\nsecrets_file = "s.env"\n'
    )
    here = place.users.parent
    expanded = os.path.expanduser("~/r")
    settings = place.load()
    assert [str(path) for path in settings.named_registries] == [str(here / "reg"), expanded, "/abs"]
    assert (settings.home, settings.store, settings.secrets_file) == (
        here / "h",
        (here / "blobs").as_uri(),
        here / "s.env",
    )
    assert values(settings)["registry"] == settings.named_registries


def test_what_a_variable_names_is_meant_from_the_working_directory(place: Place) -> None:
    settings = place.load(
        ".", THEORY_REGISTRY=f"a{os.pathsep}{os.pathsep}/b", THEORY_HOME="h", THEORY_STORE="s"
    )
    assert [str(path) for path in settings.named_registries] == [str(place.project / "a"), "/b"]
    assert (settings.home, settings.store) == (place.project / "h", (place.project / "s").as_uri())


def test_a_registry_folder_above_is_found_and_not_named(place: Place) -> None:
    (place.project / "registry").mkdir()
    settings = place.load(THEORY_REGISTRY="/named")
    assert settings.found_registries == (place.project / "registry",)
    assert [str(path) for path in settings.named_registries] == ["/named"]


def test_a_home_of_an_unknown_user_is_only_a_name(place: Place) -> None:
    place.write(users='registry = ["~no-such-user/r"]\n')
    assert place.load().named_registries == (place.users.parent / "~no-such-user/r",)


# ---------------------------------------------------------------- faulty files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan = \n", r"theory\.toml is not TOML: .*line 1"),
        ('plan = "a"\nplan = "b"\n', r"theory\.toml is not TOML"),
        ("colour = 1\n", r"theory\.toml has an unknown key 'colour'"),
        ("plan = 5\n", r"plan in .*theory\.toml is not text"),
        ('registry = "folder"\n', r"registry in .*theory\.toml is not a list of folders"),
        ("registry = [1]\n", r"registry in .*theory\.toml is not a list of folders"),
        ("adapters = 1\n", r"adapters in .*theory\.toml is not a table of tables"),
        ("[adapters]\nmock = 1\n", r"adapters in .*theory\.toml is not a table of tables"),
    ],
)
def test_a_fault_of_a_file_is_told_with_the_file_and_the_key(place: Place, text: str, message: str) -> None:
    place.write(theory=text)
    with pytest.raises(Usage, match=message):
        place.load()


def test_an_unknown_key_gets_the_known_ones(place: Place) -> None:
    place.write(users="colour = 1\n")
    with pytest.raises(Usage, match=r"config\.toml has an unknown key 'colour'") as caught:
        place.load()
    assert (
        caught.value.hint
        == "there are adapter, plan, write_prefix, registry, home, store, secrets_file, adapters"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("[tool.theory\n", "is not TOML"), ("tool.theory = 3\n", "tool.theory in .* is not a table")],
)
def test_a_faulty_pyproject_that_speaks_of_theory_is_told(place: Place, text: str, message: str) -> None:
    place.write(pyproject=text)
    with pytest.raises(Usage, match=message):
        place.load()


def test_a_file_that_is_not_utf_8_is_told(place: Place) -> None:
    (place.project / "theory.toml").write_bytes(b'plan = "\xff"')
    with pytest.raises(Usage, match=r"theory\.toml is not TOML"):
        place.load()


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(Usage, match="there is no working directory"):
        config.load({"HOME": str(tmp_path)})


# ---------------------------------------------------------------- secrets


def test_a_secrets_file_has_a_name_and_a_value_on_a_line(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("\ufeff# mine\nA=1\n\n B = x=y \nC=\x85\u2028\n", encoding="utf-8")
    assert config.secrets_of(file) == {"A": "1", "B": "x=y", "C": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nsk-very-secret\n", "line 2 of the secrets file"),
        (b"A=sk-very-secret\xff", "cannot be read: not UTF-8"),
    ],
)
def test_a_faulty_secrets_file_is_told_without_its_content(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "s"
    file.write_bytes(content)
    with pytest.raises(Usage, match=message) as caught:
        config.secrets_of(file)
    assert "very-secret" not in caught.value.message + caught.value.hint + repr(caught.value.__cause__)


def test_a_secrets_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="gone cannot be read: No such file"):
        config.secrets_of(tmp_path / "gone")


def test_settings_never_show_what_is_in_the_secrets_file(place: Place) -> None:
    secrets = place.home / "secrets.env"
    secrets.write_text("KEY=sk-very-secret\n")
    settings = place.load(THEORY_SECRETS_FILE=str(secrets))
    assert settings.secrets_file == secrets
    assert "very-secret" not in repr(settings)


def test_a_project_may_not_set_options_of_what_runs_without_isolation(tmp_path: Path) -> None:
    (tmp_path / "theory.toml").write_text('[adapters.process]\npython = "x/evil"\n')
    with pytest.raises(Usage, match="sets options of process, which runs programs without isolation"):
        config.load({"HOME": str(tmp_path / "home")}, tmp_path)
