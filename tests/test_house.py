"""The house rules, held by reading the source: levels, sizes, docstrings, what is not written."""

import ast
import re
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from flatlib.paths import ROOT

PACKAGE = ROOT / "flatlib"
# Modules import from their own level (without cycles) and from lower ones, never from higher ones.
LEVELS = (
    {"paths", "vision", "checks", "losses", "augment", "weights", "data", "batches", "models",
     "kernels", "lettering", "keys", "files", "merging", "streams", "bilinear", "graphs",
     "progress", "pickled", "clock", "fashion", "plans", "tracing", "fingerprint", "agreement",
     "traces", "machine", "cifar10", "inputs", "adapt", "loaders"},
    {"attacks", "autoattack", "steps", "checkpoints", "provenance", "tidy"},
    {"methods", "evaluate", "doubts", "flatness", "landscape", "hessian", "profiles"},
    {"measures", "train", "states", "snapshots", "early_stopping", "suites", "choices"},
    {"costs", "run", "campaign", "runs", "batch", "results", "robustbench", "queue"},
    {"published", "claims", "plots", "curves", "courses", "relations", "scatters", "explorer",
     "predicates", "comparisons", "along", "evidence", "ledger", "ledger_flatness", "tables",
     "catalogue", "rekey", "live"},
)  # fmt: skip
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
FILES = sorted(PACKAGE.glob("*.py"))
MODULES = [f for f in FILES if f.stem != "__init__"]
ids = {"ids": lambda path: path.name}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def own_imports(path, top_only=False):
    """Modules of flatlib that a file imports, anywhere or when it is itself imported."""
    nodes = tree(path).body if top_only else ast.walk(tree(path))
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module.split(".")[0] != "flatlib":
                continue
            module = module.removeprefix("flatlib").removeprefix(".")
            names = [module] if module else [a.name for a in node.names]
            found |= {name.split(".")[0] for name in names}
    return found


def functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def calls(path):
    return [ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]


def test_every_module_has_a_level():
    assert set(LEVEL) == {f.stem for f in MODULES}


@pytest.mark.parametrize("path", MODULES, **ids)
def test_imports_go_down(path):
    upward = {m for m in own_imports(path) if LEVEL[m] > LEVEL[path.stem]}
    assert not upward, f"{path.stem} (level {LEVEL[path.stem]}) imports {upward} from above"


@pytest.mark.parametrize("when", ["at import", "ever"])
def test_imports_have_no_cycles(when):
    graph = {f.stem: own_imports(f, top_only=when == "at import") for f in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{when}: {' <- '.join(error.args[1])}")


def test_plots_are_data_in_axes_out():
    assert own_imports(PACKAGE / "plots.py") <= {"lettering", "files", "progress"}
    assert own_imports(PACKAGE / "curves.py") <= {"plots", "courses"}


@pytest.mark.parametrize("path", FILES, **ids)
def test_files_have_at_most_300_lines_of_at_most_100_characters(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 300
    long = [i for i, line in enumerate(lines, 1) if len(line) > 100]
    assert not long, f"{path.name}: lines {long}"


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
    text = ast.unparse(tree(path))  # without comments
    called = calls(path)
    allowed = {"batch": ["print"], "queue": ["print"], "data": ["print"], "catalogue": ["print"]}
    banned = ["print", "torch.cuda.manual_seed", "torch.seed", "breakpoint",
              "random.seed", "np.random.seed", "numpy.random.seed", "plt.show", "eval", "exec",
              "torch.load", "pickle.load", "pickle.loads"]  # fmt: skip
    found = [c for c in called if c in banned and c not in allowed.get(path.stem, [])]
    found += [c for c in called if c.endswith((".cuda", ".plt.show"))]
    found += re.findall(r"except:", text)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr == "data":
            owner = ast.unparse(node.value)  # a record's field of this name is no tensor's .data
            if not re.fullmatch(r"self|method|training|AT|run|s|s\.method|self\.method", owner):
                found.append(ast.unparse(node))
        if isinstance(node, ast.FunctionDef):
            public = node.name[0] != "_"
            defaults = [*node.args.defaults, *[d for d in node.args.kw_defaults if d]]
            mutable = [d for d in defaults if isinstance(d, (ast.List, ast.Dict, ast.Set))]
            found += [f"mutable default in {node.name}"] * len(mutable)
            if (
                node.args.kwarg is not None
                and public
                and path.stem not in ("plots", "measures", "progress")
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
    assert not switching or path.stem in ("weights", "campaign")


# ---- pins ------------------------------------------------------------------------------------

DISTRIBUTION = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}


def pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
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
    return {DISTRIBUTION.get(n, n).lower() for n in names - own - set(sys.stdlib_module_names)}


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
    text = (ROOT / "pyproject.toml").read_text()
    declared = {d.lower() for d in re.findall(r'^\s+"([\w-]+)[><=]', text, re.M)}
    assert third_party(FILES) <= declared
