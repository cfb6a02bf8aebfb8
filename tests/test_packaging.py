"""What is installed: who may import whom, what an import costs, what the packages say of themselves."""

import ast
import subprocess
import sys
import tomllib
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
    return {name.split(".")[0] for name in told.stdout.split()}


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


def test_openai_is_not_loaded_until_a_request_is_made():
    code = "from langchain_qwen_conv import ChatQwenConv\nChatQwenConv(model='m', api_key='k')"
    assert {"openai", "llama_index", "starlette", "sqlalchemy"} & loaded_after(code) == set()
    assert {"openai", "langchain_core"} & loaded_after("import qwen_conv, qwen_conv.flows") == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_exports_what_it_says(package):
    assert resources.files(package).joinpath("py.typed").is_file()
    assert package.__all__ == sorted(package.__all__, key=str.lower) or package.__all__
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
    assert (
        qwen_conv.__version__ == langchain_qwen_conv.__version__ == metadata("qwen-conv")["Version"]
    )
