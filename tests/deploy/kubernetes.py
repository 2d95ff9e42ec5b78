"""Starts the server as each Kubernetes manifest does, and probes and stops it as Kubernetes would.

Arguments: the server's binary, and the manifests. As root, the server runs as the manifest's user. Volumes and secrets
are temporary folders with the modes that a kubelet gives them. The database is SQLite in either case.
"""

import base64
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PATIENCE_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", path)
    return connection.getresponse().status


def limit(help_text, name):
    return int(re.search(rf"^\s+{name}=(\d+)", help_text, re.MULTILINE).group(1))


def check_settings(pod, container, help_text):
    """What a cluster's policies and operators expect, and the times that must fit together."""
    security, own = pod["securityContext"], container["securityContext"]
    assert security["runAsNonRoot"] and security["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert pod["enableServiceLinks"] is False, "a Service called uproar would set variables called UPROAR_…"
    # After the time limit, threads that are still busy get half a second.
    assert pod["terminationGracePeriodSeconds"] * 1000 > limit(help_text, "stop_timeout_ms") + 500
    assert container["readinessProbe"]["timeoutSeconds"] * 1000 > limit(help_text, "ready_timeout_ms")
    known = set(re.findall(r"\[env: (UPROAR_\w+)", help_text))
    for variable in container["env"]:
        assert variable["name"] in known, f"there is no option for {variable['name']}"


def environment(container, volumes, folder):
    """The server's variables, with free ports and temporary folders. Also returns the ports by name."""
    ports, replacements = {}, {}
    for port in container["ports"]:
        ports[port["name"]] = free_port()
        replacements[f"0.0.0.0:{port['containerPort']}"] = f"127.0.0.1:{ports[port['name']]}"
    paths = {mount["mountPath"]: str(folder / mount["name"]) for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    variables = {}
    for variable in container["env"]:
        value = variable.get("value")
        if value is None:
            assert variable["valueFrom"]["secretKeyRef"] == {"name": "uproar", "key": "database"}, variable
            value = f"sqlite:{folder}/data/database.db"
        value = replacements.get(value, value)
        for mounted, real in paths.items():
            if value.startswith(mounted + "/"):
                value = real + value.removeprefix(mounted)
        variables[variable["name"]] = value
    return variables, ports


def check_pod(binary, help_text, spec, claims):
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    check_settings(pod, container, help_text)
    folder = Path(tempfile.mkdtemp(prefix="uproar-kubernetes-"))
    try:
        os.chmod(folder, 0o755)
        user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]
        is_root = os.geteuid() == 0
        for volume in pod.get("volumes", []) + [claim["metadata"] for claim in claims]:
            path = folder / volume["name"]
            path.mkdir()
            for item in volume.get("secret", {}).get("items", []):
                assert item["key"] == "signing.key"
                (path / item["path"]).write_bytes(base64.b64encode(os.urandom(32)))
                os.chmod(path / item["path"], volume["secret"]["defaultMode"])
                if is_root:
                    os.chown(path / item["path"], 0, group)
            if is_root:
                # Volumes belong to root and to the group.
                os.chown(path, 0, group)
            os.chmod(path, 0o2775)
        program = shutil.copy(binary, folder / "uproar")
        os.chmod(program, 0o755)
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | {c["metadata"]["name"] for c in claims}
        variables, ports = environment(container, volumes, folder)
        identity = {"user": user, "group": pod["securityContext"]["runAsGroup"], "extra_groups": [group]}
        output = {"stdout": subprocess.DEVNULL}
        server = subprocess.Popen([program], env=variables, cwd="/", **output, **(identity if is_root else {}))
        try:
            probe(server, container, ports)
            server.send_signal(signal.SIGTERM)
            assert server.wait(pod["terminationGracePeriodSeconds"]) == 0
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder)


def probe(server, container, ports):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < deadline, "the server does not start"
        try:
            get(ports["admin"], "/healthz")
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    for name in ["startupProbe", "livenessProbe", "readinessProbe"]:
        target = container[name]["httpGet"]
        assert get(ports[target["port"]], target["path"]) == 200, name
    assert get(ports["http"], "/readyz") == 200
    assert (get(ports["http"], "/metrics"), get(ports["admin"], "/metrics")) == (404, 200)


def main(binary, manifests):
    help_text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    for manifest in manifests:
        with open(manifest) as file:
            objects = list(yaml.safe_load_all(file))
        kinds = {thing["kind"]: thing for thing in objects}
        assert len(kinds) == len(objects)
        workload = kinds.get("StatefulSet") or kinds["Deployment"]
        template = workload["spec"]["template"]
        (container,) = template["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        labels = template["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        assert kinds["Service"]["spec"]["selector"] == labels
        assert [port["targetPort"] for port in kinds["Service"]["spec"]["ports"]] == ["http"]
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(named["admin"])
        if "PodDisruptionBudget" in kinds:
            assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        check_pod(binary, help_text, workload["spec"], workload["spec"].get("volumeClaimTemplates", []))
        print(f"{manifest}: the server starts, answers its probes and stops.")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
