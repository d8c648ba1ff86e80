"""Runs over prompt files: resuming after kills, locks, shards, and the three scripts in front of them."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import sys
import types
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldm import lightning
from ldm.evaluation.prompts.files import parse_object
from ldm.evaluation.prompts.prompt import EvalPrompt, EvalRelation, rule_layout
from ldm.evaluation.run import launch
from ldm.evaluation.run.harness import Summary, make_tasks, run_tasks
from ldm.evaluation.run.manifest import DONE, WORKING, changed_keys, read_run
from ldm.evaluation.run.methods import changed_constants, constants_of, parse_method, split_methods
from ldm.evaluation.run.shards import Shard, hold, parse_shard, run_on_ray, shard_of
from ldm.evaluation.run.studio import Studio
from ldm.generation.draw import GeneratedImage
from ldm.generation.pipeline import ModelChoice
from ldm.generation.settings import Sampling
from ldm.spacetime.layout import Layout
from ldm.util import UserError
from tests import tiny_world
from tests.golden_data import ROOT
from tests.scripts_under_test import load_script, refusal

FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
needs_fork = pytest.mark.skipif(FORK is None, reason="this system cannot fork processes")


def prompt(text: str, *relations: tuple[int, str, int], objects: Sequence[str] = ("cat", "dog")) -> EvalPrompt:
    return EvalPrompt(text, tuple(parse_object(o, "") for o in objects), tuple(EvalRelation(*r) for r in relations))


WHOLE = Shard()
PROMPTS = [prompt(f"A cat left of a dog {n}", (0, "left of", 1)) for n in range(5)]


def work(
    folder: Path,
    shard: Shard = WHOLE,
    log: Path | None = None,
    before: Callable[[], None] = lambda: None,
    prompts: Sequence[EvalPrompt] = PROMPTS,
    steps: int = 5,
) -> Summary:
    """A run of ten gray images whose making is noted in a file."""

    def make(method: Any, texts: Sequence[str], layouts: Sequence[Layout], seeds: Sequence[int]) -> Any:
        if log is not None:
            with log.open("a") as lines:
                lines.write("".join(f"{method.label} {text} {seed}\n" for text, seed in zip(texts, seeds, strict=True)))
        before()
        image, weights = np.full((8, 8, 3), 9, np.uint8), np.ones((1, 1))
        rows = zip(texts, seeds, layouts, strict=True)
        return [GeneratedImage(*row, image, weights, {"global": [0.5]}) for row in rows]

    tasks = make_tasks(prompts, [parse_method("base"), parse_method("fixed:weight=1")], [7])
    return run_tasks(folder, prompts, tasks, {"steps": steps}, lambda _, prompt: rule_layout(prompt), make, shard)


def in_process(function: Callable[[], Any]) -> int | None:
    """The exit code of a process that calls `function`."""
    assert FORK is not None
    process = FORK.Process(target=function)  # type: ignore[attr-defined]
    process.start()
    process.join(300)
    return process.exitcode


# ------------------------------------------------------------------------------------------------- resuming


def test_a_run_says_what_it_made(tmp_path: Path) -> None:
    assert work(tmp_path) == Summary(made=10)
    run = read_run(tmp_path)
    assert run.methods == ["base", "fixed:weight=1"] and run.prompts == PROMPTS
    assert set(run.entries.values()) == {DONE} and len(run.entries) == 10
    entry = next(entry for entry in run.entries if entry.method != "base" and entry.number == 3)
    assert run.image(entry) == tmp_path / "fixed_weight=1" / "00003-s7.png" and run.image(entry).is_file()
    details = run.details(entry)
    assert details["layout"]["objects"][0]["name"] == "cat" and details["losses"] == {"global": [0.5]}
    assert details["radius"] == 0.2 and details["weights"] == [[1.0]]
    assert work(tmp_path) == Summary(kept=10)


def test_a_damaged_image_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work(tmp_path)
    path = tmp_path / "base" / "00002-s7.png"
    path.write_bytes(path.read_bytes()[:40])
    (tmp_path / "base" / "00004-s7.png").unlink()
    assert work(tmp_path) == Summary(made=2, kept=8)
    assert f"{path} is damaged" in caplog.text


@needs_fork
def test_a_kill_at_any_moment_loses_the_image_in_work(tmp_path: Path) -> None:
    """Kills at every renaming of a file and within the making of images, one after another in one folder."""
    log, folder = tmp_path / "log", tmp_path / "run"
    replace, kills = os.replace, 0

    def killed_at(count: int) -> None:
        left = [count]

        def dying(*names: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)

        os.replace = dying  # type: ignore[assignment]
        work(folder, log=log)

    for count in (0, 1, 2, 3, 4, 5, 6, 7, 3, 4, 5):  # renamings that the run lives for
        before = len(list(folder.glob("*/*.png")))
        code = in_process(lambda n=count: killed_at(n))  # type: ignore[misc]
        kills += code == -signal.SIGKILL
        for path in folder.glob("manifest*.json"):
            json.loads(path.read_text())  # whole at any moment
        assert len(list(folder.glob("*/*.png"))) >= before
    assert kills >= 8
    assert in_process(lambda: work(folder, log=log, before=lambda: os.kill(os.getpid(), signal.SIGKILL))) in (0, -9)
    if (folder / "manifest-0-of-1.json").exists():
        images = json.loads((folder / "manifest-0-of-1.json").read_text())["images"].values()
        assert [entry["state"] for entry in images].count(WORKING) <= 1
    work(folder, log=log)
    lines = Counter(log.read_text().splitlines())
    assert len(lines) == 10 and sum(lines.values()) <= 10 + kills + 1
    assert set(read_run(folder).entries.values()) == {DONE}


def test_a_prompt_that_fails_is_noted_and_tried_again(tmp_path: Path) -> None:
    prompts = [prompt("A cat left and right of a dog", (0, "left of", 1), (0, "right of", 1)), PROMPTS[0]]
    summary = work(tmp_path, prompts=prompts)
    assert summary.made == 2 and set(summary.failed) == {"base/00000-s7", "fixed_weight=1/00000-s7"}
    assert "contradict" in summary.failed["base/00000-s7"]
    manifest = json.loads((tmp_path / "manifest-0-of-1.json").read_text())
    assert manifest["images"]["base/00000-s7"]["state"] == "failed"
    assert len(work(tmp_path, prompts=prompts).failed) == 2


def test_other_settings_and_prompts_are_refused(tmp_path: Path) -> None:
    work(tmp_path)
    with pytest.raises(UserError, match="other settings"):
        work(tmp_path, steps=6)
    with pytest.raises(UserError, match="other prompts"):
        work(tmp_path, prompts=PROMPTS[:4])
    (tmp_path / "manifest-0-of-1.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        work(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path / "nowhere")


def test_ranges_and_double_names() -> None:
    tasks = make_tasks(PROMPTS, [parse_method("base")], [1, 2], 1, 3)
    assert [(task.number, task.seed) for task in tasks] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for wrong in ({"start": 3, "stop": 3}, {"stop": 6}, {"start": -1}):
        with pytest.raises(UserError, match="the file has 5"):
            make_tasks(PROMPTS, [parse_method("base")], [1], **wrong)
    with pytest.raises(UserError, match="seed '1' is given twice"):
        make_tasks(PROMPTS, [parse_method("base")], [1, 1])


# --------------------------------------------------------------------------------------------------- shards


def test_a_lock_refuses_a_second_run(tmp_path: Path) -> None:
    with hold(tmp_path, Shard(0, 2)):
        with hold(tmp_path, Shard(1, 2)):
            pass  # a shard of the same run
        for other in (Shard(0, 2), Shard(), Shard(2, 3)):
            with pytest.raises(UserError, match="another run is at work"), hold(tmp_path, other):
                pass
    with hold(tmp_path, Shard()):
        pass


@needs_fork
def test_of_shards_with_other_settings_one_goes_on(tmp_path: Path) -> None:
    assert FORK is not None
    for number in range(8):

        def rank(rank: int, folder: Path = tmp_path / str(number)) -> None:  # noqa: B023
            try:
                work(folder, Shard(rank, 2), steps=5 + rank)
            except UserError as error:
                assert "other settings (steps)" in str(error)
                sys.exit(3)

        processes = [FORK.Process(target=rank, args=(n,)) for n in range(2)]  # type: ignore[attr-defined]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert sorted(process.exitcode for process in processes) == [0, 3]


def test_half_written_files_go_when_nobody_is_at_work(tmp_path: Path) -> None:
    left = tmp_path / "base" / ".tmp-a.png"
    with hold(tmp_path, Shard(0, 2)):
        left.parent.mkdir()
        left.touch()
        with hold(tmp_path, Shard(1, 2)):
            assert left.exists()
    with hold(tmp_path, Shard()):
        assert not left.exists()


@needs_fork
def test_two_processes_share_a_run(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "run"
    assert FORK is not None

    def rank(number: int) -> None:
        work(folder, shard_of({"RANK": str(number), "WORLD_SIZE": "2"}), log=log)

    processes = [FORK.Process(target=rank, args=(number,)) for number in range(2)]  # type: ignore[attr-defined]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 10  # no image twice, none missing
    run = read_run(folder)
    assert len(run.entries) == 10 and set(run.entries.values()) == {DONE}
    assert work(folder, log=log) == Summary(kept=10)  # by one process, which finds all of them


def test_the_environment_names_the_shard() -> None:
    assert shard_of({}) == Shard(0, 1)
    assert shard_of({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}) == Shard(3, 4)
    lightning = {"NODE_RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}
    assert shard_of(lightning) == Shard(3, 4)
    assert shard_of({"LOCAL_RANK": "1", "WORLD_SIZE": "2"}) == Shard(1, 2)
    assert parse_shard("1/3") == Shard(1, 3)
    for wrong in ({"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "one", "WORLD_SIZE": "4"}):
        with pytest.raises(UserError):
            shard_of(wrong)
    for text in ("3/3", "1", "a/b"):
        with pytest.raises(UserError):
            parse_shard(text)


def test_ray_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Against a stand-in for Ray that runs tasks at once; without Ray, one sentence."""

    class Task:
        def __init__(self, function: Callable[..., Any]) -> None:
            self.remote = function

        def options(self, **resources: Any) -> Task:
            assert resources == {"num_cpus": 1, "num_gpus": 0.5}
            return self

    class RayTaskError(Exception):
        cause = UserError("no such file")

    ray: Any = types.ModuleType("ray")
    ray.is_initialized, ray.cluster_resources = (lambda: True), (lambda: {"GPU": 1.0})
    ray.remote, ray.get, ray.exceptions = Task, list, types.SimpleNamespace(RayTaskError=RayTaskError)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert run_on_ray(2, lambda shard: shard.name, tmp_path) == ["0-of-2", "1-of-2"]
    left = list[None]()
    monkeypatch.setattr(lightning, "leave_out", lambda: left.append(None))
    monkeypatch.setattr(lightning, "left_out", lambda: True)  # a task does without Lightning where its script does
    assert len(run_on_ray(2, lambda shard: None, tmp_path)) == len(left) == 2

    def fail(shard: Shard) -> None:
        raise RayTaskError

    with pytest.raises(UserError, match="no such file"):
        run_on_ray(2, fail, tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install ray"):
        run_on_ray(2, fail, tmp_path)


def work_on_ray(folder: Path, shard: Shard) -> Summary:
    """A shard of :func:`work`, as a task that Ray can send to another process."""
    return work(folder, shard, log=folder.parent / f"log-{shard.rank}")


@pytest.mark.slow
def test_ray_itself(tmp_path: Path) -> None:
    """Two real tasks in processes of Ray's own: no image twice, none missing."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}})
    try:
        parts = run_on_ray(2, functools.partial(work_on_ray, tmp_path / "run"), ROOT)
    finally:
        ray.shutdown()
    assert [part.made for part in parts] == [5, 5]
    lines = [line for rank in range(2) for line in (tmp_path / f"log-{rank}").read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 10
    assert set(read_run(tmp_path / "run").entries.values()) == {DONE}


# -------------------------------------------------------------------------------------------------- methods


def test_methods_are_read_from_words() -> None:
    assert parse_method("base").preset is None and parse_method("base:guidance=7.5").guidance == 7.5
    fixed = parse_method("fixed:weight=8,until=0.12,blend=unconditional,radius=0.3,layout=rule,guidance=2,swap=true")
    assert fixed.preset is not None and (fixed.preset.mode, fixed.preset.blend) == ("fixed", "unconditional")
    assert (fixed.preset.initial, fixed.preset.release, fixed.preset.radius) == (8, 0.12, 0.3)
    assert (fixed.layout, fixed.guidance, fixed.swap) == ("rule", 2, True)
    plain = parse_method("fixed").preset
    assert plain is not None and (plain.initial, plain.release, plain.blend) == (1, 1, "conditional")
    preset = parse_method("per-step:inner_steps=3,learning_rate=0.2,blend=conditional").preset
    assert preset is not None and (preset.inner_steps, preset.learning_rate) == (3, 0.2)
    assert preset.blend == "conditional"
    labels = ("base", "fixed:weight=1", "fixed:weight=2", "per-step:learning_rate=0.2", "per-step")
    assert len({parse_method(label).folder for label in labels}) == len(labels)
    words = ["base,per-step:inner_steps=2,learning_rate=0.2,fixed:weight=1", "iccv-2023"]
    assert split_methods(words) == ["base", "per-step:inner_steps=2,learning_rate=0.2", "fixed:weight=1", "iccv-2023"]


@pytest.mark.parametrize(
    "text",
    [
        "best",
        "base:weight=1",
        "base:layout=rule",
        "fixed:wait=1",
        "fixed:weight=x",
        "fixed:=",
        "fixed:blend=none",
        "fixed:layout=none",
        "fixed:swap=perhaps",
        "per-step:rounds",
        "per-step:mode=x",
        "per-step:inner_steps=0.5",
        "per-step:blend=x",
        "per-step:shared=true",
        "per-step:guidance=x",
    ],
)
def test_method_mistakes(text: str) -> None:
    with pytest.raises(UserError):
        parse_method(text)


def test_constants_that_changed_are_named() -> None:
    now = constants_of(parse_method("iccv-2023"))
    assert json.loads(json.dumps(now)) == now and now["rounds"] == 3 and now["swap"] is False
    before = {key: value for key, value in now.items() if key not in ("shared", "gradient_steps")}
    assert changed_constants(before, now) == []  # of a time when the preset did not have these two
    assert changed_constants(before, constants_of(parse_method("iccv-2023:shared=true"))) == ["shared"]
    assert changed_constants(now, constants_of(parse_method("iccv-2023:rounds=2,swap=true"))) == ["rounds", "swap"]
    assert changed_constants({}, constants_of(parse_method("base"))) == ["swap"]
    known, wanted = {"a": 1, "d": 0, "b": 2, "e": None}, {"a": 1, "d": 1, "b": 2, "c": 3}
    assert changed_keys(known, wanted) == changed_keys(wanted, known) == ["c", "d"]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    world = tiny_world.build(tmp_path_factory.mktemp("world"))
    sampling = Sampling(sampler="plms", steps=3, scale=3.0)
    return Studio(ModelChoice(world.config, world.ckpt, embedded=False), sampling, "rule", world.clip, device="cpu")


def draw(studio: Studio, label: str, prompts: Sequence[EvalPrompt] = PROMPTS[:2]) -> list[Any]:
    """Images of prompts by a method, together."""
    method = parse_method(label)
    layouts = [method.arrange(studio.place(method, prompt)) for prompt in prompts]
    made = studio.make(method, [prompt.text for prompt in prompts], layouts, [7 + len(p.text) for p in prompts])
    return [item.image.astype(int) for item in made]


def test_methods_share_the_noise_and_differ_by_the_control(studio: Studio) -> None:
    base = draw(studio, "base")
    assert base[0].shape == (32, 32, 3)
    for label in ("fixed:weight=0", "per-step:inner_steps=0,initial=0", "april-2023:rounds=1,initial=0"):
        for image, plain in zip(draw(studio, label), base, strict=True):
            assert np.abs(image - plain).max() <= 1, label
    others = ("fixed", "per-step", "iccv-2023:rounds=1", "iccv-2023:rounds=2,shared=true", "base:guidance=2")
    made = {
        label: draw(studio, label)[0] for label in (*others, "fixed:swap=true", "fixed:until=0.4", "fixed:radius=0.4")
    }
    for label, image in made.items():
        assert not np.array_equal(image, base[0]), label
        assert label == "fixed" or not np.array_equal(image, made["fixed"]), label
    for label in ("base", "fixed"):
        assert np.abs(draw(studio, label, PROMPTS[1:2])[0] - draw(studio, label)[1]).max() <= 1  # alone or in a batch
    nothing = [EvalPrompt("fog")]  # a prompt without objects keeps the guidance
    assert np.array_equal(draw(studio, "per-step:guidance=2", nothing)[0], draw(studio, "base:guidance=2", nothing)[0])
    assert not np.array_equal(draw(studio, "per-step", nothing)[0], draw(studio, "base:guidance=2", nothing)[0])


# -------------------------------------------------------------------------------------------------- scripts


def test_the_script_makes_images_and_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = tiny_world.build(tmp_path)
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a cat to the left of a dog", "objects": ["cat", "dog"], "relations": [["cat", "left", "dog"]]}\n'
        '{"prompt": "a cat", "objects": ["cat"]}\n'
    )
    words = f"--prompts {tmp_path}/p.jsonl --outdir {tmp_path}/run --layout rule --steps 2 --device cpu".split()
    words += ["--config", world.config, "--ckpt", world.ckpt, "--clip", world.clip]
    words += ["--methods", "base,per-step,iccv-2023:rounds=1", "--H", 32, "--W", 64, "--precision", "full"]
    words += ["--plms", "--seed", 42, "--n_samples", 1, "--n_iter", 1, "--skip_grid"]  # published flags
    script = load_script("txt2img-gpt")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert script.main(list(map(str, words))) == 0
    assert "3 images made, 0 there before" in capsys.readouterr().out
    assert "--skip_grid, --n_iter: of the published flags, without effect here." in caplog.messages
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert script.main(list(map(str, words))) == 0
    assert "3 images made, 3 there before" in capsys.readouterr().out
    run = read_run(tmp_path / "run")
    assert run.methods == ["base", "per-step", "iccv-2023:rounds=1"] and len(run.entries) == 6
    by_method = {entry.method: run.details(entry) for entry in run.entries if entry.number == 0}
    with Image.open(run.image(next(iter(run.entries)))) as image:
        assert image.size == (64, 32)
    assert by_method["base"]["losses"] == {} and by_method["base"]["radius"] is None
    assert len(by_method["per-step"]["weights"]) == 2 and len(by_method["per-step"]["weights"][0]) == 2
    assert set(by_method["iccv-2023:rounds=1"]["losses"]) >= {"global", "local"}


def test_an_interrupt_says_that_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: Any, prompts: Any, shard: Shard) -> Summary:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "make_shard", interrupt)
    (tmp_path / "p.txt").write_text("a cat above a dog")
    assert load_script("txt2img-gpt").main(["--prompts", str(tmp_path / "p.txt")]) == 130
    assert capsys.readouterr().err.strip().endswith("The same command goes on where it stopped.")


@pytest.mark.parametrize("name", ["txt2img-gpt", "txt2img-mscoco", "txt2img-vsr"])
def test_mistakes_end_with_one_sentence(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "p.txt"
    assert "--prompts" in refusal(capfd, name)
    assert "cannot be read" in refusal(capfd, name, "--prompts", prompts)
    prompts.write_text("Objects: cat\nSentence: A cat\nAnswer: yes\n")
    assert "line 3" in refusal(capfd, name, "--prompts", prompts)
    prompts.write_text("Objects: cat\nSentence: A cat\n")
    for words, complaint in (
        (["--methods", "magic"], "no method 'magic'"),
        (["--from", "1"], "the file has 1"),
        (["--steps", "0"], "--steps: must be"),
        (["--batch-size", "0"], "--n_samples: must be"),
        (["--seeds", "-1"], "--seeds"),
        (["--shard", "2"], "rank/count"),
        (["--ray", "0"], "--ray"),
        (["--clip", tmp_path / "nowhere"], "is not a file"),
    ):
        assert complaint in refusal(capfd, name, "--prompts", prompts, "--outdir", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()
