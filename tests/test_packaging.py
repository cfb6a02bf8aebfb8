"""What is installed: who may import whom, what an import costs, what the packages say of themselves."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib import resources
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest

import langchain_qwen_conv
import llamaindex_qwen_conv
import qwen_conv

ROOT = Path(__file__).parent.parent
PACKAGES = (qwen_conv, langchain_qwen_conv, llamaindex_qwen_conv)
HTTP = {"httpx", "httpx2", "httpcore", "requests", "aiohttp"}


def imported_by(package):
    """Every top-level module that a package imports anywhere."""
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.split(".")[0]


def loaded_after(code):
    """The modules that a fresh interpreter has loaded after some code."""
    told = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(told.stdout.split())


@pytest.mark.parametrize(
    ("package", "never"),
    [
        (
            "qwen_conv",
            {"langchain_core", "llama_index", "langchain_qwen_conv", "llamaindex_qwen_conv"},
        ),
        (
            "langchain_qwen_conv",
            {"llama_index", "llamaindex_qwen_conv", "openai", "langchain_openai"},
        ),
        ("llamaindex_qwen_conv", {"langchain_core", "langchain_qwen_conv", "openai"}),
    ],
)
def test_imports_follow_the_one_arrow(package, never):
    assert set(imported_by(package)) & (never | HTTP) == set()


def needs():
    """Which modules of ours each of our modules imports while it is imported itself."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in (ROOT / package.__name__).rglob("*.py")
    }
    return {
        module: {
            name if name in files else node.module
            for node in ast.parse(file.read_text("utf-8")).body
            if isinstance(node, ast.ImportFrom)
            for name in (f"{node.module}.{alias.name}" for alias in node.names)
        }
        & files.keys()
        for module, file in files.items()
    }


def test_no_module_imports_one_that_imports_it():
    TopologicalSorter(needs()).prepare()  # raises CycleError if there is no order


@pytest.mark.parametrize("module", ["decision", "items", "models", "pairing", "settings", "stamps"])
def test_what_is_worked_out_of_values_reaches_nothing_that_asks_a_server(module):
    every, found, new = needs(), set(), {f"qwen_conv.{module}"}
    while new:
        found |= new
        new = {one for each in new for one in every[each]} - found
    asking = {"api", "hub", "flows", "turns", "record", "mirror", "mirrors", "outbox"}
    assert found & {f"qwen_conv.{name}" for name in asking} == set()


LANGCHAIN = """
from langchain_qwen_conv import ChatQwenConv
ChatQwenConv(model="m", api_key="k")
"""
LLAMAINDEX = """
from llamaindex_qwen_conv import QwenConv, QwenConvAsyncChatStore, QwenConvChatStore
llm = QwenConv(model="m", api_key="k")
QwenConvChatStore(conversations=llm.conversations)
QwenConvAsyncChatStore(conversations=llm.conversations)
"""


@pytest.mark.parametrize(
    ("code", "never"),
    [
        ("import qwen_conv, qwen_conv.flows", {"langchain_core", "llama_index", "sqlalchemy"}),
        (
            LANGCHAIN,
            {
                "llama_index",
                "sqlalchemy",
                "qwen_conv.mirror",
                "qwen_conv.turns",
                "qwen_conv.planning",
            },
        ),
        (LLAMAINDEX, {"langchain_core", "qwen_conv.sql"}),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(code, never):
    assert loaded_after(code) & (never | {"openai", "starlette"}) == set()


EXPORTS = {
    qwen_conv: {"QwenConversations"},
    langchain_qwen_conv: {"ChatQwenConv", "QwenConvChatMessageHistory", "QwenConvMiddleware"},
    llamaindex_qwen_conv: {"QwenConv", "QwenConvAsyncChatStore", "QwenConvChatStore"},
}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_package_is_typed_and_exports_what_it_says(package):
    assert resources.files(package).joinpath("py.typed").is_file()
    assert set(package.__all__) == EXPORTS[package] | {"__version__"}
    assert all(hasattr(package, name) for name in package.__all__)


def test_the_distribution_says_what_it_needs():
    told = metadata("qwen-conv")
    assert told["Requires-Python"] == ">=3.11"
    wanted = {"langchain", "llamaindex", "agents", "sql", "offline", "cli", "all", "dev", "oracles"}
    assert set(told.get_all("Provides-Extra")) == wanted
    needs = [need.replace(" ", "") for need in requires("qwen-conv")]
    assert "openai<4,>=2" in needs
    assert any(need.startswith("langchain-core<2,>=1.6.13") for need in needs)
    assert any(need.startswith("llama-index-core<0.15,>=0.14.24") for need in needs)


def test_the_version_is_said_once():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in settings["project"]
    assert {package.__version__ for package in PACKAGES} == {metadata("qwen-conv")["Version"]}
