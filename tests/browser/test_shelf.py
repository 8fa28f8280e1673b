"""The Aligners tab in a real browser: cards, and the import of a zip."""

import shutil
import zipfile

import pytest
from playwright.sync_api import Page, expect

from tests import tiny
from tests.browser.conftest import App

pytestmark = pytest.mark.browser


def test_an_imported_zip_is_on_the_shelf_and_in_compare(page: Page, app: App, tmp_path):
    folder = tiny.adapter(tmp_path / "guest", app.data.parent / "model", seed=9)
    (folder / "aligner.json").write_text('{"description": "<img src=x onerror=window.hacked=1>"}')
    with zipfile.ZipFile(tmp_path / "guest.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    page.get_by_role("tab", name="Aligners").click()
    expect(page.locator(".cards article")).to_have_count(6)  # four shipped, two of the user's own
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "guest.zip")
    expect(page.locator("#imported")).to_contain_text("Imported guest")
    expect(page.locator(".cards article", has_text="guest")).to_contain_text("<img src=x onerror=window.hacked=1>")
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator('.picker .option[data-name="guest"]')).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert (app.data / "aligners" / "guest" / "adapter_model.safetensors").is_file()


def test_an_open_page_is_told_of_a_card_that_has_changed(page: Page, app: App, tmp_path):
    """With the next thing that it hears of the shelf; here an import that replaces an aligner, with its card."""
    folder = tiny.adapter(tmp_path / "again", app.data.parent / "model", seed=8)
    for beta in (1.5, 2.75):
        (folder / "aligner.json").write_text(f'{{"description": "at {beta}", "beta": {beta}}}')
        with zipfile.ZipFile(tmp_path / "again.zip", "w") as archive:
            for file in folder.iterdir():
                archive.write(file, file.name)
        shutil.rmtree(app.data / "aligners" / "again", ignore_errors=True)
        page.get_by_role("tab", name="Aligners").click()
        page.locator("#upload input[type=file]").set_input_files(tmp_path / "again.zip")
        expect(page.locator(".cards article", has_text=f"at {beta}")).to_be_visible()
        page.get_by_role("tab", name="Compare").click()
        option = page.locator('.picker .option[data-name="again"]')
        expect(option.locator("output")).to_have_text(str(beta))
        expect(option).to_contain_text(f"at {beta}")
        page.get_by_role("tab", name="Aligners").click()
        page.locator("#upload button[aria-label='Clear']").click()
    shutil.rmtree(app.data / "aligners" / "again")


def test_a_zip_that_climbs_out_is_refused_in_words(page: Page, app: App, tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.json", "{}")
    page.get_by_role("tab", name="Aligners").click()
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "evil.zip")
    expect(page.get_by_text("would land outside its folder").first).to_be_visible()
    assert not list(app.data.rglob("evil*"))
