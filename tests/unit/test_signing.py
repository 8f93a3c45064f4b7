"""Signatures: nothing unsigned or changed is used where production is on; refused before anything runs."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_daemon.cli import build_parser, main
from edge_daemon.config import load_config
from edge_daemon.errors import ConfigError, EdgeError, IntegrityError, UsageError
from edge_daemon.recipe import load_recipe
from edge_daemon.references import load_reference_set
from edge_daemon.resources import data_folder
from edge_daemon.segment import bundle as bundles
from edge_daemon.segment.bundle import FILES, MANIFEST, load
from edge_daemon.signing import SIGNATURE, Trust, make_key, parse_public_key, public_key_of, read_signatures, sign
from edge_daemon.standards import load_standard
from edge_daemon.testing.engine_contract import tiny_bundle

SET = "demo/aluminum/6.35mm/gas_porosity_round"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "release.pem")
    return tmp_path / "release.pem"


@pytest.fixture
def trust(key: Path) -> Trust:
    return Trust((public_key_of(key),), required=True)


@pytest.fixture
def engine(tmp_path: Path, key: Path) -> Path:
    bundle = tiny_bundle(tmp_path / "tiny")
    sign("engine", bundle.folder / SIGNATURE, bundle.sha256, key_file=key, signed_by="Ada Example")
    return tmp_path / "tiny"


@pytest.fixture
def references(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "plates"
    shutil.copytree(data_folder("references") / SET, folder)
    made = load_reference_set(folder)
    sign("references", folder / SIGNATURE, made.sha256, key_file=key, signed_by="Ada Example")
    return folder


@pytest.fixture
def standard(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "standards" / "house-demo"
    shutil.copytree(data_folder("standards") / "house-demo", folder)
    sign("standard", folder / SIGNATURE, load_standard(folder).sha256, key_file=key, signed_by="Ada Example")
    return folder


def test_what_a_trusted_key_signed_is_used(engine: Path, references: Path, standard: Path, trust: Trust) -> None:
    assert load(engine, trust=trust).name == "tiny"
    assert len(load_reference_set(references, trust).images) == 8
    assert load_standard(standard, trust=trust).id == "house-demo"


def test_a_changed_byte_in_any_file_of_a_signed_bundle_is_found(engine: Path, trust: Trust) -> None:
    for name in (MANIFEST, SIGNATURE, *FILES):
        good = (engine / name).read_bytes()
        for at in range(0, len(good), max(1, len(good) // 60)):
            bad = bytearray(good)
            bad[at] ^= 0x01
            (engine / name).write_bytes(bytes(bad))
            with pytest.raises(IntegrityError):
                load(engine, trust=trust)
        (engine / name).write_bytes(good)
    assert load(engine, trust=trust).name == "tiny"


def test_a_bundle_sealed_again_after_a_change_is_refused(engine: Path, trust: Trust) -> None:
    """What the seal alone cannot notice: whoever can write the folder can seal it again."""
    (engine / "card.md").write_text("# Tiny\nfinds everything\n")
    manifest = {k: v for k, v in json.loads((engine / MANIFEST).read_text()).items() if k not in ("files", "seal")}
    bundles.seal(engine, manifest)
    assert load(engine).name == "tiny"
    with pytest.raises(IntegrityError, match="changed after it was signed") as refused:
        load(engine, trust=trust)
    assert refused.value.code == "SIGNATURE"


def test_every_file_of_a_signed_reference_set_and_table_is_under_the_signature(
    references: Path, standard: Path, trust: Trust
) -> None:
    for path in sorted(references.iterdir()):
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 2):
            bad = bytearray(good)
            bad[at] ^= 0x04
            path.write_bytes(bytes(bad))
            with pytest.raises(IntegrityError):
                load_reference_set(references, trust)
        path.write_bytes(good)
    for path in sorted(standard.iterdir()):
        good = path.read_bytes()
        path.write_bytes(good.replace(b"A", b"B", 1) if b"A" in good else good[:-1] + b" ")
        with pytest.raises(EdgeError):
            load_standard(standard, trust=trust)
        path.write_bytes(good)
    rows = (standard / "rules.csv").read_text()
    (standard / "rules.csv").write_text(rows + "\n")  # harmless to the reader, and yet another table
    with pytest.raises(IntegrityError, match="changed after it was signed"):
        load_standard(standard, trust=trust)


def test_a_plate_swapped_together_with_its_hash_is_refused_before_it_is_decoded(
    references: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(references / "8.png")
    document = json.loads((references / "manifest.json").read_text())
    document["files"]["8.png"] = __import__("hashlib").sha256((references / "8.png").read_bytes()).hexdigest()
    (references / "manifest.json").write_text(json.dumps(document))
    monkeypatch.setattr("edge_daemon.references.sets.load_plate", lambda *a, **k: pytest.fail("decoded first"))
    with pytest.raises(IntegrityError, match="changed after it was signed"):
        load_reference_set(references, trust)


@pytest.mark.parametrize("kind", ["engine", "references", "standard"])
def test_unsigned_and_unknown_signers_are_told_apart(
    kind: str, tmp_path: Path, engine: Path, references: Path, standard: Path, trust: Trust
) -> None:
    folder = {"engine": engine, "references": references, "standard": standard}[kind]

    def use(whom: Trust) -> object:
        if kind == "engine":
            return load(folder, trust=whom)
        return load_reference_set(folder, whom) if kind == "references" else load_standard(folder, trust=whom)

    stranger = Trust((make_key(tmp_path / "other.pem"),), required=True)
    with pytest.raises(IntegrityError, match=r"Ada Example.*not trusted here") as untrusted:
        use(stranger)
    assert untrusted.value.code == "UNTRUSTED"
    assert use(Trust(stranger.keys, required=False)) is not None
    (folder / SIGNATURE).unlink()
    with pytest.raises(IntegrityError, match="is not signed") as unsigned:
        use(trust)
    assert unsigned.value.code == "UNSIGNED"
    assert unsigned.value.exit_code == 4
    assert use(Trust(trust.keys, required=False)) is not None


def test_a_signature_fits_nothing_but_what_it_was_made_for(engine: Path, trust: Trust, key: Path) -> None:
    """Not another kind, not another name, not another time; and a signature from elsewhere does not help."""
    good = json.loads((engine / SIGNATURE).read_text())
    for change in ("signed_by", "signed_utc", "sha256", "signature", "key"):
        bad = json.loads(json.dumps(good))
        entry = bad["signatures"][0]
        entry[change] = entry[change].replace(entry[change][-4], "x" if entry[change][-4] != "x" else "y")
        (engine / SIGNATURE).write_text(json.dumps(bad))
        with pytest.raises(IntegrityError):
            load(engine, trust=trust)
    (engine / SIGNATURE).unlink()
    sign("references", engine / SIGNATURE, load(engine).sha256, key_file=key, signed_by="Ada Example")
    with pytest.raises(IntegrityError, match="no signature of kind 'engine'"):
        load(engine, trust=trust)
    moved = json.loads((engine / SIGNATURE).read_text()) | {"kind": "engine"}
    (engine / SIGNATURE).write_text(json.dumps(moved))
    with pytest.raises(IntegrityError, match="changed after it was signed"):
        load(engine, trust=trust)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"[" * 9000, b'{"schema":1,"kind":"engine","signatures":[]}', b"{}" + b" " * 70000],
)
def test_nonsense_in_place_of_a_signature_is_refused(engine: Path, trust: Trust, content: bytes) -> None:
    (engine / SIGNATURE).write_bytes(content)
    with pytest.raises(IntegrityError, match="no signature of kind"):
        load(engine, trust=trust)
    (engine / SIGNATURE).unlink()
    (engine / SIGNATURE).symlink_to(engine / "nowhere")
    with pytest.raises(IntegrityError, match="cannot be read"):
        load(engine, trust=trust)


def test_a_second_person_may_sign_too(engine: Path, tmp_path: Path, trust: Trust) -> None:
    other = Trust((make_key(tmp_path / "other.pem"),), required=True)
    digest = load(engine).sha256
    sign("engine", engine / SIGNATURE, digest, key_file=tmp_path / "other.pem", signed_by="Grace Example")
    assert {one.signed_by for one in read_signatures(engine / SIGNATURE, "engine")} == {"Ada Example", "Grace Example"}
    assert load(engine, trust=trust) and load(engine, trust=other)


def test_keys_are_kept_private(tmp_path: Path, key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists"):
        make_key(key)
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="others than its owner") as refused:
        public_key_of(key)
    assert refused.value.code == "SECRET"
    (tmp_path / "no.pem").write_text("nonsense")
    (tmp_path / "no.pem").chmod(0o600)
    with pytest.raises(ConfigError, match="no private key"):
        public_key_of(tmp_path / "no.pem")


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "ed25519:AAAA", "ssh-ed25519 AAAA", base64.b64encode(bytes(32)).decode()]
)
def test_what_is_no_public_key_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="no public key"):
        parse_public_key(text)


def line_toml(folder: Path, security: str) -> Path:
    (folder / "line.toml").write_text(
        f"""[station]
name = "cell-1"
recipe = "recipe.toml"
[camera]
kind = "folder"
folder = "frames"
[line]
driver = "ascii"
port = "/dev/null"
deadline = "300 ms"
[memory]
database = "memory.db"
pictures = "pictures"
[engine]
backend = "onnxruntime"
{security}"""
    )
    (folder / "recipe.toml").write_text(
        'name = "house"\nengine = "tiny"\nmm_per_px = "0.1 mm"\nothers = "NONE_PERMITTED"\nmetal = "aluminum"\n'
        '[[rule]]\ntype = "gas_porosity_round"\nkind = "LEVEL"\nlevel = 5\nreference = "plates"\n'
        'windows = ["12.7 mm"]\n'
    )
    return folder / "line.toml"


def test_production_refuses_before_anything_native_is_made(
    tmp_path: Path, engine: Path, references: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ONNX session and no plan: the refusal names what is missing, and the way to put it right."""
    from edge_daemon import daemon

    config = load_config(
        line_toml(tmp_path, f'[security]\nproduction = true\ntrusted_keys = ["{public_key_of(key)} Ada"]\n')
    )
    assert config.trust == Trust((public_key_of(key),), required=True)
    opened: list[str] = []
    real = daemon.open_engine
    monkeypatch.setattr(daemon, "open_engine", lambda *a, **k: opened.append("opened") or real(*a, **k))
    monkeypatch.setattr(daemon, "prepare_station", lambda engine, *a, **k: engine.close())
    daemon.build_station(config)
    assert opened == ["opened"]
    opened.clear()
    for folder in (engine, references):
        (folder / SIGNATURE).rename(tmp_path / "aside")
        with pytest.raises(IntegrityError, match=f"{folder} is not signed"):
            daemon.build_station(config)
        (tmp_path / "aside").rename(folder / SIGNATURE)
    assert not opened


def test_replay_and_the_page_beside_a_line_ask_for_the_lines_signatures(
    tmp_path: Path, engine: Path, references: Path, standard: Path, key: Path, trust: Trust,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from edge_daemon.cli.paging import _options
    from edge_daemon.memory import MemoryBank
    from edge_daemon.station.choices import Choice, Choices, TableChoice

    security = f'[security]\nproduction = true\ntrusted_keys = ["{public_key_of(key)} Ada"]\n'
    config = line_toml(tmp_path, security)
    MemoryBank(tmp_path / "memory.db").close()
    asked = build_parser().parse_args(["station", "--config", str(config), "--engine", str(engine)])
    options = replace(_options(asked), data=tmp_path / "page", standards_base=tmp_path, backend="onnxruntime")
    assert options.trust == trust
    choices = Choices(options)
    by_table = Choice(table=TableChoice("house-demo", "steel", 90.0, "C", "casting"), mm_per_px=0.1)
    by_recipe = Choice(recipe="house")
    try:
        assert choices.station(by_table).seals.engine == load(engine).sha256
        for folder, choice in ((engine, by_table), (engine, by_recipe), (standard, by_table), (references, by_recipe)):
            signature = folder / SIGNATURE
            signature.rename(tmp_path / "aside")
            with pytest.raises(IntegrityError, match=f"{folder.name} is not signed"):
                choices.station(choice)
            if choice is by_recipe:
                assert main(["replay", "--config", str(config)]) == 4
                assert f"{folder.name} is not signed" in capsys.readouterr().err
            (tmp_path / "aside").rename(signature)
    finally:
        choices.close()


def test_a_recipe_asks_for_its_tables_signature(tmp_path: Path, standard: Path, trust: Trust) -> None:
    recipe = tmp_path / "by-table.toml"
    recipe.write_text(
        'name = "t"\nengine = "tiny"\nmm_per_px = "0.1 mm"\nmetal = "steel"\nthickness = "90 mm"\n'
        '[standard]\nname = "house-demo"\ngrade = "C"\nprocess = "casting"\n'
    )
    assert load_recipe(recipe, trust).standard is not None
    (standard / SIGNATURE).unlink()
    with pytest.raises(IntegrityError, match="house-demo is not signed"):
        load_recipe(recipe, trust)


@pytest.mark.parametrize(
    ("security", "said"),
    [
        ("[security]\nproduction = true\n", r"line.toml:17: \[security\] production: .*trusts nobody"),
        ('[security]\ntrusted_keys = ["x"]\n', r"line.toml:17: \[security\] trusted_keys: 'x' is no public key"),
        ('[security]\ntrusted_keys = "x"\n', "must be a list of texts"),
        ("[security]\nproduktion = true\n", "did you mean 'production'"),
    ],
)
def test_wrong_security_settings_name_the_line(tmp_path: Path, security: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(line_toml(tmp_path, security))


def test_the_commands(
    tmp_path: Path, engine: Path, references: Path, standard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "new.pem"
    assert main(["keys", "make", "--out", str(key), "--json"]) == 0
    public = json.loads(capsys.readouterr().out)["key"]
    assert main(["keys", "show", str(key)]) == 0
    assert capsys.readouterr().out.strip() == public
    signer, trusted = ["--key", str(key), "--by", "Grace Example", "--json"], ["--trusted-key", public, "--json"]
    for room, verb, folder in (
        ("engine", "verify", engine), ("standards", "signature", standard), ("references", "verify", references),
    ):  # fmt: skip
        assert main([room, verb, str(folder), *trusted]) == 4
        assert "not trusted here" in capsys.readouterr().err
        assert main([room, "sign", str(folder), *signer]) == 0
        assert json.loads(capsys.readouterr().out)["signed_by"] == "Grace Example"
        assert main([room, verb, str(folder), *trusted]) == 0
        assert "Grace Example" in capsys.readouterr().out or room == "references"
    secret = key.read_text().splitlines()[1]
    assert main(["standards", "signature", str(standard)]) == 2
    assert secret not in "".join(capsys.readouterr())
