"""A folder of emitted files: what an export replaces there, and what is others'."""

from pathlib import Path

import pytest

from costsim.c.emission.folder import MARK, exported_names, write_folder

OLD = {MARK: "{}", "a_model.h": "old", "a_weights.c": "old", "a_model.c": "old", "Makefile": "old"}
NEW = {MARK: "{}", "b_model.h": "new", "b_weights.c": "new", "b_model.c": "new", "Makefile": "new"}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(one.relative_to(folder)): one.read_text()
        for one in folder.rglob("*")
        if one.is_file() and not one.is_symlink()
    }


def test_an_export_replaces_exports_and_leaves_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "firmware"
    write_folder(folder, OLD)
    assert exported_names(folder) == set(OLD)
    others = {"main.c": "mine", "my_model.c": "mine", "build/a.o": "built", "plan.json": "{}"}
    (folder / "build").mkdir()
    for name, text in others.items():
        (folder / name).write_text(text)
    (folder / "link.c").symlink_to("main.c")
    write_folder(folder, NEW)
    assert contents(folder) == {**NEW, **others}
    assert (folder / "link.c").readlink() == Path("main.c")
    assert [one.name for one in tmp_path.iterdir()] == ["firmware"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_export_that_ends_while_folders_change_places_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    folder = tmp_path / "firmware"
    write_folder(folder, OLD)
    (folder / "main.c").write_text("mine")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(Exception if error is OSError else error):
        write_folder(folder, NEW)
    assert contents(folder) == {**OLD, "main.c": "mine"}
    assert [one.name for one in tmp_path.iterdir()] == ["firmware"]
