"""Training of the embedded policy on the expert's demonstrations, from seeds, on a few CPU cores.

Each process runs one thread (two threads of one process wait for each other whenever anything else runs) and averages
its gradients with the others through gloo. What was tried and what came of it: docs/training.md.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import mse_loss
from transformers import PI0ForConditionalGeneration
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, apply_rotary_pos_emb

from vlaq_ros.control.kinematics import Kinematics
from vlaq_ros.control.motion import motion_scales
from vlaq_ros.datatypes import ActionSpace, FloatArray
from vlaq_ros.errors import OutputExistsError, VlaqError
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.description import CONFIG_FILE
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import build_tokenizer, longest_text
from vlaq_ros.sim import demonstrations, network, panda
from vlaq_ros.sim.frames import HELD_OUT, Batch, Frames
from vlaq_ros.sim.guidance import Guidance
from vlaq_ros.sim.prefix import Prefix, remember
from vlaq_ros.sim.scene import CAMERAS, TASKS

DRAWS = 4  # flow times per frame: they share the prefix, which costs most
MOTION_PERIOD_S = 0.1  # of the kinematic monitor: long enough that encoder noise does not reach S
FINE_THRESHOLD = 0.5  # of S, until it is measured on the policy's own motion
REPORT_EVERY = 50
CHECKPOINT_EVERY = 200
LOG_FILE = "log.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"  # of the run: beside the policy, what an interrupted run goes on with


class NoDemonstrationsError(VlaqError):
    """There is nothing to train on."""

    def __init__(self, shard: Path) -> None:
        super().__init__(f"demonstrations {str(shard)!r} are missing; record them: vlaq train does so by itself")


class TooFewDemonstrationsError(VlaqError):
    """Training needs frames to learn from, and frames of other episodes to be judged on."""

    def __init__(self, training: int, held_out: int) -> None:
        super().__init__(
            f"the demonstrations have {training} frames to train on and {held_out} frames of held-out episodes "
            f"(1 in {HELD_OUT}), expected some of each; give more --episodes"
        )


class OtherRunError(VlaqError):
    """A run of another recipe would be overwritten."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{str(directory)!r} holds a run of another recipe; give the same arguments as then, or another --out"
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the result of a training run."""

    action_space: ActionSpace = ActionSpace.JOINT
    episodes: int = 1400
    init: Path | None = None  # a checkpoint to begin from, in place of a fresh network
    vision_steps: int = 300  # first, the vision tower alone learns where objects are
    steps: int = 1500
    batch: int = 64  # of all processes together
    learning_rate: float = 1e-3
    processes: int = 2
    seed: int = 0

    @property
    def identity(self) -> str:
        """What a resumed run must have in common with its beginning: weights to begin from count, not their place."""
        init = None if self.init is None else Checkpoint.open(self.init).sha256
        return json.dumps(asdict(replace(self, init=None)) | {"init": init})


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of the log: means of the losses since the last one, and what held-out frames say.

    The errors are of what the state token knows; in the vision stage it is not yet taught, and they are None.
    """

    step: int
    steps: int
    losses: dict[str, float]
    object_error_m: float | None  # of the way from the tool to the object to take
    destination_error_m: float | None  # and to the cube below, or the bin or socket
    turn_error_rad: float | None
    frames_per_s: float
    seconds: float


def _losses(
    policy: PI0ForConditionalGeneration,
    guidance: Guidance,
    batch: Batch,
    generator: torch.Generator,
    *,
    vision_only: bool,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Every loss of a batch and, where it is taught, the errors [3] that the state token makes (`Guidance.expert`)."""
    cameras = torch.ones(batch.images.shape[:2], dtype=torch.bool)
    prompt = policy.model.embed_prefix(batch.prompts, batch.images, cameras)
    losses = {"vision": guidance.vision(prompt[:, : len(CAMERAS) * network.GRID**2], batch.labels)}
    if vision_only:
        return losses, None

    prefix = Prefix()
    layer_inputs = remember(policy.model.vlm.language_model, prompt, prefix)
    losses["language"] = guidance.language(layer_inputs, batch.labels)

    size, steps, columns = batch.actions.shape
    uniform = (torch.arange(DRAWS) + torch.rand(size, DRAWS, generator=generator)) / DRAWS
    flow_time = (0.001 + 0.999 * uniform ** (1 / 1.5)).flatten()  # Beta(1.5, 1), as in pi0
    noise = torch.randn(size * DRAWS, steps, columns, generator=generator)
    actions = batch.actions.repeat_interleave(DRAWS, 0)
    mixed = flow_time[:, None, None] * noise + (1 - flow_time[:, None, None]) * actions
    # One state token, then the draws side by side: each sees the prefix, the state and itself.
    embedded = policy.embed_action_time(batch.state.repeat_interleave(DRAWS, 0), mixed, flow_time)
    suffix = torch.cat([embedded[::DRAWS, :1], embedded[:, 1:].reshape(size, DRAWS * steps, -1)], 1)
    output, looks = _expert(policy, prefix, suffix, steps)
    losses["flow"] = mse_loss(policy.action_out_proj(output[:, 1:]).reshape(noise.shape), noise - actions)
    losses["expert"], errors = guidance.expert(output[:, 0], looks, batch.labels)
    return losses, errors


def _expert(
    policy: PI0ForConditionalGeneration, prefix: Prefix, hidden: Tensor, steps: int
) -> tuple[Tensor, list[Tensor]]:
    """Run the expert over state and draws [B, 1 + DRAWS * T, D]: its output and, per layer, what the state looks at."""
    expert = policy.model.dit
    length = prefix.layers[0][0].shape[2]
    positions = torch.cat([torch.zeros(1), 1 + torch.arange(steps).repeat(DRAWS)]).long() + length
    rotary = expert.rotary_emb(hidden, positions[None])
    block = torch.cat([torch.zeros(1), 1 + torch.arange(DRAWS).repeat_interleave(steps)])
    own = (block[:, None] == block) | (block == 0)
    mask = torch.cat([torch.ones(len(block), length, dtype=torch.bool), own], 1)[None, None]
    looks = []
    for index, layer in enumerate(expert.layers):
        looks.append(_look(layer, hidden[:, :1], rotary, prefix.layers[index][0]))
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, past_key_values=prefix)
    return expert.norm(hidden), looks


def _look(layer: GemmaDecoderLayer, state: Tensor, rotary: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
    """Attention logits [B, H, P] of the state token [B, 1, D] over the prefix's keys [B, kv heads, P, head size]."""
    attention = layer.self_attn
    query = attention.q_proj(layer.input_layernorm(state)).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    query, _ = apply_rotary_pos_emb(query, query, *(part[:, :1] for part in rotary))
    keys = keys.repeat_interleave(query.shape[1] // keys.shape[1], 1)
    logits: Tensor = (query @ keys.transpose(2, 3))[:, :, 0] * attention.scaling
    return logits


def spec_of(frames: dict[str, np.ndarray], episodes: list[FloatArray], recipe: Recipe, text_length: int) -> PolicySpec:
    """Statistics of the demonstrations, and what else a checkpoint says of itself."""
    state, actions = frames["state"].astype(np.float64), frames[recipe.action_space.value].astype(np.float64)
    kinematics = Kinematics(panda.urdf(), panda.JOINT_NAMES, panda.TOOL_FRAME)
    return PolicySpec(
        family="pi0",
        cameras=CAMERAS,
        image_size_px=network.IMAGE_PX,
        joint_names=panda.JOINT_NAMES,
        action_space=recipe.action_space,
        step_s=demonstrations.STEP_S,
        denoising_steps=network.DENOISING_STEPS,
        text_length=text_length,
        instructions=tuple(TASKS),
        state_mean=state.mean(0),
        state_std=state.std(0) + 1e-3,
        action_mean=actions.mean(0),
        action_std=actions.std(0) + 1e-3,
        motion=motion_scales(kinematics, episodes, demonstrations.STEP_S, MOTION_PERIOD_S),
        fine_threshold=FINE_THRESHOLD,
    )


def check(out: Path, recipe: Recipe) -> None:
    """Find out whether a run can be, before hours go into its demonstrations.

    Raises:
        OutputExistsError: `out` is a file, or holds a model that is no run's.
        OtherRunError: `out` holds a run of another recipe.
        ModelNotFoundError, FormatVersionError, UnknownKeyError, CorruptModelError: `recipe.init` is no checkpoint.
    """
    for path in (out, *out.parents):
        if path.is_file():
            raise OutputExistsError(path)
    identity = recipe.identity
    if (out / CHECKPOINT_FILE).is_file():
        if torch.load(out / CHECKPOINT_FILE, weights_only=True, mmap=True)["recipe"] != identity:
            raise OtherRunError(out)
    elif (out / CONFIG_FILE).is_file():
        raise OutputExistsError(out)


def train(demos: Path, out: Path, recipe: Recipe, report: Callable[[Progress], None]) -> None:
    """Train and leave a checkpoint in `out`; an interrupted run with the same recipe goes on where it saved itself.

    Raises:
        NoDemonstrationsError: `demos` lacks a shard of the recipe's episodes.
        TooFewDemonstrationsError: they leave nothing to train on, or nothing to be judged on.
        OtherNetworkError: `recipe.init` is of another network.
        VlaqError: what `check` finds.
    """
    check(out, recipe)
    shards = demonstrations.plan(demos, recipe.episodes)
    if missing := [path for path in shards if not path.is_file()]:
        raise NoDemonstrationsError(missing[0])
    frames = _frames(shards, recipe)
    if not (len(frames.training) and len(frames.held_out)):
        raise TooFewDemonstrationsError(len(frames.training), len(frames.held_out))
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 20000))
    # The frames' tensors go into shared memory: they are many, and no process changes them.
    workers = spawn(_work, (frames, out, recipe, None), recipe.processes - 1, join=False)
    try:
        _work(-1, frames, out, recipe, report)
    finally:
        workers.join(timeout=1)
        for process in workers.processes:
            process.terminate()


def _frames(shards: Iterable[Path], recipe: Recipe) -> Frames:
    """Read shards; what they hold beside the frames is not kept."""
    raw, episodes = demonstrations.load(shards)
    tokenizer = build_tokenizer(TASKS)
    return Frames(raw, spec_of(raw, episodes, recipe, longest_text(tokenizer, TASKS)), tokenizer)


def _work(index: int, frames: Frames, out: Path, recipe: Recipe, report: Callable[[Progress], None] | None) -> None:
    """One process: rank 0 (the caller's own) reports, saves the run and exports the policy."""
    rank = index + 1
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=recipe.processes)
    try:
        _Run(frames, out, recipe, rank).go(report)
    finally:
        distributed.destroy_process_group()


class _Run:
    def __init__(self, frames: Frames, out: Path, recipe: Recipe, rank: int) -> None:
        self._frames, self._out, self._recipe, self._rank = frames, out, recipe, rank
        self._identity = recipe.identity
        self._tokenizer = build_tokenizer(TASKS)
        torch.manual_seed(recipe.seed)
        self._policy = network.build(self._tokenizer, len(frames.spec.joint_names), frames.spec.action_mean.shape[1])
        if recipe.init is not None:
            network.adopt(self._policy, self._tokenizer, Checkpoint.open(recipe.init))
        self._guidance = Guidance()
        self._parameters = [*self._policy.parameters(), *self._guidance.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._parameters, recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
        )
        self._step = 0
        self._checkpoint = out / CHECKPOINT_FILE
        if self._checkpoint.is_file():
            saved = torch.load(self._checkpoint, weights_only=True)
            self._policy.load_state_dict(saved["policy"])
            self._guidance.load_state_dict(saved["guidance"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._step = saved["step"]

    def go(self, report: Callable[[Progress], None] | None) -> None:
        recipe, total = self._recipe, self._recipe.vision_steps + self._recipe.steps
        if self._rank == 0:
            self._cut_log()
        start = since = time.monotonic()
        losses: list[dict[str, float]] = []  # since the last report
        while self._step < total:
            generator = torch.Generator().manual_seed(hash((recipe.seed, self._rank, self._step)) % 2**63)
            rows = self._frames.draw(recipe.batch // recipe.processes, generator)
            batch = self._frames.batch(rows, generator)
            found, _ = _losses(
                self._policy, self._guidance, batch, generator, vision_only=self._step < recipe.vision_steps
            )
            self._update(torch.stack(list(found.values())).sum())
            losses.append({name: loss.item() for name, loss in found.items()})
            self._step += 1
            if self._step % REPORT_EVERY == 0 and report is not None:
                now = time.monotonic()
                object_m, destination_m, turn_rad = self._held_out_errors()
                progress = Progress(
                    step=self._step,
                    steps=total,
                    losses=_means(losses),
                    object_error_m=object_m,
                    destination_error_m=destination_m,
                    turn_error_rad=turn_rad,
                    frames_per_s=len(losses) * recipe.batch / (now - since),
                    seconds=now - start,
                )
                with (self._out / LOG_FILE).open("a", encoding="utf-8") as log:
                    log.write(json.dumps(asdict(progress), allow_nan=False) + "\n")
                report(progress)
                losses, since = [], time.monotonic()
            if self._rank == 0 and (self._step % CHECKPOINT_EVERY == 0 or self._step == total):
                self._save()

    def _update(self, loss: Tensor) -> None:
        """One AdamW step on the mean gradient of all processes: linear warm-up, then a cosine per stage."""
        recipe = self._recipe
        vision = self._step < recipe.vision_steps
        done, length = (self._step, recipe.vision_steps) if vision else (self._step - recipe.vision_steps, recipe.steps)
        rate = recipe.learning_rate * min(1.0, (done + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done / length))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        used = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in used])
        distributed.all_reduce(flat)
        flat /= recipe.processes
        flat *= min(1.0, 1.0 / (flat.norm().item() + 1e-6))
        for gradient, part in zip(used, flat.split([gradient.numel() for gradient in used]), strict=True):
            gradient.copy_(part.view_as(gradient))
        self._optimizer.step()

    def _cut_log(self) -> None:
        """Forget the lines of steps that were lost with an interrupted run: they come again."""
        log = self._out / LOG_FILE
        if log.is_file():
            lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= self._step]
            if kept != lines:
                log.write_text("".join(kept), encoding="utf-8")

    @torch.no_grad()
    def _held_out_errors(self) -> tuple[float, float, float] | tuple[None, None, None]:
        rows = self._frames.held_out[:: max(1, len(self._frames.held_out) // 128)]
        _, errors = _losses(
            self._policy,
            self._guidance,
            self._frames.batch(rows, None),
            torch.Generator().manual_seed(0),
            vision_only=self._step <= self._recipe.vision_steps,
        )
        if errors is None:
            return None, None, None
        object_m, destination_m, turn_rad = errors.tolist()
        return object_m, destination_m, turn_rad

    def _save(self) -> None:
        """Save the run, and the policy as a checkpoint that can already be tried."""
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "recipe": self._identity,
                "policy": self._policy.state_dict(),
                "guidance": self._guidance.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self._step,
            },
            partial,
        )
        partial.rename(self._checkpoint)
        halves = {name: value.half() for name, value in self._policy.state_dict().items()}
        with network.quiet():
            self._policy.save_pretrained(self._out, state_dict=halves)
        self._tokenizer.save_pretrained(self._out)
        self._frames.spec.save(self._out)


def _means(losses: list[dict[str, float]]) -> dict[str, float]:
    """Every loss's mean over the steps that had it."""
    names = {name: None for step in losses for name in step}
    return {name: float(np.mean([step[name] for step in losses if name in step])) for name in names}
