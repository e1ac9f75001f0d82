"""Can what stands in deploy/k8s be applied? Held against Kubernetes' own schemas and against itself; no cluster is needed."""

import os
import subprocess

import kubernetes_validate
import pytest
import requests
import tools
import yaml
from support import binary, demo

FOLDER = tools.ROOT / "deploy" / "k8s"
# The oldest that is promised, and the newest that the schemas know.
VERSIONS = ["1.26", kubernetes_validate.latest_version()]
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


RESOURCES = [document for name in KUSTOMIZATION["resources"] for document in documents(name)]
SETS = [each for each in RESOURCES if each["kind"] == "StatefulSet"]


def of(kind: str, name: str) -> dict:
    [found] = [each for each in RESOURCES if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod(of_set: dict) -> dict:
    return of_set["spec"]["template"]["spec"]


def matches(selector: dict, labels: dict) -> bool:
    return selector.items() <= labels.items()


def selected(selector: dict) -> list[str]:
    """The sets whose pods a selector means."""
    return [each["metadata"]["name"] for each in SETS if matches(selector, each["spec"]["template"]["metadata"]["labels"])]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_one_of_its_kind(version):
    for document in RESOURCES + documents("secrets.example.yaml"):
        if document["kind"] != "ServiceMonitor":  # The operator's own; looked at below.
            kubernetes_validate.validate(document, version, strict=True)
    broken = {**of("Service", "gateway"), "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_every_file_is_applied():
    files = {path.name for path in FOLDER.iterdir()}
    generated = {name.split("=")[-1] for each in KUSTOMIZATION["configMapGenerator"] for name in each["files"]}
    assert files == {"kustomization.yaml", "secrets.example.yaml"} | set(KUSTOMIZATION["resources"]) | generated
    namespace = KUSTOMIZATION["namespace"]
    assert of("Namespace", namespace) and documents("secrets.example.yaml")[0]["metadata"]["namespace"] == namespace


def test_the_gateway_takes_its_file(tmp_path):
    command = [binary(), "check", "--config", tools.with_secrets(FOLDER / "config.yaml", tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr + done.stdout


def test_selectors_mean_the_pods_that_they_should():
    for each in SETS:
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"] == labels == each["metadata"]["labels"]
        assert of("Service", each["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    for name, wanted in [("gateway", "gateway"), ("gateway-headless", "gateway"), ("ollama", "ollama")]:
        assert selected(of("Service", name)["spec"]["selector"]) == [wanted], name
    for name in ("gateway", "ollama"):
        assert selected(of("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"]) == [name]
    policy = of("NetworkPolicy", "ollama")["spec"]
    assert selected(policy["podSelector"]["matchLabels"]) == ["ollama"]
    assert selected(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]) == ["gateway"]


def test_ports_are_ones_that_the_pods_have():
    for service in [each for each in RESOURCES if each["kind"] == "Service"]:
        [name] = selected(service["spec"]["selector"])
        ports = {port["name"]: port["containerPort"] for port in pod(of("StatefulSet", name))["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
            # Of a headless service the port of the pod itself is reached.
            assert service["spec"].get("clusterIP") != "None" or port["port"] == ports[port["targetPort"]]


def test_one_gateway_schedules_for_all_over_a_link_that_only_gateways_reach():
    container = pod(of("StatefulSet", "gateway"))["containers"][0]
    environment = {each["name"]: each.get("value", "10.0.0.7") for each in container["env"]}
    for name, value in environment.items():
        environment[name] = value.replace("$(POD_IP)", environment["POD_IP"])
    [link] = [port["containerPort"] for port in container["ports"] if port["name"] == "link"]
    assert environment["GATEWAY__CLUSTER__BIND"].rpartition(":")[2] == str(link)
    assert environment["GATEWAY__CLUSTER__ADVERTISE"] == f"http://10.0.0.7:{link}"
    command = [binary(), "check", "--config", FOLDER / "config.yaml"]
    for wrong in [{}, {"GATEWAY__CLUSTER__ADVERTISE": "gateway-0:8001"}]:
        settings = {**os.environ, **environment, **wrong}
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=settings)
        told = "GATEWAY__CLUSTER" in done.stdout + done.stderr or "cluster.advertise" in done.stdout + done.stderr
        assert told == bool(wrong), done.stdout + done.stderr
    spec = of("NetworkPolicy", "gateway")["spec"]
    assert selected(spec["podSelector"]["matchLabels"]) == ["gateway"]
    everybody, gateways = spec["ingress"]
    assert "from" not in everybody and [port["port"] for port in everybody["ports"]] == ["http"]
    assert selected(gateways["from"][0]["podSelector"]["matchLabels"]) == ["gateway"]
    assert [port["port"] for port in gateways["ports"]] == ["link"]


def test_prometheus_scrapes_every_replica_once():
    monitor = of("ServiceMonitor", "gateway")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    services = [each for each in RESOURCES if each["kind"] == "Service" and matches(wanted, each["metadata"].get("labels", {}))]
    assert [each["metadata"]["name"] for each in services] == ["gateway"]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in services[0]["spec"]["ports"]} and endpoint["path"] == "/metrics"
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == [KUSTOMIZATION["namespace"]]


def test_probes_ask_what_answers():
    with demo() as gateway:
        container = pod(of("StatefulSet", "gateway"))["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = container[probe]["httpGet"]
            assert get["port"] in {port["name"] for port in container["ports"]}
            assert requests.get(gateway.url + get["path"], timeout=5).status_code == 200, probe


def test_what_is_mounted_is_there():
    gateway = of("StatefulSet", "gateway")
    container, config = pod(gateway)["containers"][0], documents("config.yaml")[0]
    claims = {each["metadata"]["name"] for each in gateway["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"]: volume for volume in pod(gateway)["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes) | claims
    [generated] = KUSTOMIZATION["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == generated["name"]
    file = generated["files"][0].split("=")[0]
    assert container["args"] == ["serve", "--config", f"{mounts['config']}/{file}"]
    [secret] = documents("secrets.example.yaml")
    assert volumes["secrets"]["secret"]["secretName"] == secret["metadata"]["name"]
    for named in (config["admin"]["key_file"], config["database"]["password_file"]):
        folder, key = named.rsplit("/", 1)
        assert folder == mounts["secrets"] and key in secret["stringData"]
    # Where the image works, and so where usage waits for the database.
    workdir = [line.split()[1] for line in (tools.ROOT / "deploy/Dockerfile").read_text().splitlines() if line.startswith("WORKDIR")]
    assert mounts["data"] == workdir[-1] and claims == {"data"}
    used = {image["name"] for image in KUSTOMIZATION["images"]}
    assert container["image"] in used


def test_nodes_are_discovered_by_the_headless_service():
    [node] = documents("config.yaml")[0]["nodes"]
    service = of("Service", "ollama")
    host = f"{service['metadata']['name']}.{KUSTOMIZATION['namespace']}.svc.cluster.local"
    assert node["discover"] == "dns" and node["url"] == f"http://{host}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["publishNotReadyAddresses"], "the gateway asks nodes itself"
    environment = {each["name"]: each["value"] for each in pod(of("StatefulSet", "ollama"))["containers"][0]["env"]}
    assert environment["OLLAMA_NUM_PARALLEL"] == str(node["slots"])


def test_replicas_have_time_to_drain_and_go_one_at_a_time():
    gateway, drain = of("StatefulSet", "gateway"), documents("config.yaml")[0]["server"]["drain_seconds"]
    assert pod(gateway)["terminationGracePeriodSeconds"] >= drain + 22
    assert gateway["spec"]["replicas"] >= 2 and gateway["spec"]["podManagementPolicy"] == "OrderedReady"
    for name in ("gateway", "ollama"):
        assert of("PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


def test_the_gateway_is_locked_down():
    spec = pod(of("StatefulSet", "gateway"))
    uid = int((tools.ROOT / "deploy/Dockerfile").read_text().split("USER ")[1].split(":")[0])
    context = spec["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] == context["fsGroup"] == uid
    assert context["seccompProfile"]["type"] == "RuntimeDefault" and spec["automountServiceAccountToken"] is False
    container = spec["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert "memory" in container["resources"]["limits"] and "cpu" not in container["resources"]["limits"]
    text = "".join(path.read_text() for path in FOLDER.iterdir() if path.name != "secrets.example.yaml")
    assert "stringData" not in text and "password:" not in text


def test_the_docs_name_what_is_there():
    docs = (tools.ROOT / "docs" / "operate" / "deploy.md").read_text()
    assert "kubectl apply -k deploy/k8s" in docs
