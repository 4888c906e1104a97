"""The image as its files promise it; docker/trial.sh builds and runs it where there is buildah."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main
from helpers import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from medcalib.cli import app

DOCKER = REPOSITORY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text("utf-8")
PAGE = (REPOSITORY / "docs/docker.md").read_text("utf-8")
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
SHIPPED_EXTRAS = ("report", "tensorboard", "notebook")


def instructions(text: str = DOCKERFILE) -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of each, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def environment() -> dict[str, str]:
    words = [word for rest in of("ENV") for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            found[rest.split()[-1]] = []
        elif found:
            list(found.values())[-1].append((name, rest))
    return found


def test_the_base_is_an_argument_pinned_to_a_version_that_is_tested() -> None:
    image, _, tag = instructions()[0][1].partition("=")[2].partition(":")
    assert image == "python"
    assert re.fullmatch(r"3\.\d+-slim-[a-z]+", tag)
    tested = {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if c.startswith("Programming Language")}
    assert tag.partition("-")[0] in tested
    assert of("FROM") == ["${BASE} AS wheel", "${BASE} AS cpu", "cpu AS gpu"]


def test_every_target_runs_as_a_user_that_is_not_root() -> None:
    for stage in ("cpu", "gpu"):
        users = [rest for name, rest in stages()[stage] if name == "USER"]
        assert users[-1] == "10001", "a number: Kubernetes cannot tell of a name that it is not root"


def test_a_signal_reaches_python_and_not_a_shell() -> None:
    (entrypoint,), (command,) = of("ENTRYPOINT"), of("CMD")
    assert json.loads(entrypoint) == ["medcalib"]
    assert json.loads(command) == ["--help"]
    module, function = PROJECT["scripts"]["medcalib"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_builder_without_buildkit_understands_it() -> None:
    assert not re.search(r"^#\s*syntax=", DOCKERFILE, re.MULTILINE)
    assert "<<" not in DOCKERFILE
    for name, rest in instructions():
        flags = re.findall(r"^(?:--\S+\s+)+", rest)
        allowed = r"--from=\w+\s+" if name == "COPY" else r"(?!)"
        assert not flags or re.fullmatch(allowed, flags[0]), f"{name} {rest}"


def test_whatever_is_cached_goes_where_any_user_may_write() -> None:
    found = environment()
    for name in ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert Path(found[name]).is_relative_to("/tmp"), name  # noqa: S108 - of the container
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"
    assert found["USER"], "torch asks for the name of the user, and a uid chosen by the cluster has none"
    assert set(found["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}


def test_no_address_of_a_registry_and_no_secret_is_written_down() -> None:
    for path in (*DOCKER.iterdir(), REPOSITORY / "compose.yaml", REPOSITORY / "docs/docker.md"):
        text = path.read_text("utf-8")
        assert not re.findall(r"https?://(?!127\.0\.0\.1|localhost)[^\s<]+", text), path.name
        assert not re.search(r"(?i)\b(password|token|secret)\s*[=:]\s*\w", text), path.name


def test_image_and_make_install_with_the_same_script() -> None:
    assert len([rest for rest in of("RUN") if rest.startswith("/opt/setup/docker/install.sh /opt/medcalib")]) == 2
    assert "docker/install.sh $(VENV)" in (REPOSITORY / "Makefile").read_text("utf-8")
    for script in DOCKER.glob("*.sh"):
        assert os.access(script, os.X_OK), script.name
        subprocess.run(["bash", "-n", script], check=True)


def test_the_script_installs_torch_first_and_all_of_it_pinned(tmp_path: Path) -> None:
    log = tmp_path / "log"
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$PIP_CONSTRAINT $PIP_BUILD_CONSTRAINT $*" >>{log}\n')
    python.chmod(0o755)
    run = [DOCKER / "install.sh", tmp_path / "venv", "--editable", ".[report]"]
    subprocess.run(run, check=True, env=os.environ | {"TORCH": "torch", "TORCH_INDEX": "INDEX"})
    pins = f"{REPOSITORY / 'constraints.txt'} " * 2
    assert log.read_text().splitlines() == [
        f"{pins}-m pip install --quiet pip",
        f"{pins}-m pip install --quiet --extra-index-url INDEX torch",
        f"{pins}-m pip install --quiet --editable .[report]",
        f"{pins}-m pip check",
    ]


def test_whatever_the_image_installs_has_a_pinned_version() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    wanted = [*PROJECT["dependencies"]]
    wanted += [need for extra in SHIPPED_EXTRAS for need in PROJECT["optional-dependencies"][extra]]
    wanted += tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    seen: set[str] = set()
    open_ = [Requirement(need) for need in wanted]
    while open_:
        need = open_.pop()
        name = canonicalize_name(need.name)
        if name in seen or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            open_ += [Requirement(more) for more in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here; docker/trial.sh sees what is in the image
    assert seen - pinned == set()


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    assert rules[0] == "*", "what is not named does not go in: no data, no runs, no history"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    assert let_in == copied
    assert {"**/__pycache__", "**/_medcalib_native.*"} <= set(rules)
    for path in copied:
        assert (REPOSITORY / path).exists()


def test_compose_gives_gpus_and_shared_memory_and_takes_rights() -> None:
    compose = YAML(typ="safe").load(REPOSITORY / "compose.yaml")
    assert set(compose["services"]) == {"train", "score", "notebook"}
    for name, service in compose["services"].items():
        assert service["gpus"] == "all", name
        assert service["shm_size"] == "8g", name
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        data, out = service["volumes"]
        assert data.endswith(":/data:ro"), name
        assert out == "${OUT:-out}:/out", name
        assert "privileged" not in service
        assert service["build"]["dockerfile"] == "docker/Dockerfile"
        extras = service["build"]["args"].get("EXTRAS", "")
        assert set(extras.split(",")) <= {"", *PROJECT["optional-dependencies"]}
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
    assert "out" in compose["volumes"]


def documented() -> list[list[str]]:
    """The words of each `docker run` of the page."""
    blocks = re.findall(r"```(?:sh)?\n(.*?)```", PAGE, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("docker run")]


def test_documented_commands_are_commands_with_their_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = set()
    for words in documented():
        image = next(i for i, word in enumerate(words) if word.startswith("medcalib"))
        arguments = words[image + 1 :]
        if "--entrypoint" in words[:image]:
            if "medcalib" not in arguments:
                continue
            arguments = arguments[arguments.index("medcalib") + 1 :]
        known = {option for parameter in commands[arguments[0]].params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known, words
        found.add(arguments[0])
    assert {"check", "train", "predict", "score", "doctor"} <= found


def test_documented_containers_read_the_data_and_have_shared_memory_to_train() -> None:
    for words in documented():
        mounts = [words[i + 1] for i, word in enumerate(words) if word == "-v"]
        assert all(mount.endswith(":ro") for mount in mounts if ":/data" in mount), words
        if "train" in words:
            assert "--shm-size=8g" in words, words
            assert "--gpus" in words, words
            assert "--init" in words, words


def test_the_linter_of_dockerfiles_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
