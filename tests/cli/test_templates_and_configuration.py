"""`handoff workflows` and `handoff config`."""

import json

import pytest

from tests.cli.conftest import House, Place

BROKEN_GRAPH = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}


def add_workflow(place: Place, name: str, parameters: str, graph: object = BROKEN_GRAPH) -> None:
    folder = place.root / "data/workflows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(graph))
    (folder / f"{name}.toml").write_text(parameters)


class TestWorkflows:
    def test_list(self, place: Place) -> None:
        add_workflow(place, "mine", 'title = "My own"\n')
        add_workflow(place, "broken", 'titel = "x"\n')
        ran = place.call("workflows", "list").expect(0)
        assert "txt2img" in ran.out
        assert "My own" in ran.out
        assert "handoff workflows check broken" in ran.out
        listed = {
            entry["name"]: entry for entry in place.call("workflows", "list", "--json").expect(0).json["workflows"]
        }
        assert "prompt" in listed["txt2img"]["parameters"]
        assert listed["txt2img"]["problems"] == []
        assert "titel" in listed["broken"]["problems"][0]

    def test_parameters_of_one(self, place: Place) -> None:
        ran = place.call("workflows", "list", "txt2img").expect(0)
        lines = {line.split()[0]: line for line in ran.out.splitlines()[3:] if line.strip()}
        assert "string" in lines["prompt"]
        assert "*" in lines["prompt"]
        assert "512" in lines["width"]
        assert "from 64 to 4096 step 8" in lines["width"]
        assert "drawn" in lines["seed"]
        assert "euler_ancestral" in ran.out

    def test_as_json_schema(self, place: Place) -> None:
        schema = place.call("workflows", "list", "txt2img", "--json").expect(0).json
        assert schema["required"] == ["prompt"]
        assert schema["properties"]["width"]["maximum"] == 4096

    @pytest.mark.parametrize("command", ["list", "check"])
    def test_an_unknown_one(self, place: Place, command: str) -> None:
        ran = place.call("workflows", command, "txt2im", comfyui_url="http://127.0.0.1:9").expect(2)
        assert "The nearest known: txt2img" in ran.err

    def test_check_without_comfyui(self, place: Place) -> None:
        ran = place.call("workflows", "check", "--json", comfyui_url="http://127.0.0.1:9").expect(0)
        assert ran.json["compared_with_comfyui"] is False
        assert not any(ran.json["problems"].values())
        assert "ComfyUI does not answer" in ran.err

    def test_check_finds_what_is_wrong_with_the_files(self, place: Place) -> None:
        add_workflow(place, "broken", "[parameters.width]\ntype = 'int'\nto = '2.width'\n")
        ran = place.call("workflows", "check", "broken", comfyui_url="http://127.0.0.1:9").expect(1)
        assert "the graph has no node 2" in ran.out

    def test_check_compares_with_comfyui(self, house: House) -> None:
        assert "txt2img: ok" in house.call("workflows", "check").expect(0).out
        add_workflow(house, "foreign", "", {"1": {"class_type": "NoSuchNode", "inputs": {}}})
        try:
            ran = house.call("workflows", "check", "foreign", "--json").expect(1)
        finally:
            for suffix in ("json", "toml"):
                (house.root / f"data/workflows/foreign.{suffix}").unlink()
        assert "NoSuchNode" in ran.json["problems"]["foreign"][0]


class TestConfig:
    def test_values_and_where_they_come_from(self, place: Place) -> None:
        (place.root / ".env").write_text("HANDOFF_WINDOW=5\nHANDOFF_S3_PREFIX=from-file\n")
        rows = {row["name"]: row for row in place.call("config", "--json", s3_prefix="from-env").expect(0).json}
        assert (rows["HANDOFF_WINDOW"]["value"], rows["HANDOFF_WINDOW"]["source"]) == (5, ".env")
        assert (rows["HANDOFF_S3_PREFIX"]["value"], rows["HANDOFF_S3_PREFIX"]["source"]) == ("from-env", "environment")
        assert (rows["HANDOFF_SCAN_S"]["value"], rows["HANDOFF_SCAN_S"]["source"]) == (5, "default")
        assert all(row["description"] for row in rows.values())

    def test_secrets_are_masked(self, place: Place) -> None:
        (place.root / ".env").write_text("AWS_SECRET_ACCESS_KEY=hush1\nAWS_ACCESS_KEY_ID=hush2\nAWS_REGION=eu-west-1\n")
        for format in ([], ["--json"]):
            ran = place.call(
                "config",
                *format,
                comfyui_url="http://user:hush3@host:8188/?token=hush4",
                comfyui_restart="curl -H 'Authorization: hush5' http://host",
                url_allow="http://me:hush6@host",
            ).expect(0)
            assert "hush" not in ran.out + ran.err
            assert "AWS_SECRET_ACCESS_KEY" in ran.out
            assert "eu-west-1" in ran.out

    def test_what_is_wrong(self, place: Place) -> None:
        ran = place.call("config", window=0, comfyui_url="host:8188").expect(2)
        assert "HANDOFF_WINDOW" in ran.err
        assert "HANDOFF_COMFYUI_URL" in ran.err
        assert not ran.out


def test_the_simulator_says_how_to_install_it(place: Place) -> None:
    (place.root / "aiohttp.py").write_text("raise ModuleNotFoundError(name='aiohttp')")
    assert ".[simulator]" in place.run("simulator").expect(2).err


def test_the_simulator_takes_its_own_flags(place: Place) -> None:
    assert "--probe-nodes" in place.run("simulator", "--help").expect(0).out
    assert "--nonsense" in place.run("simulator", "--nonsense").expect(2).err
