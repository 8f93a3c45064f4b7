"""Training and qualification: real pictures, a real (short) training, a real sealed bundle, figures checked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_daemon import train
from edge_daemon.errors import IntegrityError, MissingExtra, StorageError, UsageError
from edge_daemon.resources import engine_folder
from edge_daemon.segment.bundle import Thresholds, load
from edge_daemon.segment.prepare import prepare
from edge_daemon.segment.protocol import Tensors
from edge_daemon.segment.see import coverage_from_logits, find_blobs
from edge_daemon.simulator import CASTING_TYPES, Exposure, PlannedDefect, Radiograph, simulate
from edge_daemon.train import calibrate, certify, pictures


def test_simulate_to_folder_writes_pictures_with_their_truth(tmp_path: Path) -> None:
    paths = train.simulate_to_folder(tmp_path / "new", 2, seed=7, mm_per_px=0.1, size_px=(256, 300))
    assert [path.name for path in paths] == ["000007.png", "000008.png"]
    for path in paths:
        picture = simulate(int(path.stem), size_px=(256, 300))
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), picture.pixels)
        labels = cv2.imread(str(path.with_name(f"{path.stem}-labels.png")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(labels, picture.labels)
        ignored = cv2.imread(str(path.with_name(f"{path.stem}-ignored.png")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(ignored == 255, pictures.visible_labels(picture) == pictures.IGNORED)
        document = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert document["polarity"] == "bright_void"
        assert {d["label"] for d in document["defects"]} >= set(np.unique(labels).tolist()) - {0}
        for defect in document["defects"]:
            x, y, width, height = defect["bbox_px"]
            here = np.s_[y : y + height, x : x + width]
            assert defect["visible"] == bool(((labels[here] == defect["label"]) & (ignored[here] == 0)).any())


def test_simulate_in_two_processes_and_options(tmp_path: Path) -> None:
    """Workers change nothing; depth, polarity and soundness are as asked."""
    options: dict[str, Any] = {"size_px": (128, 128), "bits": 16, "polarity": "dark_void", "structure": "gear"}
    one = train.simulate_to_folder(tmp_path / "one", 3, seed=5, **options)
    two = train.simulate_to_folder(tmp_path / "two", 3, seed=5, workers=2, **options)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert cv2.imread(str(one[0]), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    (quiet,) = train.simulate_to_folder(tmp_path / "sound", 1, defects=(), size_px=(128, 128))
    assert not cv2.imread(str(quiet.with_name("000000-labels.png")), cv2.IMREAD_UNCHANGED).any()
    for wrong in ({"structure": "cheese"}, {"mode": "cheese"}, {"metal": "cheese"}, {"bits": 9}, {"polarity": "up"}):
        with pytest.raises(UsageError):
            train.simulate_to_folder(tmp_path / "wrong", 1, **wrong)


def test_simulate_to_folder_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="n >= 1"):
        train.simulate_to_folder(tmp_path, 0)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="file"):
        train.simulate_to_folder(tmp_path / "file", 1)


def test_invisible_discontinuities_are_ignored_and_visible_ones_are_not() -> None:
    """Two equal pores, one 2 mm deep and one of 20 um: only the first can be seen."""
    plan = [PlannedDefect("gas_hole", 2.0, 2.0, (60, 60)), PlannedDefect("gas_hole", 2.0, 0.02, (190, 190))]
    picture = simulate(3, size_px=(256, 256), defects=plan, structure="plate", exposure=Exposure(quanta=20000.0))
    visible = pictures.visible_labels(picture)
    assert picture.labels[60, 60] == picture.labels[190, 190] == 1
    assert visible[60, 60] == 1
    assert visible[190, 190] == pictures.IGNORED
    assert np.array_equal(visible == 0, picture.labels == 0)


@pytest.mark.parametrize(("share", "sigma_px"), [(0.0, 0.0), (1.0, 0.6), (0.7, 1.5), (1.0, 2.0)])
def test_visibility_counts_coarse_grain_as_the_matched_filter_does(share: float, sigma_px: float) -> None:
    """The limit against a trial: the template's answer to 4,000 pictures of nothing but such noise."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[-20:21, -20:21]
    signal = np.where(y * y + x * x <= 81, np.float32(5.0), np.float32(0.0))
    labels = (signal > 0).astype(np.uint8)
    answers = []
    for _ in range(4000):
        white, other = rng.standard_normal((2, 73, 73)).astype(np.float32)
        soft = cv2.GaussianBlur(white, (0, 0), sigma_px) if sigma_px else white
        kernel = cv2.getGaussianKernel(2 * round(6 * sigma_px) + 1, sigma_px) if sigma_px else np.ones((1, 1))
        soft /= float((kernel**2).sum())
        noise = np.sqrt(share) * soft + np.sqrt(1.0 - share) * other
        answers.append(float((signal * noise[16:57, 16:57]).sum()))
    # The noise at which this spot is just visible: 10 = sum(s s) / (noise * spread of the template's answers).
    limit = float((signal**2).sum()) / (10.0 * float(np.std(answers)))
    for factor, visible in ((0.93, True), (1.07, False)):
        picture = Radiograph(labels, labels, 0.1, (), signal, np.full_like(signal, factor * limit), (share, sigma_px))
        assert bool(pictures.visible_labels(picture)[20, 20] == 1) is visible


def test_pool_holds_exactly_what_the_line_would_see() -> None:
    """Views as ``prepare`` makes them on the whole picture; evaluation's seeds are refused."""
    seed = next(s for s in range(40) if pictures.draw_picture(s, 128).pixels.shape == (128, 128))
    pool = pictures.make_pool([seed], 128)
    whole = prepare(pictures.draw_picture(seed, 128).pixels, ("grey", "local"), pictures.LOCAL_SIGMA_PX)
    assert np.allclose(pool.grey[0] / 255.0, whole[0], atol=1e-6)
    assert np.allclose(pool.local[0], whole[1], atol=1e-3)
    with pytest.raises(UsageError, match="for evaluation"):
        pictures.make_pool([pictures.EVALUATION_SEEDS_FROM])
    with pytest.raises(UsageError, match="training or tuning"):
        pictures.draw_examination(pictures.EXPERIMENT_SEEDS_FROM - 1)


def test_a_pool_on_disk_grows_and_is_found_again(tmp_path: Path) -> None:
    """The same pictures as in memory, waited for where they are not there yet; not made twice, not mixed up."""
    seeds = range(100, 103)
    pool = pictures.GrowingPool(tmp_path / "pool", seeds, 128)
    try:
        grown = pool.first(2)
    finally:
        pool.close()
    expected = pictures.make_pool(seeds, 128)
    assert len(grown.grey) == 2
    for name in ("grey", "local", "labels", "spots", "spot_count"):
        assert np.array_equal(getattr(grown, name), getattr(expected.first(2), name)), name
    before = (tmp_path / "pool" / "grey.npy").stat().st_mtime_ns
    again = pictures.GrowingPool(tmp_path / "pool", seeds, 128)
    try:
        assert np.array_equal(again.first(9).labels, expected.labels)
    finally:
        again.close()
    assert (tmp_path / "pool" / "grey.npy").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="another run"):
        pictures.GrowingPool(tmp_path / "pool", range(4), 128)
    kept = range(pictures.EVALUATION_SEEDS_FROM, pictures.EVALUATION_SEEDS_FROM + 1)
    with pytest.raises(UsageError, match="for evaluation"):
        pictures.GrowingPool(tmp_path / "other", kept)


def test_training_tuning_and_examination_never_show_the_same_scene() -> None:
    """Split by scene: the seed ranges do not meet, and no examination picture resembles a training picture however it
    is turned, by the largest correlation of thumbnails over the eight symmetries of the square."""

    def thumbnail(picture: Radiograph) -> np.ndarray:
        small = cv2.resize(picture.pixels, (40, 40), interpolation=cv2.INTER_AREA).astype(float)
        # Two plain walls under the same vignetting look alike and are no copies: the slow part does not count.
        small -= cv2.GaussianBlur(small, (0, 0), 4.0)
        return (small - small.mean()) / (small.std() * 40 + 1e-9)

    training = [thumbnail(simulate(seed, size_px=(160, 160))) for seed in range(400_000, 400_040)]
    stack = np.stack([t.ravel() for t in training])

    def likest(other: np.ndarray) -> float:
        views = [np.rot90(side, k).ravel() for side in (other, other[:, ::-1]) for k in range(4)]
        return max(float((stack @ view).max()) for view in views)

    assert max(likest(thumbnail(pictures.draw_examination(seed, 160))) for seed in range(900_000, 900_025)) < 0.98
    assert likest(np.rot90(training[3][:, ::-1])) > 0.999  # the guard notices a turned copy


def test_batches_aim_at_defects_and_keep_views_and_labels_together() -> None:
    """A pool whose local view repeats the labels: after any turn they must still coincide."""
    labels = np.zeros((3, 96, 96), np.uint8)
    labels[0, 10:14, 80:84], labels[2, 50:60, 5:9] = 1, 11
    spots, count = np.zeros((3, len(CASTING_TYPES), 24, 2), np.int16), np.zeros((3, len(CASTING_TYPES)), np.uint8)
    for index, label in ((0, 1), (2, 11)):
        at = np.argwhere(labels[index] == label)[:24]
        spots[index, label - 1, : len(at)], count[index, label - 1] = at, len(at)
    pool = pictures.Pool((labels * 20).astype(np.uint8), labels.astype(np.float16), labels, spots, count)
    views, drawn = pictures.sample_batch(np.random.default_rng(0), pool, 64, 48, aimed=1.0)
    assert views.dtype == np.float32
    assert np.array_equal(views[:, 1], drawn.astype(np.float32))
    same = [np.allclose(grey * 255.0, one * 20.0, atol=1e-3) for grey, one in zip(views[:, 0], drawn, strict=True)]
    assert 0.25 < np.mean(same) < 0.75  # the others changed their brightness and contrast
    assert (drawn.reshape(64, -1).max(axis=1) > 0).all()
    share = (drawn.reshape(64, -1).max(axis=1) == 11).mean()
    assert 0.25 < share < 0.75


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # by hand: k = n gives (alpha/2)^(1/n) and k = 0 its mirror; 8 of 10 is the textbook interval
    [
        (10, 10, 0.025**0.1, 1.0),
        (0, 10, 0.0, 1 - 0.025**0.1),
        (8, 10, 0.4439, 0.9748),
        (299, 299, 0.025 ** (1 / 299), 1.0),
    ],
)
def test_clopper_pearson_by_hand(successes: int, trials: int, low: float, high: float) -> None:
    assert certify.clopper_pearson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_clopper_pearson_covers_as_promised() -> None:
    """Over all outcomes of Binomial(30, p) the interval holds p with at least 95 %."""
    for p in (0.03, 0.3, 0.5, 0.9):
        chance = 0.0
        for k in range(31):
            low, high = certify.clopper_pearson(k, 30)
            if low <= p <= high:
                chance += math.comb(30, k) * p**k * (1 - p) ** (30 - k)
        assert chance >= 0.95
    assert certify.clopper_pearson(0, 0) == (0.0, 1.0)


def test_sigmoid_fit_recovers_a_known_calibration() -> None:
    """Bins whose defect share is exactly sigmoid(z / 1.7 - 0.8) give back temperature 1.7 and bias -0.8."""
    logits = np.linspace(-8, 8, 161)
    counts = np.exp(-0.1 * (logits + 5) ** 2) * 1e6 + 10
    defects = counts / (1 + np.exp(-(logits / 1.7 - 0.8)))
    assert calibrate.fit_sigmoid(counts, defects, logits) == pytest.approx((1.7, -0.8), abs=1e-3)


def _answered(logits: np.ndarray, picture: Radiograph) -> calibrate.Answer:
    tensors = Tensors(logits[None, None].astype(np.float32), np.zeros((1, 0, *logits.shape), np.float32))
    return calibrate.Answer(picture, tensors, pictures.visible_labels(picture))


def test_thresholds_are_judged_by_what_they_find_and_what_they_make_up() -> None:
    """Two holes, one marked fully and one by a fifth; a spot of 9 px where nothing is, fainter than the holes."""
    plan = [PlannedDefect("gas_hole", 2.0, 2.0, (60, 60)), PlannedDefect("crack", 8.0, 2.0, (180, 180))]
    picture = simulate(3, size_px=(256, 256), defects=plan, structure="plate", exposure=Exposure(quanta=20000.0))
    hole, crack = picture.labels == 1, picture.labels == 10
    logits = np.full(picture.labels.shape, -9.0)
    logits[hole] = 5.0
    some = np.flatnonzero(crack)
    logits.flat[some[: len(some) // 5]] = 5.0
    logits[20:23, 200:203] = 1.0
    one = _answered(logits, picture)
    cut = calibrate._grown(one, 0.0)
    marked = int(hole.sum()) + len(some) // 5
    everything = int(hole.sum()) + len(some)
    assert calibrate._try([cut], 0.5, 3) == pytest.approx((1.0, 0.5, marked / (everything + 9)))
    assert calibrate._try([cut], 2.0, 3) == pytest.approx((0.0, 0.5, marked / everything))
    assert calibrate._try([cut], 0.5, 10) == pytest.approx((0.0, 0.5, marked / everything))
    assert calibrate._try([cut], 6.0, 3) == pytest.approx((0.0, 0.0, 0.0))


def test_a_cut_marks_what_the_line_would_mark() -> None:
    """Seed, grow and least size on logits give the pixels that ``find_blobs`` gives on coverage."""
    rng = np.random.default_rng(5)
    logits = cv2.GaussianBlur(rng.normal(0, 14, (80, 90)).astype(np.float32), (0, 0), 2.0)
    cut = calibrate.Cut(seed=2.0, grow=0.5, least_px=6)
    thresholds = Thresholds(1.0, 0.0, 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(-0.5)), 6, 0.01, {}, 0.0, 100.0)
    coverage = coverage_from_logits(logits, thresholds)
    blobs = find_blobs(coverage, np.zeros((3, *logits.shape), np.float32), thresholds)
    expected = np.zeros(logits.size, bool)
    expected[blobs.pixels] = True
    assert expected.any()
    assert np.array_equal(cut.marks(logits), expected.reshape(logits.shape))


def test_thresholds_keep_to_the_allowed_false_alarms() -> None:
    """Sound pictures with ever louder spots: the seed lies above all but the allowed share of them."""
    plan = [PlannedDefect("gas_hole", 2.0, 2.0, (60, 60))]
    picture = simulate(3, size_px=(128, 128), defects=plan, structure="plate", exposure=Exposure(quanta=20000.0))
    logits = np.full(picture.labels.shape, -9.0)
    logits[picture.labels > 0] = 6.0
    quiet = []
    for loudness in np.linspace(-4.0, 2.6, 100):
        sound = np.full((64, 64), -9.0, np.float16)
        sound[30:36, 30:36] = loudness
        quiet.append(sound)
    for share in (0.0, 0.1, 0.3):
        limits = calibrate.Limits(false_per_picture=1.0, false_per_sound=share)
        cut = calibrate._hysteresis([_answered(logits, picture)], quiet, (1.0, 0.0), limits)
        assert np.mean([calibrate.Cut(cut.seed, cut.grow, cut.least_px).marks(one.astype(np.float32)).any()
                        for one in quiet]) <= share  # fmt: skip
        assert cut.marks(logits.astype(np.float32)).any()


def test_the_bias_is_moved_until_coverage_meets_area() -> None:
    """Thirty discs of radius 8 whose logits fall off too far inside: the summed coverage of the marks is the area."""
    y, x = np.mgrid[:64, :64]
    answers = []
    for number in range(30):
        away = np.hypot(y - 31.5 - number % 3 / 3, x - 31.5)
        labels = np.where(away <= 8.0, 1, 0).astype(np.uint8)
        picture = Radiograph(np.zeros((64, 64), np.uint8), labels, 0.1, (), np.zeros((64, 64), np.float32),
                             np.ones((64, 64), np.float32))  # fmt: skip
        logits = np.clip((7.8 - away) * 2.0, -9, 5)[None, None].astype(np.float32)
        answers.append(calibrate.Answer(picture, Tensors(logits, logits[:, :0]), labels))
    cut = calibrate.Cut(seed=1.0, grow=-4.0, least_px=4)
    bias = calibrate._balanced(answers, cut, 1.0, 0.0)
    summed = [float((1 / (1 + np.exp(-(one.tensors.defect[0, 0] + bias))))[cut.marks(one.tensors.defect[0, 0])].sum())
              / int((one.visible > 0).sum()) for one in answers]  # fmt: skip
    assert 0.1 < bias < 0.7
    assert np.mean(summed) == pytest.approx(1.0, abs=1e-4)
    assert calibrate._balanced(answers[:5], cut, 1.0, 0.3) == 0.3  # too few to say anything


def test_training_without_its_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"edge-daemon\[train\]"):
        train.fit(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.needs("torch")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_training_learns_resumes_and_exports_what_it_learned(tmp_path: Path) -> None:
    """Sixty steps on a few pictures must beat guessing; a run in two parts goes on where it stopped; the ONNX file
    answers as the network does, at any size that is a multiple of 16."""
    import onnx
    import onnxruntime
    import torch

    from edge_daemon.train.fitting import Plan, fit_network, load_network, validate
    from edge_daemon.train.network import CastingNet, export_onnx, parameter_count

    pool = pictures.make_pool(range(8), 128)

    def batches(rng: np.random.Generator, _: int, batch: int, crop_px: int) -> Any:
        return pictures.sample_batch(rng, pool, batch, crop_px)

    half = Plan(minutes=10.0, steps=30, pictures=8, batch=4, crop_px=64, validate_minutes=0.05, device="cpu")
    fit_network(tmp_path, half, batches, look=lambda net: validate(net, pool))
    whole = Plan(minutes=10.0, steps=60, pictures=8, batch=4, crop_px=64, validate_minutes=0.05, device="cpu")
    network = fit_network(tmp_path, whole, batches, look=lambda net: validate(net, pool))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 60
    assert parameter_count(network) <= 1_000_000
    log = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text(encoding="utf-8").splitlines()]
    looks = [entry["validation"]["loss"] for entry in log if "validation" in entry]
    assert min(looks) == pytest.approx(state["best_loss"])
    assert validate(network, pool)["validation"]["loss"] == pytest.approx(state["best_loss"], abs=1e-3)
    with pytest.raises(UsageError, match="another training plan"):
        fit_network(tmp_path, Plan(pictures=8, batch=5, device="cpu"), batches)

    views, labels = pictures.sample_batch(np.random.default_rng(1), pool, 24, 64)
    with torch.no_grad():
        defect = network(torch.from_numpy(views))[0][:, 0].numpy()
    inside, outside = defect[(labels > 0) & (labels != pictures.IGNORED)], defect[labels == 0]
    ranks = np.searchsorted(np.sort(outside), inside) / outside.size
    assert ranks.mean() > 0.7  # area under the ROC curve; guessing is 0.5

    export_onnx(load_network(tmp_path), tmp_path / "model.onnx")
    assert [p.name for p in sorted(tmp_path.glob("model*"))] == ["model.onnx"]
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Sigmoid", "Softmax", "BatchNormalization", "Loop", "If"}
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for shape in ((1, 2, 64, 64), (2, 2, 48, 112)):
        image = np.random.default_rng(2).random(shape, np.float32)
        answers = session.run(["defect", "type"], {"image": image})
        with torch.no_grad():
            expected = network(torch.from_numpy(image))
        assert answers[0].shape == (shape[0], 1, *shape[2:])
        assert answers[1].shape == (shape[0], len(CASTING_TYPES), *(side // 4 for side in shape[2:]))
        for got, want in zip(answers, expected, strict=True):
            assert np.allclose(got, want.numpy(), atol=1e-3)
    assert isinstance(network, CastingNet)


def _shipped() -> Path:
    return engine_folder("castings-xray")


def test_shipped_bundle_is_sealed_and_says_what_it_is() -> None:
    bundle = load(_shipped())
    assert bundle.types == CASTING_TYPES
    assert bundle.qualified.polarity == "bright_void"
    assert (bundle.folder / "model.onnx").stat().st_size < 2_000_000
    card = (bundle.folder / "card.md").read_text(encoding="utf-8")
    assert "trained and tested on simulated pictures only" in card
    evaluated = bundle.certificate["mixture"]
    tuned: dict[str, Any] = bundle.certificate["tuning_seeds"]
    assert evaluated["seeds"][0] >= pictures.EVALUATION_SEEDS_FROM > max(max(span) for span in tuned.values())
    for name in bundle.types:
        figures = evaluated["types"][name]["recall"]
        low, high = certify.clopper_pearson(figures["k"], figures["n"])
        assert figures["ci95"] == [round(low, 4), round(high, 4)]
        assert f"| {name} |" in card


def test_shipped_bundle_judges_the_conveyor_well() -> None:
    """On conveyor seeds that belong to no certificate: nothing on sound parts, every crack, areas within 30 %."""
    figures = certify.evaluate_conveyor(_shipped(), range(870_000, 870_024), threads=1)
    assert figures["sound_without_region"]["k"] == 6
    assert figures["cracks_called_crack"]["k"] == 6
    assert figures["pores_found"]["rejectable"]["value"] >= 0.98
    assert figures["pores_found"]["acceptable"]["value"] >= 0.9
    low, _, high = figures["area_ratio_min_median_max"]["rejectable"]
    assert 0.7 <= low <= high <= 1.3


def test_evaluate_reports_every_type_and_refuses_used_seeds() -> None:
    figures = train.evaluate(_shipped(), range(860_000, 860_030), threads=1)
    assert figures["pictures"] == 30
    assert set(figures["types"]) == set(CASTING_TYPES)
    assert sum(entry["recall"]["n"] for entry in figures["types"].values()) > 10
    assert 0.4 < figures["defect_iou"] <= 1.0
    assert figures["recall_worst"][1] <= figures["recall_mean"]
    with pytest.raises(UsageError, match="850000"):
        train.evaluate(_shipped(), range(100))
    with pytest.raises(UsageError):
        train.evaluate(_shipped(), [])


def test_a_changed_byte_in_the_shipped_bundle_is_noticed(tmp_path: Path) -> None:
    for path in _shipped().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "thresholds.json").read_text(encoding="utf-8")
    (tmp_path / "thresholds.json").write_text(text.replace('"seed": 0.', '"seed": 0.0', 1), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"thresholds\.json"):
        load(tmp_path)


def test_a_type_that_cries_wolf_gets_a_seed_of_its_own_and_the_others_keep_theirs() -> None:
    """Type 0 is told at logit 1 and never wrong; type 1 is told at 4, and as often at 2 where nothing is."""
    spot, wolf = np.s_[10:20, 10:20], np.s_[40:50, 40:50]
    answers = []
    for number in range(40):
        kind = number % 2
        labels, logits = np.zeros((64, 64), np.uint8), np.full((64, 64), -6.0, np.float32)
        named = np.full((16, 16), kind, np.uint8)
        labels[spot], logits[spot] = kind + 1, (1.0, 4.0)[kind]
        if kind:
            logits[wolf] = 2.0
        zeros = np.zeros((64, 64), np.float32)
        picture = Radiograph(labels, labels, 0.1, (), zeros, zeros)
        tensors = Tensors(logits[None, None], np.zeros((1, 0, 16, 16), np.float32), 4)
        answers.append(calibrate.Answer(picture, tensors, labels, named))
    limits, rough = calibrate.Limits(0.0, 0.0), (1.0, 0.0)
    quiet = [(np.full((64, 64), -6.0, np.float16), np.zeros((16, 16), np.uint8))] * 5
    single = calibrate._hysteresis(answers, [logits for logits, _ in quiet], rough, limits)
    assert single.seed > 2.0, "one threshold for both must give type 0 up"
    own = calibrate._own_seeds(answers, quiet, rough, limits, single, 2)
    assert own.seeds[0] <= 1.0 < 2.0 < own.seeds[1] <= 4.0
    assert own.seed == min(own.seeds)
    loud = [(logits, named) for logits, named in quiet[:-1]]
    shout = np.full((64, 64), -6.0, np.float16)
    shout[wolf] = 1.5
    loud.append((shout, np.zeros((16, 16), np.uint8)))
    careful = calibrate._own_seeds(answers, loud, rough, limits, single, 2)
    assert not careful.seeds or careful.seeds[0] > 1.5, "a sound part that shouts in the name of type 0 counts"
