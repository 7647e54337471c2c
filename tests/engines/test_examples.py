"The example scripts: they parse, and start engines as the installed TRL wants them."

import subprocess

import pytest

from vtg_r1.core.runtime import project_root

EXAMPLES = project_root() / "examples"


@pytest.mark.parametrize("script", sorted(p.name for p in EXAMPLES.glob("*.sh")))
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", EXAMPLES / script], check=False).returncode == 0


def test_the_server_has_the_options_that_trl_gives_it():
    "TRL's own command for a server of rollouts, whose `trl vllm-serve` is deprecated."
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    script = (EXAMPLES / "vllm_server.sh").read_text()
    command = build_command(ScriptArguments(model="m"))
    imposed = command[command.index("--weight-transfer-config") :]
    assert {"--weight-transfer-config", "--logprobs-mode", "--max-logprobs"} <= set(imposed)
    assert all(word in script for word in imposed) and "VLLM_SERVER_DEV_MODE=1 vllm serve" in script and "trl vllm-serve" not in script


def test_two_nodes_name_the_interface_of_gloo(tmp_path):
    "The script's own line, where a host's default route is known and where the user has named an interface."
    (line,) = [line for line in (EXAMPLES / "slurm_two_nodes.sh").read_text().splitlines() if line.startswith("export GLOO_SOCKET_IFNAME")]
    (tmp_path / "ip").write_text("#!/bin/sh\necho 'default via 10.0.0.1 dev ib0 proto dhcp'\n")
    (tmp_path / "ip").chmod(0o755)
    for own, expected in (("", "ib0"), ("eth7", "eth7")):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **({"GLOO_SOCKET_IFNAME": own} if own else {})}
        assert subprocess.check_output(["bash", "-c", f"{line}; echo $GLOO_SOCKET_IFNAME"], env=env, text=True).strip() == expected
