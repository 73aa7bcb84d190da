"""The parts of the demo pair's training, each small; the whole of it runs as `train-demo --smoke` (make soak)."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # tests share their cores; spinning threads would fight over them

from models.demo import quality, stages  # noqa: E402
from models.demo.data import _squares, caption_of, load, pixels_of, prepare, scene_truth  # noqa: E402
from models.demo.lessons import (  # noqa: E402
    SKETCH_PATCHES,
    DrafterStudent,
    TargetStudent,
    sight_loss,
    speech_loss,
)
from models.demo.midway import MOVES, MidwayHeads  # noqa: E402
from models.demo.muon import Muon, orthogonal  # noqa: E402
from models.demo.pair import new_drafter, new_target, round_to_half, save_drafter, save_target  # noqa: E402
from models.demo.recipe import FULL, IMAGE, Stage  # noqa: E402
from models.demo.sight import owners  # noqa: E402
from models.demo.speech import greedy  # noqa: E402
from models.demo.tokenizer_training import corpus, train_tokenizer  # noqa: E402
from models.demo.world.sprites import PAINT  # noqa: E402
from models.demo.world.vocabulary import COLOURS  # noqa: E402
from models.eventgpt import EventGPT  # noqa: E402
from models.preprocess import clip_pixels  # noqa: E402
from models.prompts import QUESTION, SYSTEM, eventgpt_prompt, video_llava_prompt  # noqa: E402
from models.tokenizer import load_tokenizer  # noqa: E402
from models.video_llava import VideoLlava  # noqa: E402
from tests.models.greedy import greedy as cached_greedy  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    path = tmp_path_factory.mktemp("street")
    prepare(path, [3], 3, lambda: None)
    return path


@pytest.fixture(scope="module")
def frames(rendered):
    return load(rendered, [3], "frames")


@pytest.fixture(scope="module")
def events(rendered):
    return load(rendered, [3], "events")


def test_the_tokenizer_is_llama_like_and_reproducible(folder, tokenizer, tmp_path):
    train_tokenizer(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert (tokenizer.size, tokenizer.bos_id, tokenizer.eos_id) == (512, 1, 2)
    texts = [text for text in corpus() if text.endswith(".")][::37]
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)
    assert 20 <= len(tokenizer.encode(SYSTEM)) <= 45
    assert tokenizer.decode(tokenizer.encode("Is it {safe} to cross at 5 pm?")) == "Is it {safe} to cross at 5 pm?"


def test_stored_squares_are_the_run_time_pixels():
    images = np.random.default_rng(0).integers(0, 256, (2, 260, 346, 3), np.uint8)
    np.testing.assert_array_equal(pixels_of(_squares(list(images))), clip_pixels(list(images), IMAGE))


def test_both_sides_show_the_same_windows_and_a_seed_is_rendered_once(rendered, frames, events):
    np.testing.assert_array_equal(frames.truth, events.truth)
    assert frames.images.shape == (3, 8, IMAGE, IMAGE, 3)
    assert events.images.shape == (3, 5, IMAGE, IMAGE, 3)
    written = (rendered / "3.npz").stat().st_mtime_ns
    done = []
    prepare(rendered, [3], 3, lambda: done.append(1))
    assert (rendered / "3.npz").stat().st_mtime_ns == written
    assert done == [1]


def test_what_is_seen_is_where_the_picture_changes(frames):
    """An object's box, drawn from the same truth that supervises positions, covers pixels of the object's colour."""
    window = int(np.flatnonzero(frames.seen[:, 0, 0, 0] >= 0)[0])
    colour, _, x, y, width, height, _ = frames.seen[window, 0, 0, 1:]
    left, right = (np.clip([x - width / 2, x + width / 2], 0, 1) * IMAGE).astype(int)
    top, bottom = (np.clip([y - height / 2, y + height / 2], 0, 1) * IMAGE).astype(int)
    inside = frames.images[window, 0, top:bottom, left:right].reshape(-1, 3) / 255
    wanted = np.array(PAINT[COLOURS[int(colour)]])
    assert np.abs(inside - wanted).max(axis=1).min() < 0.25


def test_quality_counts_each_attribute(frames):
    truths = list(frames.truth)
    perfect = quality.attributes_right([caption_of(row) for row in truths], truths)
    assert perfect["all"] == 1.0
    assert quality.attributes_right([""] * len(truths), truths)["all"] == 0.0
    shown = quality.attributes_right([caption_of(row) for row in truths], truths, ["kind", "speed"])
    assert shown == {"kind": 1.0, "speed": 1.0, "all": 1.0}
    assert scene_truth(truths[0]).objects is not None


def test_losses_reach_every_weight(frames, events, tokenizer):
    target, drafter = new_target(0), new_drafter(0)
    students = (
        TargetStudent(target, frames, video_llava_prompt(tokenizer, QUESTION, target.visual_tokens)),
        DrafterStudent(drafter, events, eventgpt_prompt(tokenizer, QUESTION, drafter.visual_tokens)),
    )
    for student, whole in zip(students, (False, True), strict=True):
        loss = sight_loss(student, np.random.default_rng(0), 2)
        loss = loss + speech_loss(student, tokenizer, np.random.default_rng(0), 2, whole)
        loss.backward()
        modules = (student.vision, student.decoder, student.heads, student.midway)
        idle = [n for m in modules for n, p in m.named_parameters() if p.grad is None and "encoder.layers.4" not in n]
        assert idle == []  # the target's fifth tower layer is in the file only


def test_batched_greedy_equals_the_cached_decoder(events, tokenizer):
    drafter = new_drafter(1).eval()
    prompt = eventgpt_prompt(tokenizer, QUESTION, drafter.visual_tokens)
    before = quality.drafter_prefix(drafter, prompt, events, np.arange(2))
    said = greedy(drafter.decoder, before, tokenizer.eos_id, 6)
    with torch.no_grad():
        assert said[0] == cached_greedy(drafter.decoder, before[0], 6)[0][: len(said[0])]


def test_a_patch_belongs_to_the_nearest_object_that_covers_it():
    places = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75]])
    left = [0, 0, 0, 0.25, 0.5, 0.3, 1.0, 0.0]
    whole = [1, 1, 1, 0.5, 0.25, 1.0, 0.4, 0.0]
    covered, owner = owners(places, torch.tensor([[left, whole], [left, [-1.0] * 8]]))
    assert covered.tolist() == [[True, True, True], [True, False, True]]
    assert owner[0].tolist() == [0, 1, 0]
    assert owner[1][covered[1]].tolist() == [0, 0]


def test_a_sketch_keeps_the_patches_that_show_objects(frames, tokenizer):
    target = new_target(0)
    student = TargetStudent(target, frames, video_llava_prompt(tokenizer, QUESTION, target.visual_tokens))
    batch = student.draw(np.random.default_rng(0), 3, whole=False)
    view = student.look(batch, False, np.random.default_rng(0))
    rows = 4 * (1 + SKETCH_PATCHES)
    assert view.visual.shape[:2] == view.kept.shape == (3, rows)
    assert (view.kept.diff(dim=1) > 0).all()
    for i in range(3):
        covered, _ = owners(student.heads.places, batch.seen[i, -1:])
        kept = {tuple(place) for place in view.places[i, -1].tolist()}
        shown = {tuple(place) for place in student.heads.places[covered[0]].tolist()}
        assert shown <= kept if len(shown) <= SKETCH_PATCHES else kept <= shown
    whole = target.vision(batch.images[:1].flatten(0, 1))  # the same rows of the same frames, computed whole
    here = view.kept[0] % student.tokens + student.tokens * torch.arange(4).repeat_interleave(1 + SKETCH_PATCHES)
    torch.testing.assert_close(view.visual[0], whole[here])


def test_midway_heads_learn_whose_a_patch_is_and_how_far_it_came(frames):
    torch.manual_seed(0)
    seen, truth = torch.from_numpy(frames.seen[:, 1::2]), torch.from_numpy(frames.truth)
    places = torch.rand(3, 4, 30, 2)
    heads = MidwayHeads(16, colour=True, several=True)
    patches = torch.nn.Parameter(torch.randn(3, 4, 30, 16))
    last = torch.nn.Parameter(torch.randn(3, 16))
    optimiser = torch.optim.Adam([patches, last, *heads.parameters()], lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        loss = heads.loss(patches, places, last, seen, truth)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    covered, owner = owners(places[:, -1], seen[:, -1])
    told = heads.norm(patches[:, -1])
    said = heads.patch(told)[..., :3].argmax(-1)
    assert torch.equal(said > 0, covered)
    assert torch.equal(said[covered] - 1, owner[covered])
    lasting = covered & (seen[:, -1, :, :2] == seen[:, -2, :, :2]).all(-1).gather(1, owner)  # in the image before, too
    came = (seen[:, -1] - seen[:, -2])[..., MOVES].gather(1, owner[..., None].expand(-1, -1, 3))
    assert lasting.any()
    torch.testing.assert_close(heads.motion(told)[lasting], came[lasting], atol=0.02, rtol=0)


def test_muon_makes_updates_orthogonal_and_learns():
    matrices = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 12, 60))).float()
    singular = torch.linalg.svdvals(orthogonal(matrices))
    assert singular.min() > 0.5
    assert singular.max() < 1.3
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    wanted = torch.linspace(-1, 1, 24).reshape(4, 6)
    optimiser = Muon([{"params": [weight], "lr": 0.05}], weight_decay=0.0)
    for _ in range(100):
        optimiser.zero_grad()
        (weight - wanted).pow(2).sum().backward()
        optimiser.step()
    assert float((weight - wanted).detach().abs().max()) < 0.3


def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "SAVE_SECONDS", 0.0)

    def train(folder, stop_at=None):
        torch.manual_seed(0)
        tower, head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
        taken = []

        def loss(rng):
            taken.append(1)
            if len(taken) == stop_at:
                raise KeyboardInterrupt
            return head(tower(torch.from_numpy(rng.random(3, np.float32)))).pow(2).sum()

        folder.mkdir(exist_ok=True)
        stages.run_stage("s", Stage(6, 1, 1e-2, 1e-3, 2), [tower, head], tower, loss, folder, lambda step, mean: None)
        return torch.cat([head.weight.flatten(), tower.weight.flatten()]).detach(), len(taken)

    whole, steps = train(tmp_path / "whole")
    assert steps == 6
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop_at=4)
    resumed, steps = train(tmp_path / "cut")
    assert steps == 3
    torch.testing.assert_close(resumed, whole, atol=0, rtol=0)
    assert train(tmp_path / "cut")[1] == 0  # finished: restored, not trained again


def test_checkpoints_come_back_as_they_were(folder, tmp_path):
    for new, save, family in ((new_target, save_target, VideoLlava), (new_drafter, save_drafter, EventGPT)):
        model = new(5)
        round_to_half(model)
        save(model, tmp_path / family.__name__, folder / "tokenizer.json")
        back = family.load(tmp_path / family.__name__).state_dict()
        assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_transformers_loads_the_target(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = new_target(6).eval()
    round_to_half(model)
    save_target(model, tmp_path / "target", folder / "tokenizer.json")
    peer = transformers.VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "target", dtype=torch.float32)
    pixels = torch.randn(8, 3, IMAGE, IMAGE)
    ids = torch.tensor([[1, 20, *[513] * model.visual_tokens, 30, 40]])
    with torch.no_grad():
        theirs = peer.eval()(input_ids=ids, pixel_values_videos=pixels[None]).logits[0]
        embeddings = model.decoder.embed(ids[0])
        embeddings[2:-2] = model.vision(pixels)
        ours = model.decoder.lm_head(model.decoder.hidden(embeddings[None]))[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_longer_recipe_has_more_of_everything_but_its_batches():
    twice = FULL.longer(2)
    assert (twice.seeds, twice.target_tower.steps) == (2 * FULL.seeds, 2 * FULL.target_tower.steps)
    assert (twice.target_tower.batch, twice.checked) == (FULL.target_tower.batch, FULL.checked)
    assert FULL.longer(1) == FULL
