"""The house rules that no linter knows, held by reading the source: levels, sizes, docstrings, what
is not written. What ruff knows, "make test" leaves to ruff.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

from flatlib.files.paths import ROOT

FLATLIB, FLATBOOK = ROOT / "flatlib", ROOT / "flatbook"
# From the ground up. A module imports from its own room and from floors below, and never in circles.
FLOORS = (
    {"flatlib.traces", "flatlib.checks", "flatlib.streams", "flatlib.vision", "flatlib.keys",
     "flatlib.files"},
    {"flatlib.weights", "flatlib.modes"},
    {"flatlib.losses"},
    {"flatlib.networks", "flatlib.data"},
    {"flatlib.fast"},
    {"flatlib.inputs"},
    {"flatlib.attacks"},
    {"flatlib.measures"},
    {"flatlib.training"},
    {"flatlib.catalogue", "flatlib.records"},
    {"flatlib.runs"},
    {"flatbook.published", "flatbook.training_curves", "flatbook.tables"},
    {"flatbook.relations"},
    {"flatbook.claims", "flatbook.figures"},
    {"flatbook.live", "flatbook.methods_page"},
)  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted([*FLATLIB.rglob("*.py"), *FLATBOOK.rglob("*.py")])
NAME = {f: ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for f in FILES}  # fmt: skip
MODULES = [f for f in FILES if NAME[f] not in ("flatlib", "flatbook")]
ids = {"ids": lambda path: NAME.get(path)}


def room(name: str) -> str:
    """The room of a module: "flatlib.data" of "flatlib.data.augment"."""
    return ".".join(name.split(".")[:2])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def own_imports(path, top_only=False):
    """Modules of the project that a file imports, anywhere or when it is itself imported."""
    nodes = tree(path).body if top_only else ast.walk(tree(path))
    found, known = set(), set(NAME.values())
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("flatlib", "flatbook"):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                found.add(name if name in known else node.module)
    return found


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def calls(path):
    return [ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]


def test_every_module_has_a_floor():
    assert set(FLOOR) == {room(NAME[f]) for f in MODULES}


def test_no_room_is_crowded():
    rooms = [room(NAME[f]) for f in MODULES]
    assert max(map(rooms.count, rooms)) <= 16


@pytest.mark.parametrize("path", FILES, **ids)
def test_imports_are_absolute(path):
    assert not [n for n in ast.walk(tree(path)) if isinstance(n, ast.ImportFrom) and n.level]


@pytest.mark.parametrize("path", MODULES, **ids)
def test_imports_go_down(path):
    own = room(NAME[path])
    wrong = {m for m in own_imports(path)
             if m != "flatlib" and room(m) != own and FLOOR[room(m)] >= FLOOR[own]}  # fmt: skip
    assert not wrong, f"{NAME[path]} (floor {FLOOR[own]}) imports {wrong}"


@pytest.mark.parametrize("when", ["at import", "ever"])
def test_imports_have_no_cycles(when):
    graph = {NAME[f]: own_imports(f, top_only=when == "at import") - {NAME[f]} for f in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{when}: {' <- '.join(error.args[1])}")


HEAVY = ["pandas", "sklearn", "dask", "distributed", "matplotlib", "plotly", "torchvision", "PIL"]
BARE = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY}))  # None: an import fails
import torch
import flatlib
from flatlib import (PGD, AutoAttack, as_function, average_flatness, eigenvalues, evaluate, layers,
                     worst_flatness)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.SiLU(),
                            torch.nn.Linear(8, 10))
x, y = torch.rand(6, 3, 2, 2), torch.arange(6)
print(evaluate(model, x, y, PGD(steps=2)))
print(evaluate(model, x, y, AutoAttack(attacks=("apgd-ce", "square"), iterations=3)))
print(average_flatness(model, x, y, PGD(steps=2), n=2))
print(worst_flatness(model, x, y, 0.03, restarts=2))
print(eigenvalues(model, x, y, k=1), as_function(model)(layers(model), x).shape)
try:
    flatlib.runs
except ModuleNotFoundError as error:
    print(error)
"""


def test_measuring_a_network_needs_no_tables_plots_or_clusters():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'flatlib[training]'" in done.stdout.splitlines()[-1]


def test_plots_are_data_in_axes_out():
    files = {"flatlib.files.atomic", "flatlib.files.progress"}
    words = {"flatlib.records.columns", "flatbook.figures.labels", "flatbook.figures.style"}
    assert own_imports(FLATBOOK / "figures/plots.py") <= words | files
    own = {"flatbook.figures.plots", "flatbook.training_curves"}
    assert own_imports(FLATBOOK / "figures/curves.py") <= own


@pytest.mark.parametrize("path", FILES, **ids)
def test_files_have_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", FILES, **ids)
def test_functions_have_at_most_40_lines(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path)}
    assert not {name: n for name, n in long.items() if n > 40}


def test_most_functions_are_short():
    sizes = [f.end_lineno - f.lineno + 1 for path in FILES for f in functions(path)]
    assert sum(n < 25 for n in sizes) > 0.9 * len(sizes)


@pytest.mark.parametrize("path", FILES, **ids)
def test_public_names_have_docstrings(path):
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [n for n in tree(path).body if isinstance(n, kinds) and n.name[0] != "_"]
    bare = [n.name for n in public if not ast.get_docstring(n)]
    assert ast.get_docstring(tree(path)) and not bare, f"{path.name}: {bare}"


@pytest.mark.parametrize("path", FILES, **ids)
def test_what_is_not_written(path):
    called = calls(path)
    allowed = {"batch": ["print"], "queue": ["print"], "methods_page": ["print"]}
    banned = ["print", "torch.cuda.manual_seed", "torch.seed", "breakpoint",
              "random.seed", "np.random.seed", "numpy.random.seed", "plt.show", "eval", "exec",
              "torch.load", "pickle.load", "pickle.loads"]  # fmt: skip
    found = [c for c in called if c in banned and c not in allowed.get(path.stem, [])]
    found += [c for c in called if c.endswith((".cuda", ".plt.show"))]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr == "data":
            owner = ast.unparse(node.value)  # a record's field of this name is no tensor's .data
            if not re.fullmatch(r"self|method|training|AT|run|s|s\.method|self\.method", owner):
                found.append(ast.unparse(node))
        if isinstance(node, ast.FunctionDef):
            if (
                node.args.kwarg is not None
                and node.name[0] != "_"
                and path.stem not in ("plots", "subject", "progress")
            ):  # each hands them to one library call
                found.append(f"**{node.args.kwarg.arg} in {node.name}")
    assert not found


@pytest.mark.parametrize("path", FILES, **ids)
def test_the_global_generator_is_seeded_only_inside_a_fork(path):
    forks = [n for n in ast.walk(tree(path)) if isinstance(n, ast.With)
             and any("fork_rng" in ast.unparse(item) for item in n.items)]  # fmt: skip

    def seeds(nodes):
        return sum(ast.unparse(n) == "torch.manual_seed" for node in nodes for n in ast.walk(node))

    assert seeds([tree(path)]) == seeds(forks)


@pytest.mark.parametrize("path", MODULES, **ids)
def test_modes_are_switched_in_one_place(path):
    """Only ``weights.mode`` switches; others may put a network of their own into eval mode once."""
    switching = [c for c in calls(path) if c.endswith(".train") and not c.startswith("run")]
    assert not switching or path.stem in ("modes", "campaign")


PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_imports_is_there(page):
    blocks = BLOCK.findall(page.read_text())
    lines = [line for block in blocks for line in block.splitlines()]
    for line in lines:
        if re.match(r"(from|import) flat(lib|book)\b", line):
            exec(line, {})
    commands = re.findall(r"python -m (flat[\w.]+)", page.read_text())
    assert all(find_spec(module) for module in commands), commands


# ---- pins ------------------------------------------------------------------------------------

DISTRIBUTION = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}


def pinned():
    files = ("requirements.txt", "requirements-look.txt")
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines()]
    return {m[1].lower() for m in map(re.compile(r"([\w.-]+)==[\w.]+").match, lines) if m}


def third_party(paths):
    names = set()
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                names |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    own = {p.stem for p in paths} | {p.name for p in ROOT.iterdir() if p.is_dir()}
    return {DISTRIBUTION.get(n, n).lower().replace("_", "-") for n in names - own - set(sys.stdlib_module_names)}


def test_everything_imported_is_pinned():
    sources = [*FILES, *(ROOT / "nbs").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    sources = [p for p in sources if ".ipynb_checkpoints" not in p.parts]
    needed = third_party(sources)
    assert needed and not needed - pinned(), f"not in requirements.txt: {needed - pinned()}"


def test_every_pin_is_exact_and_in_no_conflict_with_the_constraints():
    def versions(name):
        text = (ROOT / name).read_text()
        return dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))

    lines = [line.split("#")[0].strip() for line in
             (ROOT / "requirements.txt").read_text().splitlines()]  # fmt: skip
    wrong = [x for x in lines if x and not x.startswith("-c") and "==" not in x]
    asked, held = versions("requirements.txt"), versions("constraints.txt")
    assert not wrong and all(asked[n] == held[n] for n in asked.keys() & held.keys())


def test_what_flatlib_imports_is_declared_for_installation():
    text = (ROOT / "pyproject.toml").read_text()  # extras included
    declared = {d.lower() for d in re.findall(r'^\s+"([\w-]+)[><=]', text, re.M)}
    assert third_party(FILES) <= declared
