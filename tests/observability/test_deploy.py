"""Can what stands in deploy/ be used as it is? Nothing is started here, and nothing is downloaded."""

import configparser
import json
import os
import re
import shutil
import subprocess

import pytest
import tools
import yaml
from support import binary

DEPLOY = tools.ROOT / "deploy"
COMPOSE = DEPLOY / "docker-compose.yml"
PROFILES = ["nvidia", "rocm", "cpu", "sim"]
ALWAYS = {"gateway", "postgres", "prometheus", "grafana"}


def compose(profile: str, **environment) -> dict:
    """The file as Debian's docker-compose 1.29 reads it; a later one reads it as well."""
    program = shutil.which("docker-compose")
    assert program, "apt-get install --no-install-recommends docker-compose"
    command = [program, "-f", COMPOSE, "--profile", profile, "config"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OLLAMA_", "GATEWAY_"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=plain | environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return yaml.safe_load(done.stdout)


def of_profile(config: dict, profile: str) -> dict:
    """Some versions print the services of other profiles, too."""
    services = config["services"].items()
    return {name: each for name, each in services if not each.get("profiles") or profile in each["profiles"]}


def nodes(config: dict, profile: str) -> dict:
    """By the name under which the gateway knows them."""
    return {each["networks"]["default"]["aliases"][0]: each for name, each in of_profile(config, profile).items()
            if each.get("networks", {}).get("default")}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_is_a_whole_stack(profile):
    config = compose(profile)
    services = of_profile(config, profile)
    assert ALWAYS <= set(services)
    with (DEPLOY / "gateway.yaml").open() as file:
        known = {node["name"] for node in yaml.safe_load(file)["nodes"]}
    assert set(nodes(config, profile)) == known, "the gateway knows the nodes of the profile, and no other"
    assert ("pull" in services) == (profile != "sim")
    for name, each in services.items():
        assert "version" not in each
        for other, how in (each.get("depends_on") or {}).items():
            assert other in services, f"{name} waits for {other}, which this profile does not have"
            assert how["condition"] == "service_healthy" and services[other].get("healthcheck"), f"{name} -> {other}"


def test_the_profile_cluster_adds_a_second_gateway_and_a_balancer():
    services = of_profile(compose("cluster"), "cluster")
    assert set(services) == ALWAYS | {"gateway-2", "balancer"}
    first, second = services["gateway"], services["gateway-2"]
    for name, each in [("gateway", first), ("gateway-2", second)]:
        assert each["environment"]["GATEWAY__CLUSTER__ADVERTISE"] == f"http://{name}:8001"
    assert not second.get("ports"), "clients reach it through the balancer"
    differing = {key for key in first.keys() | second.keys() if first.get(key, []) != second.get(key, [])}
    assert differing == {"environment", "ports", "profiles", "volumes"}
    assert all(port.startswith("127.0.0.1:") for port in services["balancer"]["ports"])


def test_each_nvidia_node_has_a_gpu_of_its_own():
    given = nodes(compose("nvidia", OLLAMA_GPU1="GPU-5"), "nvidia")
    reserved = [node["deploy"]["resources"]["reservations"]["devices"] for node in given.values()]
    assert all(len(devices) == 1 and devices[0]["driver"] == "nvidia" and devices[0]["capabilities"] == ["gpu"]
               and "count" not in devices[0] for devices in reserved)
    assert [devices[0]["device_ids"] for devices in reserved] == [["0"], ["GPU-5"]]


def test_each_rocm_node_sees_a_gpu_of_its_own():
    given = nodes(compose("rocm"), "rocm")
    assert [node["environment"]["ROCR_VISIBLE_DEVICES"] for node in given.values()] == ["0", "1"]
    assert all(node["image"].endswith("rocm") and len(node["devices"]) == 2 for node in given.values())


@pytest.mark.parametrize("profile", PROFILES)
def test_nodes_take_what_the_gateway_gives_them(profile):
    with (DEPLOY / "gateway.yaml").open() as file:
        slots = {str(node["slots"]) for node in yaml.safe_load(file)["nodes"]}
    volumes = set()
    for node in nodes(compose(profile), profile).values():
        if profile == "sim":
            assert {node["command"][node["command"].index("--slots") + 1]} == slots
        else:
            assert {node["environment"]["OLLAMA_NUM_PARALLEL"]} == slots
            assert node["healthcheck"]["test"] == ["CMD", "ollama", "list"]
            volumes.add(node["volumes"][0])
    assert len(volumes) == (0 if profile == "sim" else 2), "a volume for each node"


def test_secrets_are_files_and_nothing_else():
    text = COMPOSE.read_text()
    assert not re.search(r"(?i)(password|secret|_key)\S*:\s*[\"']?[A-Za-z0-9]{8,}", text)
    secrets = yaml.safe_load(text)["secrets"]
    made = set(re.search(r"for name in (.*); do", (DEPLOY / "make-secrets").read_text())[1].split())
    assert set(secrets) == made and all(set(secret) == {"file"} for secret in secrets.values())
    assert "deploy/secrets" in (tools.ROOT / ".dockerignore").read_text().split()
    assert "/deploy/secrets" in (tools.ROOT / ".gitignore").read_text().split()


def test_secrets_are_made_once(tmp_path):
    script = shutil.copy(DEPLOY / "make-secrets", tmp_path)
    subprocess.run([script], check=True)
    folder = tmp_path / "secrets"
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(first) == 4 and all(re.fullmatch("[0-9a-f]{64}", secret) for secret in first.values())
    assert len(set(first.values())) == 4 and folder.stat().st_mode & 0o777 == 0o700
    subprocess.run([script], check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first


def test_what_is_mounted_is_there():
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (DEPLOY / volume.split(":")[0]).exists(), volume


def test_the_gateway_takes_its_file(tmp_path):
    command = [binary(), "check", "--config", tools.with_secrets(DEPLOY / "gateway.yaml", tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr + done.stdout


def test_commands_are_ones_that_the_programs_know():
    gateway = yaml.safe_load(COMPOSE.read_text())["services"]["gateway"]
    known = subprocess.run([binary(), "--help"], capture_output=True, text=True, timeout=30).stdout
    assert gateway["command"][0] in known and gateway["healthcheck"]["test"][2] in known and "--config" in known
    assert gateway["command"][2] == gateway["healthcheck"]["test"][4] == gateway["volumes"][0].split(":")[1]
    # Nothing listens there: it says so, in time, and with the right code.
    environment = os.environ | {"GATEWAY__SERVER__BIND": "127.0.0.1:9"}
    asked = subprocess.run([binary(), "healthcheck"], capture_output=True, timeout=5, env=environment, cwd=tools.ROOT)
    assert asked.returncode == 1


def test_the_gateway_has_time_to_drain():
    with (DEPLOY / "gateway.yaml").open() as file:
        drain = yaml.safe_load(file)["server"]["drain_seconds"]
    grace = yaml.safe_load(COMPOSE.read_text())["services"]["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= drain + 22
    assert int(unit()["Service"]["TimeoutStopSec"]) >= 120 + 22


def test_the_images():
    text = (DEPLOY / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.M)
    assert [name for _, name in stages][-2:] == ["sim", "gateway"], "the gateway is the last, so the default"
    names = [name for _, name in stages]
    # Where the binaries come from is an argument, by default the stage that compiles them.
    assert "ARG BINARIES=builder\n" in text and "builder" in names
    assert all(":" in image or image in [*names, "${BINARIES}"] for image, _ in stages), "every image has a tag"
    final = text[text.index("AS runtime"):]
    assert "COPY . ." not in final and re.search(r"^USER [1-9]\d+:[1-9]\d+$", final, re.M)
    assert re.search(r'^HEALTHCHECK .* CMD \["ollama-gateway", "healthcheck"\]$', final, re.M), "without a shell"
    rust = re.search(r'^channel = "([\d.]+)"', (tools.ROOT / "rust-toolchain.toml").read_text(), re.M)[1]
    assert f"FROM rust:{rust}-" in text
    # Names in the profile depend on the compiler and on the options.
    assert json.loads((tools.ROOT / "bench/profile.json").read_text()) == {"rustc": rust}, "bench/run profile"
    options = re.search(r'^OPTIONS = (\[.*\])$', (tools.ROOT / "bench/training.py").read_text(), re.M)[1]
    assert f'GATEWAY="{" ".join(json.loads(options))}"' in text
    for stage in ("gateway", "sim"):
        assert f"target: {stage}," in COMPOSE.read_text()


def unit() -> dict:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str
    parser.read(DEPLOY / "gateway.service")
    return {section: dict(parser[section]) for section in parser.sections()}


def test_the_unit_is_locked_down():
    service = unit()["Service"]
    for key in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelTunables",
                "ProtectControlGroups", "RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute", "RestrictSUIDSGID"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict" and service["CapabilityBoundingSet"] == ""
    assert service["RestrictAddressFamilies"] == "AF_UNIX AF_INET AF_INET6"
    assert service["StateDirectory"] == "gateway" and service["WorkingDirectory"] == "/var/lib/gateway"
    name, _ = service["LoadCredential"].split(":")
    assert service["Environment"] == f"GATEWAY__ADMIN__KEY_FILE=%d/{name}"
    for key in ("ExecStart", "ExecStartPre"):
        assert service[key].startswith("/usr/local/bin/ollama-gateway ") and "/etc/gateway/gateway.yaml" in service[key]
