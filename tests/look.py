"""Look at every page of the built book in headless Chromium, and say what is wrong.

    make html && make look
    python tests/look.py _build/html nbs/stutz2021/fig01_flatness --shots _build/shots

Each page is opened from disk, 1280 and 390 pixels wide, light and dark; requests to a network are
refused and told. It needs the package playwright and a Chromium (requirements-look.txt).
"""

import argparse
import shutil
import sys
from pathlib import Path

WIDTHS, THEMES = (1280, 390), ("light", "dark")
FOLD = 900  # pixels: the first figure of a figure's page begins above
CHECKS = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


def pages(folder: Path, wanted: list[str]) -> list[Path]:
    """The pages of the book by name ("nbs/ledger"), or all of them."""
    found = [folder / f"{name}.html" for name in wanted] or sorted(
        path for part in ("book", "nbs") for path in (folder / part).rglob("*.html"))  # fmt: skip
    if missing := [str(path) for path in found if not path.is_file()]:
        raise SystemExit(f"no such page: {', '.join(missing)}; 'make html' builds the book")
    return found


def look(browser, path: Path, width: int, theme: str, shot: Path | None) -> list[str]:
    """What is wrong with one page at one width and theme, a line each."""
    found = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    page.on("console", lambda m: m.type == "error" and found.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: found.append(f"script: {error}"))

    def route(request):
        if request.request.url.startswith(("file:", "data:", "blob:")):
            return request.continue_()
        found.append(f"network: {request.request.url}")
        return request.abort()

    page.route("**/*", route)
    page.goto(path.as_uri())
    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
    page.wait_for_timeout(300)  # formulas, transitions of colours
    seen = page.evaluate(CHECKS)
    top = seen.pop("first_figure")
    if path.name.startswith("fig") and width == 1280 and not (top and top <= FOLD):
        found.append(f"the first figure begins at {top}, wanted above {FOLD}")
    found += [f"{what}: {line}" for what, lines in seen.items() for line in lines]
    if shot:
        shot.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=shot / f"{path.stem}-{width}-{theme}.png", full_page=True)
    context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("_build/html"))
    parser.add_argument("pages", nargs="*", help="such as nbs/ledger; all, if none are named")
    parser.add_argument("--shots", type=Path, help="keep pictures of the pages in this folder")
    given = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        parser.exit(2, "playwright is missing: pip install -r requirements-look.txt\n")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.exit(2, "no Chromium on the PATH: install the package chromium\n")
    count = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for path in pages(given.folder.resolve(), given.pages):
            lines: dict[str, list[str]] = {}
            for width in WIDTHS:
                for theme in THEMES:
                    for line in look(browser, path, width, theme, given.shots):
                        lines.setdefault(line, []).append(f"{width} {theme}")
            name = path.relative_to(given.folder.resolve()).with_suffix("")
            for line, where in lines.items():
                print(f"{name} ({', '.join(where)}): {line}", flush=True)
            count += len(lines)
        browser.close()
    print(f"{count or 'nothing'} to look at")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
